"""SIGKILL at every failpoint of every command that goes down to devices: afterwards devices hold what is stored.

The table of what was found is printed (`pytest -s`), or written to the file that DEVCONF_KILL_TABLE names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kit import Json, World, b64, combo, refuse, silent
from kit_crash import Cell, compare, in_step, kill, kill_catching_up, reconnect, unsettled

from devconf.failpoints import NAMES

# It waits long: nothing here is settled because somebody has waited long enough.
SERVER: dict[str, Any] = {"device_timeout": 30.0}

OLD, NEW = combo("a1", speed=1), combo("a2", speed=2)
OLD_BYTES, NEW_BYTES = bytes(range(256)), b'<?xml version="1.0"?><new/>'
REFUSED, SILENT = 1005020001, 1005040001

#: What devices that come back pass, too.
SENDING = ("before send", "answer received", "answer written")
UNANSWERED, SETTLED = ("after plan", "before send", "answer received"), ("after settle", "before answer")

#: What is done whatever devices say, once it is planned.
ANYHOW = (
    "post tasks",
    "put tasks",
    "put tasks, other devices",
    "delete tasks, force",
    "pic_task_config, force",
    "post subtasks",
    "delete subtasks, force",
    "put store_confs",
)
#: What is done if all devices confirm.
IF_ALL = ("delete tasks", "pic_task_config", "delete subtasks")
COMMANDS = (*ANYHOW, *IF_ALL, "devices/call")

#: Failpoints that a command never passes: it is done in its plan, or has neither plan nor settling.
NEVER = {
    "delete tasks, force": ("before settle", "after settle"),
    "delete subtasks, force": ("before settle", "after settle"),
    "devices/call": ("after plan", "answer written", "before settle", "after settle"),
}
#: A forced delete is answered while its devices are still being told.
ANSWERED_FIRST = {
    "delete tasks, force": SENDING,
    "delete subtasks, force": SENDING,
}

#: One device confirms; the other takes the change and is silent, or is silent, or refuses.
FAULTS = {"silent, took it": silent(takes=True), "silent": silent(), "refuses": refuse()}
VERBS = {"pic_task_config": "put", "delete tasks": "delete", "post tasks": "post", "put tasks": "put"}
FAULTY = {
    "answer written": [
        ("pic_task_config", "silent, took it"),
        ("pic_task_config", "silent"),
        ("pic_task_config", "refuses"),
        ("delete tasks", "silent, took it"),
        ("delete tasks", "silent"),
    ],
    "before settle": [(command, "refuses") for command in VERBS],
    "after settle": [(command, "refuses") for command in VERBS],
}
CELLS = [
    (failpoint, command, fault)
    for failpoint in NAMES
    for command, fault in [*((command, "") for command in COMMANDS), *FAULTY.get(failpoint, [])]
]
TABLE: dict[tuple[str, str], str] = {}


# -- preparing


def task_seen(world: World, task_id: str) -> Json | None:
    names = ("name", "task_type", "algo_comb", "store_conf_unid", "dev_unids", "subtask_count")
    return {name: world.task(task_id)[name] for name in names} if world.has_task(task_id) else None


def subtasks_seen(world: World, task_id: str) -> list[Json]:
    names = ("dev_unid", "vchan")
    return [{name: item[name] for name in names} for item in world.subtasks_of(task_id=task_id)]


class Case:
    """Two devices that have a picture task and a subtask each, with a storage configuration."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.a, self.b = world.device(keep=True), world.device(keep=True)
        self.unids = [self.a.dev_unid, self.b.dev_unid]
        self.conf = world.store_conf(OLD_BYTES, "old conf", "bin")
        self.other_conf = world.store_conf(b"other", "other conf", "txt")
        common = {"algo_comb": OLD, "store_conf_unid": self.conf}
        bound = (self.a,) if name == "put tasks, other devices" else (self.a, self.b)
        self.pic = world.pic_task(*bound, name="old name", **common)
        self.video = world.video_task(name="old video", **common)
        self.subtasks = [world.subtask(self.video, device, vchan={"url": "rtsp://c"}) for device in (self.a, self.b)]

    def cell(self, fault: str = "") -> Cell:
        maker = getattr(self, "_" + self.name.split(",")[0].replace(" ", "_").replace("/", "_"))
        cell: Cell = maker()
        if self.name.startswith("delete"):
            cell.ends = (self.pic, None) if "task_id" in cell.params else (self.video, self.subtasks[0])
        if ", force" in self.name:
            cell.params["force"] = True
        if fault:
            cell.fault, cell.refuses = (FAULTS[fault], VERBS[self.name]), fault == "refuses"
        return cell

    def _make(self, command: str, params: Json, look: Any, change: Any, labels: tuple[str, str]) -> Cell:
        old = look(self.world)
        new = change(old) if callable(change) else change
        return Cell(self.name, (self.a, self.b), command, params, look, old, new, labels)

    def _changed(self, command: str, params: Json, change: Json) -> Cell:
        return self._make(
            command, params, lambda world: task_seen(world, self.pic), lambda old: old | change, ("old", "new")
        )

    def _post_tasks(self) -> Cell:
        name = f"new {self.pic}"
        made: Json = {"name": name, "task_type": "pic", "algo_comb": NEW, "store_conf_unid": self.other_conf}
        made["dev_unids"] = self.unids

        def look(world: World) -> Json | None:
            ids = [task["task_id"] for task in world.tasks_of(self.b) if task["name"] == name]
            return task_seen(world, ids[0]) if ids else None

        return self._make("post tasks", made, look, made | {"subtask_count": 0}, ("gone", "kept"))

    def _put_tasks(self) -> Cell:
        change: Json = {"name": "new name", "store_conf_unid": self.other_conf}
        if self.name == "put tasks, other devices":
            change["dev_unids"] = [self.b.dev_unid]
        return self._changed("put tasks", {"task_id": self.pic} | change, change)

    def _delete_tasks(self) -> Cell:
        params = {"task_id": self.pic}
        return self._make("delete tasks", params, lambda world: task_seen(world, self.pic), None, ("kept", "gone"))

    def _pic_task_config(self) -> Cell:
        return self._changed("post tasks/pic_task_config", {"task_id": self.pic, "algo_comb": NEW}, {"algo_comb": NEW})

    def _post_subtasks(self) -> Cell:
        made = {"dev_unid": self.a.dev_unid, "vchan": {"url": "rtsp://new"}}
        return self._make(
            "post subtasks",
            {"task_id": self.video} | made,
            lambda world: subtasks_seen(world, self.video),
            lambda old: [*old, made],
            ("gone", "kept"),
        )

    def _delete_subtasks(self) -> Cell:
        return self._make(
            "delete subtasks",
            {"subtask_id": self.subtasks[0]},
            lambda world: subtasks_seen(world, self.video),
            lambda old: old[1:],
            ("kept", "gone"),
        )

    def _put_store_confs(self) -> Cell:
        change = {"name": "new conf", "file_ext": "xml", "file_b64": b64(NEW_BYTES)}

        def look(world: World) -> Json:
            conf = world.conf(self.conf, content=True)
            return {name: conf[name] for name in change}

        return self._make("put store_confs", {"unid": self.conf} | change, look, change, ("old", "new"))

    def _devices_call(self) -> Cell:
        params = {"dev_unid": self.a.dev_unid, "command": "get /wsapi/v1/box/state", "params": {"n": 1}}
        return self._make(
            "post devices/call",
            params,
            lambda world: task_seen(world, self.pic),
            lambda old: old,
            ("untouched", "untouched"),
        )


