"""What the tests of the delivery machine share: devices, tasks, and what to look at."""

from __future__ import annotations

from typing import Any

from devconf.testing import MemoryDevice, MemoryServer

OLD = [{"algo_id": "old", "enabled": True, "params": {}}]
NEW = [{"algo_id": "new", "enabled": True, "params": {}}]
WAIT = 10.1  # device_timeout, and a little for the length of the message


def online(server: MemoryServer, name: str) -> MemoryDevice:
    device = server.enrol(name)
    device.connect()
    return device


def pic_task(server: MemoryServer, *devices: MemoryDevice) -> str:
    """A picture task that all ``devices`` have."""
    response = server.call(
        "post tasks",
        {
            "name": "gate",
            "task_type": "pic",
            "algo_comb": OLD,
            "dev_unids": [device.dev_unid for device in devices],
        },
    )
    for device in devices:
        device.obey()
    return str(server.result(response)["task_id"])


def configure(server: MemoryServer, task_id: str, **more: Any) -> Any:
    return server.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW, **more})


def states(response: dict[str, Any]) -> list[tuple[str, int]]:
    return [(item["state"], item["ecode"]) for item in response["devices"]]


def algos(device: MemoryDevice, task_id: str) -> Any:
    return device.held[(task_id, "")]["algo_comb"]


def stored(server: MemoryServer, task_id: str) -> dict[str, Any]:
    [task] = server.ask("get tasks", {"task_id": task_id})["tasks"]
    return dict(task)
