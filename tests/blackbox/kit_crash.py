"""Killing a server at a failpoint, many commands in a row, and comparing what devices hold with what is stored.

A *cell* is one command at one failpoint, with two devices of its own. All cells of a failpoint are prepared by a
server without it. Then, for each, a server with the failpoint starts (which settles what the cell before has left),
its two devices connect, the command is sent and the server dies. Where sending or answers pass the failpoint, it dies
once more while all devices come back. At last a server without the failpoint starts, and everything is compared.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Protocol

from kit import Behaviour, Client, Device, Json, World, eventually
from websockets.exceptions import WebSocketException

#: Seconds that devices have to be in step again after they came back.
IN_STEP = 15.0

Look = Callable[[World], Any]


@dataclass
class Cell:
    """A command that is killed.

    `look` is what is stored of the thing it changes; `old` and `new` what that is if it never was, and if it was.
    """

    name: str
    devices: tuple[Device, Device]
    command: str
    params: Json
    look: Look
    old: Any
    new: Any
    labels: tuple[str, str]  # of old and new
    lives: bool = False  # the command never passes the failpoint
    ends: tuple[str, str | None] | None = None  # what a delete takes from devices
    fault: tuple[Behaviour, str] | None = None  # how the second device takes this verb, once
    refuses: bool = False

    died: bool = False
    answer: Json | None = None
    rows: list[Json] = field(default_factory=list)  # what the crash left of it in `commands`
    total: int = 0  # orders that it was about
    confirmed: int = 0  # of them those answered 0 in writing when it died
    refused: int = 0
    found: str = "?"
    ecode: int | None = None  # how the command was settled
    problems: list[str] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """It had been settled when the server died."""
        return bool(self.rows) and all(row["settled_at"] is not None for row in self.rows)


@contextmanager
def read(world: World) -> Iterator[sqlite3.Connection]:
    """The database, to be looked at only."""
    uri = f"{world.server.database.as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=20)) as database:
        database.row_factory = sqlite3.Row
        yield database


def command_rows(world: World, after: int) -> list[Json]:
    with read(world) as database:
        return [dict(row) for row in database.execute("SELECT * FROM commands WHERE seq > ? ORDER BY seq", (after,))]


def last_command(world: World) -> int:
    with read(world) as database:
        return int(database.execute("SELECT coalesce(max(seq), 0) FROM commands").fetchone()[0])


def unsettled(world: World) -> list[Json]:
    """Rows of `commands` that are not settled, or still keep what they needed to be undone."""
    with read(world) as database:
        return [
            dict(row)
            for row in database.execute(
                "SELECT seq, command, params FROM commands WHERE settled_at IS NULL OR ecode IS NULL"
                " OR plan IS NOT NULL OR rule IS NOT NULL OR algo_comb IS NOT NULL"
            )
        ]


def kill(world: World, failpoint: str, cell: Cell) -> None:
    """Send the cell's command to a server that dies at the failpoint, which is armed; note what it left."""
    if not world.server.alive:
        world.server.start()
    for device in cell.devices:
        device.connect()
        device.barrier()  # by then the server has it among those online
    if cell.fault is not None:
        behaviour, verb = cell.fault
        cell.devices[1].behave(behaviour, verb=verb, times=1)
    before = last_command(world)
    client = Client(world.http, world.admin.login, "header")
    try:
        req_id = client.send(cell.command, cell.params)
        if cell.lives:
            cell.answer = client.answer(req_id)
            wait_idle(cell)
        else:
            eventually(lambda: not world.server.alive, f"the server dies at {failpoint!r}")
            client.wait_closed()
            with client.changed:
                cell.answer = next((m for m in client.inbox if isinstance(m, dict) and m["req_id"] == req_id), None)
    finally:
        client.close()
        for device in cell.devices:
            device.disconnect()
            device.behave_normally()
    cell.died = not world.server.alive
    if cell.died and world.server.returncode != -signal.SIGKILL:
        cell.problems.append(f"the server did not die of SIGKILL, but with {world.server.returncode}")
    note_left(world, cell, before)


def wait_idle(cell: Cell) -> None:
    """Wait until the devices have done what they were told, and the server has written their answers."""
    for device in cell.devices:
        if cell.ends is not None:
            device.wait_for(lambda device=device: cell.ends not in device.held)  # type: ignore[misc]
        device.barrier()


def note_left(world: World, cell: Cell, before: int) -> None:
    cell.rows = command_rows(world, before)
    with read(world) as database:
        for row in cell.rows:
            for dev_unid, task_id, subtask_id, rev, _before in json.loads(row["plan"] or '{"targets": []}')["targets"]:
                cell.total += 1
                order = database.execute(
                    "SELECT acked_rev, ecode FROM orders WHERE dev_unid = ? AND task_id = ? AND subtask_id = ?",
                    (dev_unid, task_id, subtask_id),
                ).fetchone()
                if order is not None and order["acked_rev"] >= rev:
                    cell.confirmed += order["ecode"] == 0
                    cell.refused += order["ecode"] != 0


