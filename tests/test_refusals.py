"""What lists tell of refusals (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Any

from devconf.testing import MemoryDevice, MemoryServer
from tests.delivering import OLD, online, pic_task, stored


def item(server: MemoryServer, device: MemoryDevice) -> list[Any]:
    [found] = server.ask("get devices", {"dev_unid": device.dev_unid})["devices"]
    return list(found.get("refusals", []))


def replace(server: MemoryServer, task_id: str, *devices: MemoryDevice) -> None:
    """Give devices what stays wanted when they refuse it."""
    conf = {"name": "c", "file_ext": "bin", "file_b64": "MQ=="}
    unid = server.ask("post store_confs", conf)["unid"]
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    for device in devices:
        device.obey()
    server.call("put store_confs", {**conf, "unid": unid, "file_b64": "Mg=="})


def test_what_is_refused_and_why(server: MemoryServer) -> None:
    devices = [online(server, name) for name in ("a", "b", "c")]
    task_id = pic_task(server, *devices)
    replace(server, task_id, *devices)
    devices[0].obey()
    assert "refusals" not in stored(server, task_id)
    told = []
    for number, device in enumerate(devices[1:], 1):
        device.refuse(number, f"no {number}")
        told.append({"dev_unid": device.dev_unid, "task_id": task_id, "ecode": number, "enote": f"no {number}"})
    listed = stored(server, task_id)
    assert listed["state"] == "refused"
    assert sorted(listed["refusals"], key=lambda each: each["ecode"]) == told
    assert [item(server, device) for device in devices] == [[], [told[0]], [told[1]]]


def test_subtasks_are_named_and_the_first_three_are_told(server: MemoryServer) -> None:
    device = online(server, "a")
    task = {"name": "gate", "task_type": "video", "algo_comb": OLD}
    task_id = server.ask("post tasks", task)["task_id"]
    subtasks = []
    for _ in range(5):
        made = server.call("post subtasks", {"task_id": task_id, "dev_unid": device.dev_unid})
        device.obey()
        subtasks.append(server.result(made)["subtask_id"])
    replace(server, task_id, device)
    while device.inbox:
        device.refuse()
    told = [
        {"dev_unid": device.dev_unid, "task_id": task_id, "subtask_id": subtask_id, "ecode": 7, "enote": "no"}
        for subtask_id in sorted(subtasks)[:3]
    ]
    assert stored(server, task_id)["refusals"] == told == item(server, device)
