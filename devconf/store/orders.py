"""What each device should have, and what it has acknowledged: one row for each (device, task, subtask or none).

A row says for each part (``name``, ``algo_comb``, ``store_conf``) at which ``rev`` of the task it last changed;
``wanted_rev`` is the newest of all changes that go to this device, ``acked_rev`` the last it answered, whatever it
said, and ``applied_rev`` the last it answered with 0 (0: it has nothing). So

* behind (pending): ``wanted_rev > acked_rev``; what to send follows from the row (:func:`due`),
* in step (confirmed): ``wanted_rev == acked_rev`` and ``ecode`` is 0,
* refused: ``wanted_rev == acked_rev`` and ``ecode`` is what the device said.

Content is not in the row: a message is made from what is wanted when it is sent. The life of a row is told in
``docs/design.md``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from devconf.errors import Ecode
from devconf.model import OrderKey
from devconf.store.tables import orders, subtasks, task_devices, tasks

#: The parts of an order, and the column that holds the rev of the last change of each.
PARTS = {"name": orders.c.name_rev, "algo_comb": orders.c.algo_rev, "store_conf": orders.c.conf_rev}

# Shared by the statements on the rows: the key's columns; the row of one key; the rows that are behind.
KEY = (orders.c.dev_unid, orders.c.task_id, orders.c.subtask_id)
this = and_(*(column == bindparam(f"k_{column.name}") for column in KEY))
behind = orders.c.wanted_rev > orders.c.acked_rev

# Made once: SQLAlchemy takes longer to put a statement together than SQLite to run it.
_raise_task = (
    update(tasks).where(tasks.c.task_id == bindparam("k_task_id")).values(rev=tasks.c.rev + 1).returning(tasks.c.rev)
)
_remove = delete(orders).where(this)
_change = update(orders).where(this)
#: A delete that has been answered; one that rests has not been.
deleted = and_(orders.c.life == "deleted", ~behind, orders.c.ecode != Ecode.LOST)
_sweep = delete(orders).where(orders.c.task_id == bindparam("task_id"), deleted)


def bound(key: OrderKey) -> dict[str, str]:
    """Return what the condition ``this`` compares with, for the row of ``key``."""
    return {"k_dev_unid": key.dev_unid, "k_task_id": key.task_id, "k_subtask_id": key.subtask_id}


def key_of(row: Any) -> OrderKey:
    """Return the key of ``row``."""
    return OrderKey(row.dev_unid, row.task_id, row.subtask_id)


def raise_task(connection: Connection, task_id: str) -> int:
    """Raise the counter of the task and return its new rev."""
    return int(connection.execute(_raise_task, {"k_task_id": task_id}).scalar_one())


def want_present(connection: Connection, keys: Collection[OrderKey], rev: int) -> None:
    """Let each of ``keys`` have its task or subtask anew: the next message to it is *add*."""
    if not keys:
        return
    fresh = {
        **{column.name: rev for column in PARTS.values()},
        "life": "present",
        "wanted_rev": rev,
        "acked_rev": 0,
        "applied_rev": 0,
        "ecode": 0,
        "enote": "",
        "late": False,
        "epoch": 0,
    }
    # A row may be there already: of a delete that has not been confirmed.
    connection.execute(_remove, [bound(key) for key in keys])
    connection.execute(insert(orders), [{**key._asdict(), **fresh} for key in keys])


def want_parts(connection: Connection, keys: Collection[OrderKey], parts: Iterable[str], rev: int) -> None:
    """Let each of ``keys`` have ``parts`` as they are wanted now."""
    if keys:
        values = {"wanted_rev": rev, **{PARTS[part].name: rev for part in parts}}
        connection.execute(_change, [{**bound(key), **values} for key in keys])


def want_deleted(connection: Connection, keys: Collection[OrderKey], rev: int) -> None:
    """Let each of ``keys`` delete its task or subtask."""
    if keys:
        connection.execute(_change, [{**bound(key), "life": "deleted", "wanted_rev": rev} for key in keys])


def want_store_conf(connection: Connection, unid: str) -> dict[OrderKey, int]:
    """Let everyone that uses the storage configuration ``unid`` have it as it is now.

    :returns: each order that this goes to, and its rev: every task has a counter of its own.
    """
    using = select(tasks.c.task_id).where(tasks.c.store_conf_unid == unid)
    connection.execute(update(tasks).where(tasks.c.store_conf_unid == unid).values(rev=tasks.c.rev + 1))
    rev = select(tasks.c.rev).where(tasks.c.task_id == orders.c.task_id).scalar_subquery()
    # One that is being deleted is not sent it; but should the deletion be undone, it has to have it.
    wanted = case((orders.c.life == "present", rev), else_=orders.c.wanted_rev)
    connection.execute(update(orders).where(orders.c.task_id.in_(using)).values(conf_rev=rev, wanted_rev=wanted))
    return present(connection, orders.c.task_id.in_(using))


def want_old_store_conf(connection: Connection, task_id: str, rev: int, replaced: bool) -> None:
    """Let the devices of a task that goes back to the storage configuration it had have that one as it is now.

    A replacement of either, while the change was under way, has raised rows of its own, or missed them.

    :param rev: of the change that is undone, whose rows have been put back.
    :param replaced: the old one has another content than when it was taken away.
    """
    concerned = and_(orders.c.task_id == task_id, orders.c.life == "present")
    if not replaced:
        concerned = and_(concerned, orders.c.conf_rev > rev)
    new = select(tasks.c.rev).where(tasks.c.task_id == task_id).scalar_subquery()
    connection.execute(update(orders).where(concerned).values(conf_rev=new, wanted_rev=new))


def devices_of(connection: Connection, *, task_id: str | None = None, conf: str | None = None) -> list[str]:
    """Return the devices that are to have the task, or what uses the storage configuration ``conf``."""
    concerned = tasks.c.task_id == task_id if conf is None else tasks.c.store_conf_unid == conf
    return [key.dev_unid for key in present(connection, concerned)]


def behind_store_conf(connection: Connection, unid: str) -> dict[OrderKey, int]:
    """Return the orders that use the storage configuration ``unid`` and are behind, each with its rev."""
    return present(connection, and_(tasks.c.store_conf_unid == unid, behind))


def of_task(connection: Connection, task_id: str) -> list[OrderKey]:
    """Return the orders of the devices that are to have the task, or a subtask of it."""
    return list(present(connection, tasks.c.task_id == task_id))


def present(connection: Connection, condition: ColumnElement[bool]) -> dict[OrderKey, int]:
    """Return the orders that meet ``condition`` and are not deletes, with their revs, in the order of creation."""
    binding = and_(task_devices.c.task_id == orders.c.task_id, task_devices.c.dev_unid == orders.c.dev_unid)
    rows = connection.execute(
        select(*KEY, orders.c.wanted_rev)
        .join(tasks, tasks.c.task_id == orders.c.task_id)
        .outerjoin(subtasks, subtasks.c.subtask_id == orders.c.subtask_id)
        .outerjoin(task_devices, binding)
        .where(condition, orders.c.life == "present")
        .order_by(tasks.c.seq, subtasks.c.seq, task_devices.c.seq)
    )
    return {key_of(row): row.wanted_rev for row in rows}


def forget(connection: Connection, dev_unid: str) -> int:
    """Take it that ``dev_unid`` has nothing (resync, other hardware): everything is sent again, with a new rev.

    :returns: how many orders are pending then.
    """
    raise_rows(connection, orders.c.dev_unid == dev_unid)
    result = connection.execute(
        update(orders).where(orders.c.dev_unid == dev_unid).values(acked_rev=0, applied_rev=0, ecode=0, enote="")
    )
    return result.rowcount


def raise_rows(connection: Connection, condition: Any) -> None:
    """Give the rows that meet ``condition`` a new rev; what is wanted stays."""
    concerned = select(orders.c.task_id).where(condition)
    connection.execute(update(tasks).where(tasks.c.task_id.in_(concerned)).values(rev=tasks.c.rev + 1))
    rev = select(tasks.c.rev).where(tasks.c.task_id == orders.c.task_id).scalar_subquery()
    # The task of a forced delete is gone: such a row counts on by itself.
    connection.execute(update(orders).where(condition).values(wanted_rev=func.coalesce(rev, orders.c.wanted_rev + 1)))


def snapshot(connection: Connection, keys: Iterable[OrderKey]) -> dict[OrderKey, dict[str, Any] | None]:
    """Return the rows of ``keys`` as they are (None: no such row), for :func:`put_back`."""
    rows = rows_of(connection, list(keys))
    return {
        key: None
        if (row := rows.get(key)) is None
        else {
            name: getattr(row, name)
            for name in (
                "life",
                "name_rev",
                "algo_rev",
                "conf_rev",
                "wanted_rev",
                "acked_rev",
                "ecode",
                "enote",
            )
        }
        for key in keys
    }


def put_back(
    connection: Connection, key: OrderKey, before: dict[str, Any] | None, rev: int, may_have: bool, new: int
) -> bool:
    """Undo for one order what a plan did at ``rev``.

    :param before: the row as it was (:func:`snapshot`).
    :param may_have: the device took the change, or was sent it and may have.
    :param new: the task's rev for what has to be sent.
    :returns: whether something has to be sent.
    """
    row = rows_of(connection, [key]).get(key)
    if row is None:
        return False
    # One that said no holds what it held, unless it has been sent the change again meanwhile.
    may_have = may_have or (row.acked_rev >= rev and (row.ecode == 0 or row.wanted_rev > row.acked_rev))
    values: dict[str, Any]
    if before is None or before["life"] == "deleted":
        if before is None and not may_have:
            connection.execute(_remove, bound(key))
            return False
        values = {"life": "deleted", "wanted_rev": new}
    elif may_have:
        values = {column.name: new for column in PARTS.values() if getattr(row, column.name) == rev}
        values |= {"life": "present", "wanted_rev": new}
        if row.life == "deleted":
            values |= {"acked_rev": 0, "applied_rev": 0}
    else:
        values = _as_before(row, before, rev, new)
    connection.execute(_change, {**bound(key), **values})
    return bool(values.get("wanted_rev", row.wanted_rev) > values.get("acked_rev", row.acked_rev))


def _as_before(row: Row[Any], before: dict[str, Any], rev: int, new: int) -> dict[str, Any]:
    """The values that put back a row whose device holds what it held before ``rev``."""
    values = {column.name: before[column.name] for column in PARTS.values() if getattr(row, column.name) == rev}
    values["life"] = before["life"]
    if row.acked_rev >= rev:
        # It said no to the change: what it said before counts again, unless it said no to others along with it.
        if all(values.get(column.name, getattr(row, column.name)) <= row.applied_rev for column in PARTS.values()):
            values |= {"ecode": before["ecode"], "enote": before["enote"]}
        if before["wanted_rev"] > before["acked_rev"]:
            values["wanted_rev"] = new
    elif row.wanted_rev == rev:
        values["wanted_rev"] = before["wanted_rev"]
    # A part may have changed while the row was to be deleted.
    if max(values.get(part.name, getattr(row, part.name)) for part in PARTS.values()) > values.get(
        "wanted_rev", row.wanted_rev
    ):
        values["wanted_rev"] = new
    return values


def sweep_deleted(connection: Connection, task_id: str) -> None:
    """Forget the orders of ``task_id`` whose delete has been answered: their command is settled."""
    connection.execute(_sweep, {"task_id": task_id})


def rows_of(connection: Connection, keys: Sequence[OrderKey]) -> dict[OrderKey, Row[Any]]:
    """Return the rows of those of ``keys`` that have one."""
    found: dict[OrderKey, Row[Any]] = {}
    for start in range(0, len(keys), 500):
        rows = connection.execute(_rows_of, {"keys": list(keys[start : start + 500])})
        found |= {key_of(row): row for row in rows}
    return found


_rows_of = select(orders).where(tuple_(*KEY).in_(bindparam("keys", expanding=True)))
