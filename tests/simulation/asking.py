"""What clients ask for: every command that goes down to devices, and others, with params right and wrong.

A request is made of numbers, and of what its client can know by then: the numbers stand in the history of a run, so
that a step means nearly the same when others are left out.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

from attrs import define

from tests.simulation.ledger import Ledger

#: A request without its number: command, params, and whether it cannot succeed.
Made = tuple[str, dict[str, Any], bool]

#: Numbers that a step has.
NUMBERS = 6


@define
class Draw:
    """Numbers to choose by, one after the other."""

    _numbers: tuple[int, ...]
    _next: int = 0

    def number(self) -> int:
        """Return the next number."""
        self._next += 1
        return self._numbers[(self._next - 1) % len(self._numbers)] + self._next // len(self._numbers)

    def chance(self, percent: int) -> bool:
        """Return whether a thing of so many per cent happens."""
        return self.number() % 100 < percent

    def one(self, values: list[Any]) -> Any:
        """Return one of ``values``; None if there are none."""
        return values[self.number() % len(values)] if values else None


@define
class Asking:
    """Makes requests.

    :ivar devices: the ``dev_unid`` of each device that there is, also of one that never connects.
    """

    ledger: Ledger
    devices: list[str]

    def make(self, kind: str, number: int, draw: Draw) -> Made:
        """Return the request ``number`` of ``kind``, a key of :data:`KINDS`."""
        command, params, wrong = KINDS[kind](self, number, draw)
        if kind in WAITING and draw.chance(12):
            params["connect_wait"] = draw.one([0.5, 3.0, 12.0])
        return command, params, wrong

    # -- parts

    def _comb(self, number: int) -> list[dict[str, Any]]:
        return [{"algo_id": f"algo {number}", "params": {"n": number}}, {"algo_id": "b", "enabled": False}]

    def _content(self, number: int, draw: Draw) -> dict[str, Any]:
        size = draw.one([0, 0, 3000, 9000])
        content, ext = draw.one(
            [
                (f'{{"n": {number}}}', "json"),
                (f"<n>{number}</n>", "xml"),
                (f"{number} " + "x" * size, "bin"),
                (f"{number} " + "x" * size, "bin"),
            ]
        )
        return {"name": f"conf {number}", "file_ext": ext, "file_b64": b64encode(content.encode()).decode()}

    def _some(self, draw: Draw) -> list[str]:
        bits = draw.number()
        # The last device never connects: not every task is to have it.
        usual = [unid for place, unid in enumerate(self.devices[:-1]) if bits >> place & 1] or self.devices[:1]
        return [*usual, *(self.devices[-1:] if bits % 11 == 0 else [])]

    def _task(self, draw: Draw, kind: str = "") -> str:
        return str(draw.one(self.ledger.task_ids(kind)[-3:]) or "0" * 32)

    # -- tasks

    def post_pic(self, number: int, draw: Draw) -> Made:
        """A picture task."""
        params: dict[str, Any] = {"name": f"task {number}", "task_type": "pic", "dev_unids": self._some(draw)}
        if draw.chance(85):
            params["algo_comb"] = self._comb(number)
        return "post tasks", params | self._maybe_conf(draw), False

    def post_video(self, number: int, draw: Draw) -> Made:
        """A video task."""
        params = {"name": f"task {number}", "task_type": "video", "algo_comb": self._comb(number)}
        return "post tasks", params | self._maybe_conf(draw), False

    def _maybe_conf(self, draw: Draw) -> dict[str, Any]:
        unid = draw.one(self.ledger.conf_unids())
        return {"store_conf_unid": unid} if unid and draw.chance(60) else {}

    def put_task(self, number: int, draw: Draw) -> Made:
        """Name, storage configuration, devices."""
        params: dict[str, Any] = {"task_id": self._task(draw, "pic" if draw.chance(70) else "")}
        if draw.chance(60):
            params["name"] = f"task {number}"
        if draw.chance(40):
            params["store_conf_unid"] = draw.one([*self.ledger.conf_unids(), None])
        pic = self.ledger.kind_of(params["task_id"]) == "pic"
        if (pic and draw.chance(50)) or len(params) == 1:
            params["dev_unids"] = self._some(draw)
        return "put tasks", params, not pic and "dev_unids" in params

    def pic_task_config(self, number: int, draw: Draw) -> Made:
        """Another ``algo_comb``."""
        params = {"task_id": self._task(draw, "pic"), "algo_comb": self._comb(number)}
        return "post tasks/pic_task_config", params | ({"force": True} if draw.chance(25) else {}), False

    def delete_task(self, _number: int, draw: Draw) -> Made:
        """Delete a task."""
        return "delete tasks", {"task_id": self._task(draw), "force": draw.chance(30)}, False

    def post_subtask(self, number: int, draw: Draw) -> Made:
        """A subtask on a device."""
        unid = draw.one(self.devices[:-1] * 4 + self.devices[-1:])
        params = {"task_id": self._task(draw, "video"), "dev_unid": unid, "vchan": {"n": number}}
        return "post subtasks", params, False

    def delete_subtask(self, _number: int, draw: Draw) -> Made:
        """Delete a subtask."""
        subtask_id = draw.one(self.ledger.subtask_ids()) or "0" * 32
        return "delete subtasks", {"subtask_id": subtask_id, "force": draw.chance(30)}, False

    # -- storage configurations

    def post_conf(self, number: int, draw: Draw) -> Made:
        """A new one."""
        return "post store_confs", self._content(number, draw), False

    def put_conf(self, number: int, draw: Draw) -> Made:
        """Replace one on all devices that use it."""
        unid = draw.one(self.ledger.conf_unids()[-2:]) or "0" * 32
        content = self.ledger.content_of(unid) if draw.chance(25) else None
        return "put store_confs", {"unid": unid, **(content or self._content(number, draw))}, False

    def delete_conf(self, _number: int, draw: Draw) -> Made:
        """Delete one."""
        return "delete store_confs", {"unid": draw.one(self.ledger.conf_unids()) or "0" * 32}, False

    # -- devices

    def call(self, number: int, draw: Draw) -> Made:
        """Pass a request through."""
        params = {"dev_unid": draw.one(self.devices), "command": "get /wsapi/v1/ops/x", "params": {"n": number}}
        return "post devices/call", params | ({"timeout": 3.5} if draw.chance(50) else {}), False

    def resync(self, _number: int, draw: Draw) -> Made:
        """Send a device everything again."""
        return "post devices/resync", {"dev_unid": draw.one(self.devices)}, False

    def rename(self, number: int, draw: Draw) -> Made:
        """Change a device's name."""
        return "put devices", {"dev_unid": draw.one(self.devices), "dev_name": f"device {number}"}, False

    def disable(self, _number: int, draw: Draw) -> Made:
        """Disable a device, or enable it again."""
        return "put devices", {"dev_unid": draw.one(self.devices), "enabled": draw.chance(50)}, False

    # -- reading, and what cannot be done

    def read(self, _number: int, draw: Draw) -> Made:
        """Any of the lists."""
        command = draw.one(["get tasks", "get subtasks", "get store_confs", "get devices", "get commands"])
        return command, {"limit": draw.number() % 50 + 1}, False

    def subscribe(self, _number: int, draw: Draw) -> Made:
        """Hear of events, or no longer."""
        topics = draw.one([["devices"], ["deliveries", "commands"], ["commands", "devices", "deliveries"]])
        return draw.one(["post subscriptions", "post subscriptions", "delete subscriptions"]), {"topics": topics}, False

    def wrong(self, number: int, draw: Draw) -> Made:
        """One of the others, with something wrong in it."""
        command, params, _ = self.make(draw.one(list(_CHANGES)), number, draw)
        spoil = draw.number() % 4
        if spoil == 0:
            params = {**params, "surprise": number}
        elif spoil == 1:
            params = dict.fromkeys(params)
        elif spoil == 2:
            params = {name: [7] for name in params}
        else:
            command = command.replace(" ", " no/", 1)
        return command, params, True


_CHANGES: dict[str, Callable[[Asking, int, Draw], Made]] = {
    "post_pic": Asking.post_pic,
    "post_video": Asking.post_video,
    "put_task": Asking.put_task,
    "pic_task_config": Asking.pic_task_config,
    "delete_task": Asking.delete_task,
    "post_subtask": Asking.post_subtask,
    "delete_subtask": Asking.delete_subtask,
    "post_conf": Asking.post_conf,
    "put_conf": Asking.put_conf,
    "delete_conf": Asking.delete_conf,
}

#: What may wait for devices to connect.
WAITING = (
    "post_pic",
    "put_task",
    "pic_task_config",
    "delete_task",
    "post_subtask",
    "delete_subtask",
    "put_conf",
    "call",
)

#: Everything that a client may ask for.
KINDS: dict[str, Callable[[Asking, int, Draw], Made]] = {
    **_CHANGES,
    "call": Asking.call,
    "resync": Asking.resync,
    "rename": Asking.rename,
    "disable": Asking.disable,
    "read": Asking.read,
    "subscribe": Asking.subscribe,
    "wrong": Asking.wrong,
}