# -- afterwards


def kill_catching_up(world: World, cells: list[Cell]) -> None:
    """A server with the failpoint dies once more, when devices come back and are sent what they lack."""
    if not world.server.alive:
        world.server.start()
    try:
        for cell in cells:
            for device in cell.devices:
                with suppress(OSError, AssertionError, HTTPException, WebSocketException):
                    device.connect()
        eventually(lambda: not world.server.alive, "the server dies while it catches up")
        assert world.server.returncode == -signal.SIGKILL
    finally:
        for cell in cells:
            for device in cell.devices:
                device.disconnect()


def reconnect(world: World, cells: list[Cell]) -> None:
    """Start a server without a failpoint; all devices come back and are waited for."""
    world.restart()
    for cell in cells:
        for device in cell.devices:
            device.connect()
    for cell in cells:
        for device in cell.devices:
            try:
                eventually(lambda device=device: in_step(world, device), "nothing is pending", IN_STEP)  # type: ignore[misc]
            except AssertionError:
                cell.problems.append(f"the device {device.dev_unid} is not in step: {world.device_item(device)}")
            device.barrier()


class Holder(Protocol):
    """A device, in whatever way it holds what it holds."""

    @property
    def dev_unid(self) -> str: ...
    @property
    def held(self) -> dict[tuple[str, str | None], Json]: ...
    @property
    def changed(self) -> threading.Condition: ...
    def request(self, command: str) -> Json: ...


def in_step(world: World, device: Device) -> bool:
    item = world.device_item(device)
    return bool(item["online"]) and item["pending"] == 0 and item["refused"] == 0


def compare(world: World, cell: Cell) -> None:
    """Note what became of the cell's command, and every difference between its devices and the store."""
    stored = cell.look(world)
    if stored == cell.new:
        cell.found = cell.labels[1]
    elif stored == cell.old:
        cell.found = cell.labels[0]
    else:
        cell.found = "neither"
        cell.problems.append(f"stored is {stored}, which is neither the old {cell.old} nor the new {cell.new}")
    for number, device in enumerate(cell.devices):
        # One that refused a rev holds the one before it, and has answered the newer.
        cell.problems += [f"device {number}: {problem}" for problem in differences(world, device)]
        if not in_step(world, device):
            cell.problems.append(f"device {number} is not in step: {world.device_item(device)}")
    with read(world) as database:
        for row in cell.rows:
            (now,) = database.execute("SELECT * FROM commands WHERE seq = ?", (row["seq"],)).fetchall()
            cell.ecode = now["ecode"]
            if row["settled_at"] is not None and dict(now) != row:
                cell.problems.append(f"it had been settled, and was changed: {row} -> {dict(now)}")


def differences(world: World, device: Holder) -> list[str]:
    """What the device holds, against what operators are shown, and against what the server tells the device."""
    problems = []
    with device.changed:
        held = {key: whole(task) for key, task in device.held.items()}
    shown = shown_of(world, device)
    told = {(item["task_id"], item.get("subtask_id")): item for item in device.request(GET_TASKS)["tasks"]}
    for what, wanted in (("operators are shown", shown), ("the server tells it", told)):
        if set(held) != set(wanted):
            problems.append(f"{what} {sorted(wanted, key=str)}, and it holds {sorted(held, key=str)}")
        for key in set(held) & set(wanted):
            should = wanted[key]
            has = {name: held[key].get(name) for name in should}
            more = set(held[key]) - set(should) - {"task_id", "subtask_id", "rev"}
            if has != should or more:
                problems.append(f"of {key} {what} {should}, and it holds {has}, and {more} besides")
    return problems


GET_TASKS = "get /wsapi/v1/devconf_fx/tasks"


def whole(task: Json) -> Json:
    """A task as a device holds it: what is null is not there."""
    return {name: value for name, value in task.items() if value is not None}


def shown_of(world: World, device: Holder) -> dict[tuple[str, str | None], Json]:
    """What a device should hold by `get tasks`, `get subtasks` and `get store_confs`."""
    found: dict[tuple[str, str | None], Json] = {}
    tasks = {task["task_id"]: task for task in world.every("tasks", dev_unid=device.dev_unid)}
    for task in tasks.values():
        if task["task_type"] == "pic":
            found[task["task_id"], None] = content_of(world, task)
    for item in world.every("subtasks", dev_unid=device.dev_unid):
        vchan = {} if item["vchan"] is None else {"vchan": item["vchan"]}
        task_id = item["task_id"]
        found[task_id, item["subtask_id"]] = content_of(world, tasks[task_id]) | vchan | {"rev": item["rev"]}
    return found


def content_of(world: World, task: Json) -> Json:
    content = {name: task[name] for name in ("task_type", "name", "algo_comb") if task[name] is not None}
    if task["store_conf_unid"] is not None:
        conf = world.conf(task["store_conf_unid"], content=True)
        content["store_conf"] = {name: conf[name] for name in ("unid", "name", "file_ext", "file_b64")}
    return content
