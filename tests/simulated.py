"""For tests of the simulator's verdict: a fleet that is not connected, and an operator's view of a server, by hand."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from twisted.internet.task import Clock

from devconf.simulator.application import Held, canonical
from devconf.simulator.fleet import SimulatedDevice, Simulator, Status
from devconf.simulator.plan import Manners

Json = dict[str, Any]

ALGOS = [{"algo_id": "face", "enabled": True, "params": {}}]


def fleet(count: int = 1, manners: Manners | None = None, clock: Clock | None = None) -> Simulator:
    """Devices ``ref-0`` and so on, all of which are in and hold nothing."""
    keys = [(f"ref-{number}", "key") for number in range(count)]
    simulator = Simulator(clock or Clock(), "http://127.0.0.1:1", keys, manners=manners)
    for device in simulator.devices.values():
        device.came_in(0.0)
        device.status = Status.IN
    return simulator


def unids(simulator: Simulator) -> dict[str, str]:
    return {dev_refid: dev_refid.replace("ref", "dev") for dev_refid in simulator.devices}


def picture(rev: int = 1, name: str = "gate", **changes: Any) -> Held:
    return Held(rev, **{"task_type": "pic", "name": name, "algo_comb": canonical(ALGOS), "store_conf": None,
                        "vchan": None, **changes})  # fmt: skip


def give(device: SimulatedDevice, task_id: str, held: Held, subtask_id: str | None = None) -> None:
    device.application.tasks[task_id, subtask_id] = held


class Server:
    """What an operator is told, page by page; each item is made by hand.

    :ivar asked: the commands and params that came.
    """

    def __init__(self, page: int = 2) -> None:
        self._page = page
        self.devices: list[Json] = []
        self.tasks: list[Json] = []
        self.subtasks: list[Json] = []
        self.store_confs: list[Json] = []
        self.commands: list[Json] = []
        self.asked: list[tuple[str, Json]] = []

    def add_device(self, dev_unid: str = "dev-0", *, online: bool = True, pending: int = 0, refused: int = 0) -> Json:
        self.devices.append({"dev_unid": dev_unid, "online": online, "pending": pending, "refused": refused})
        return self.devices[-1]

    def add_task(self, task_id: str, *dev_unids: str, **changes: Any) -> Json:
        task = {
            "task_id": task_id,
            "name": "gate",
            "task_type": "pic",
            "rev": 1,
            "algo_comb": ALGOS,
            "store_conf_unid": None,
            "dev_unids": list(dev_unids),
            "state": "confirmed",
        }
        self.tasks.append({**task, **changes})
        return self.tasks[-1]

    def add_subtask(self, subtask_id: str, task_id: str, dev_unid: str, state: str = "confirmed") -> Json:
        subtask = {"subtask_id": subtask_id, "task_id": task_id, "dev_unid": dev_unid, "rev": 3, "state": state}
        self.subtasks.append({**subtask, "vchan": {"channel": 1}})
        return self.subtasks[-1]

    def add_conf(self, unid: str, content: bytes) -> Json:
        conf = {"unid": unid, "name": "disk", "file_ext": "xml", "file_b64": b64encode(content).decode()}
        self.store_confs.append(conf)
        return conf

    async def ask(self, command: str, params: Json) -> Json:
        self.asked.append((command, dict(params)))
        resource = command.removeprefix("get ")
        items = list(getattr(self, resource))
        for name in ("unid", "task_id"):
            if name in params:
                items = [item for item in items if item[name] == params[name]]
        start = int(params.get("after", 0))
        end = start + self._page
        return {"ecode": 0, resource: items[start:end], "next": str(end) if end < len(items) else None}