# -- the crashes, one failpoint after the other


Cells = dict[tuple[str, str], Cell]  # by command and fault


class Rounds:
    """The failpoints, each with all its cells, when a test first asks. Two servers share the cells: starting them is
    what takes the time."""

    def __init__(self, worlds: list[World]) -> None:
        self._worlds = worlds
        self._done: dict[str, Cells | BaseException] = {}
        self._restart = False

    def cell(self, failpoint: str, command: str, fault: str) -> Cell:
        if failpoint not in self._done:
            try:
                self._done[failpoint] = self._run(failpoint)
            except Exception as wrong:
                self._done[failpoint] = wrong
        cells = self._done[failpoint]
        if isinstance(cells, BaseException):
            raise AssertionError(f"of {failpoint!r} nothing can be said") from cells
        return cells[command, fault]

    def _run(self, failpoint: str) -> Cells:
        keys = [(command, fault) for at, command, fault in CELLS if at == failpoint]
        with ThreadPoolExecutor(len(self._worlds)) as threads:
            if self._restart:
                list(threads.map(World.restart, self._worlds))
            self._restart = True
            shares = list(threads.map(partial(prepare, failpoint), self._worlds, [keys[::2], keys[1::2]]))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DEVCONF_FAILPOINT", failpoint)
                list(threads.map(partial(kill_all, failpoint), self._worlds, shares))
            list(threads.map(find_out, self._worlds, shares))
        self._restart = False
        cells = {key: cell for share in shares for key, cell in share.items()}
        for command, fault in keys:
            note(failpoint, command, fault, cells[command, fault])
        return cells


