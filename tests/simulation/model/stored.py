"""What is stored, read from the tables."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any, NamedTuple

from attrs import frozen

from tests.simulation.records import LOST

Query = Callable[[str], list[tuple[Any, ...]]]


class Order(NamedTuple):
    """A row of ``orders``: what one device should have of one task or subtask."""

    dev_unid: str
    task_id: str
    subtask_id: str
    life: str
    wanted_rev: int
    acked_rev: int
    applied_rev: int
    ecode: int

    @property
    def key(self) -> tuple[str, str]:
        """The task and subtask."""
        return self.task_id, self.subtask_id

    @property
    def pending(self) -> bool:
        """Whether the device has not answered the newest."""
        return self.wanted_rev > self.acked_rev

    @property
    def confirmed(self) -> bool:
        """Whether the device took the newest."""
        return not self.pending and self.ecode == 0

    @property
    def rests(self) -> bool:
        """Whether it is not sent for an hour, since it has cost the device its connection each time."""
        return self.refused and self.ecode == LOST

    @property
    def refused(self) -> bool:
        """Whether the device said no to the newest."""
        return not self.pending and self.ecode != 0


class Task(NamedTuple):
    """A task; :ivar dev_unids: the devices that it is bound to."""

    name: str
    task_type: str
    rev: int
    algo_comb: Any
    store_conf_unid: str | None
    dev_unids: frozenset[str]


class Subtask(NamedTuple):
    """A subtask."""

    task_id: str
    dev_unid: str
    vchan: Any


class Conf(NamedTuple):
    """A storage configuration, as it is sent."""

    name: str
    file_ext: str
    file_b64: str


class Device(NamedTuple):
    """A device."""

    dev_refid: str
    dev_name: str
    enabled: bool


class Command(NamedTuple):
    """A line of the history; :ivar open: what it keeps only while it runs."""

    settled_at: float | None
    ecode: int | None
    open: bool
    name: str = ""
    params: Any = None
    devices: Any = None


@frozen
class Stored:
    """Everything that is stored; :ivar planned: the ``algo_comb`` that running commands are giving to their tasks."""

    tasks: dict[str, Task]
    subtasks: dict[str, Subtask]
    confs: dict[str, Conf]
    devices: dict[str, Device]
    orders: dict[tuple[str, str, str], Order]
    commands: dict[str, Command]
    planned: dict[str, Any]

    @classmethod
    def read(cls, query: Query) -> Stored:
        """Return what ``query`` finds."""
        bound: dict[str, set[str]] = {}
        for task_id, dev_unid in query("SELECT task_id, dev_unid FROM task_devices"):
            bound.setdefault(task_id, set()).add(dev_unid)
        tasks = "SELECT task_id, name, task_type, rev, algo_comb, store_conf_unid FROM tasks"
        return cls(
            {
                row[0]: Task(row[1], row[2], row[3], _json(row[4]), row[5], frozenset(bound.get(row[0], ())))
                for row in query(tasks)
            },
            {
                row[0]: Subtask(row[1], row[2], _json(row[3]))
                for row in query("SELECT subtask_id, task_id, dev_unid, vchan FROM subtasks")
            },
            {
                row[0]: Conf(row[1], row[2], b64encode(row[3]).decode())
                for row in query("SELECT unid, name, file_ext, content FROM store_confs")
            },
            {
                row[0]: Device(row[1], row[2], bool(row[3]))
                for row in query("SELECT dev_unid, dev_refid, dev_name, enabled FROM devices")
            },
            {order[:3]: order for order in read_orders(query)},
            {
                row[0]: Command(
                    row[1],
                    row[2],
                    row[3] is not None or row[4] is not None,
                    row[5].replace("/wsapi/v1/devconf_fx/", ""),
                    _json(row[6]) or {},
                    _json(row[7]) or [],
                )
                for row in query(
                    "SELECT command_id, settled_at, ecode, rule, plan, command, params, devices FROM commands"
                )
            },
            {
                row[0]: _json(row[1])
                for row in query("SELECT task_id, algo_comb FROM commands WHERE settled_at IS NULL")
                if row[1] is not None
            },
        )

    def content(self, key: tuple[str, str]) -> dict[str, Any] | None:
        """Return what a device should hold of ``key``, in the words of *add*; None: nothing."""
        task, subtask = self.tasks.get(key[0]), self.subtasks.get(key[1])
        if task is None or (key[1] and subtask is None):
            return None
        conf = self.confs.get(task.store_conf_unid or "")
        return {
            "task_type": task.task_type,
            "name": task.name,
            "algo_comb": self.planned.get(key[0], task.algo_comb),
            "store_conf": None if conf is None else {"unid": task.store_conf_unid, **conf._asdict()},
            "vchan": subtask.vchan if subtask else None,
        }


def read_orders(query: Query) -> list[Order]:
    """Return the rows of ``orders``."""
    columns = ", ".join(Order._fields)
    return [Order(*row) for row in query(f"SELECT {columns} FROM orders")]


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