@pytest.fixture(scope="module")
def rounds(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rounds]:
    second = World(tmp_path_factory.mktemp("second"), **SERVER)
    try:
        yield Rounds([world, second])
    finally:
        second.close()


def prepare(failpoint: str, world: World, keys: list[tuple[str, str]]) -> Cells:
    """Make what the cells need, all of it confirmed by devices, and stop the server."""
    cells: Cells = {}
    for command, fault in keys:
        cell = cells[command, fault] = Case(world, command).cell(fault)
        cell.lives = failpoint in NEVER.get(command, ())
    for cell in cells.values():
        for device in cell.devices:
            assert in_step(world, device)
            device.disconnect()
    world.server.stop()
    return cells


def kill_all(failpoint: str, world: World, cells: Cells) -> None:
    # Those that do not die go last: they share a server.
    for cell in sorted(cells.values(), key=lambda cell: cell.lives):
        try:
            kill(world, failpoint, cell)
        except AssertionError as wrong:
            cell.problems.append(str(wrong))
    if failpoint in SENDING:
        kill_catching_up(world, list(cells.values()))


def find_out(world: World, cells: Cells) -> None:
    """Let everything come to rest, and compare."""
    reconnect(world, list(cells.values()))
    left = unsettled(world)
    for cell in cells.values():
        compare(world, cell)
        cell.problems += [f"not settled: {row}" for row in left]
        for device in cell.devices:
            device.close()
    world.check()


def note(failpoint: str, command: str, fault: str, cell: Cell) -> None:
    row = f"{command} ({fault})" if fault else command
    when = "" if cell.answer is None else "answered, killed: " if cell.died else "answered: "
    found = f"{when}{cell.found}"
    TABLE[row, failpoint] = f"{found} **!**" if cell.problems else found


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Tell what was found."""
    yield
    rows = list(dict.fromkeys(row for row, _ in TABLE))
    lines = ["| | " + " | ".join(NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(TABLE.get((row, name), "") for name in NAMES) + " |" for row in rows]
    path = os.environ.get("DEVCONF_KILL_TABLE")
    if path:
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        print("", *lines, sep="\n")


# -- what has to be


def wanted(command: str, cell: Cell) -> str:
    """What has to be found: by the settle rules, and what was written when the server died."""
    if command in IF_ALL:
        return cell.labels[(cell.settled and cell.ecode == 0) or 0 < cell.total == cell.confirmed]
    if cell.refused or (cell.settled and cell.ecode):
        return cell.labels[0]
    return cell.labels[1]


def ecodes(command: str, fault: str, cell: Cell) -> tuple[int, ...]:
    """How it has to be settled."""
    if command == "put store_confs":
        return (0, SILENT)
    if cell.found == cell.labels[1]:
        return (0,)
    # Killed between the two answers, it knows of the one that confirms only.
    return (REFUSED,) if cell.refused or (fault == "refuses" and cell.settled) else (SILENT,)


def check_left(failpoint: str, cell: Cell) -> None:
    """What the crash left in the database is what there can be at this failpoint."""
    assert len(cell.rows) == 1, cell.rows
    if cell.name in NEVER or failpoint in SETTLED:
        assert cell.settled
        return
    assert not cell.settled
    assert cell.total > 0
    written = cell.confirmed + cell.refused
    if failpoint in UNANSWERED:
        assert written == 0
    elif failpoint == "answer written":
        assert written > 0
    else:
        assert written == cell.total


def check_call(failpoint: str, cell: Cell) -> None:
    """Nothing of a call is stored but who called what, and it is never sent again."""
    heard = [order for device in cell.devices for order in device.orders if order.command == cell.params["command"]]
    assert len(heard) == (failpoint != "before send")
    assert len(cell.rows) == 1 if cell.answer is not None else len(cell.rows) <= 1
    assert all(row["ecode"] == 0 and "heard" not in str(row) for row in cell.rows)


@pytest.mark.parametrize(("failpoint", "command", "fault"), CELLS)
def test_killed(rounds: Rounds, failpoint: str, command: str, fault: str) -> None:
    cell = rounds.cell(failpoint, command, fault)
    assert not cell.problems, "\n".join(cell.problems)
    if failpoint in NEVER.get(command, ()):
        assert not cell.died
        assert cell.answer is not None
    else:
        assert cell.died
        assert cell.answer is None or failpoint in ANSWERED_FIRST.get(command, ())
    assert cell.answer is None or cell.answer["ecode"] == 0
    if command == "devices/call":
        check_call(failpoint, cell)
    else:
        check_left(failpoint, cell)
        assert cell.ecode in ecodes(command, fault, cell)
    assert cell.found == wanted(command, cell)
    if fault:
        assert cell.found == cell.labels[0]
