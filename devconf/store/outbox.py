"""What has to be sent to devices, made from the rows of :mod:`devconf.store.orders` and what is wanted now."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from attrs import frozen
from sqlalchemy import (
    Connection,
    LargeBinary,
    Row,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    select,
    tuple_,
    type_coerce,
)

from devconf import wire
from devconf.model import OrderKey
from devconf.store.orders import KEY, behind, key_of
from devconf.store.paging import position
from devconf.store.tables import commands, orders, store_confs, subtasks, tasks

#: A storage configuration at one of its revisions, or the ``algo_comb`` of a task at one of the task's. What a task is
#: to have of it at one rev never changes: whatever changes it, or takes that back, raises the rev.
ContentKey = tuple[str, int]
#: Contents, as messages carry them, by the id of the storage configuration or of the task, each with its revision.
Known = Mapping[str, tuple[int, bytes]]

#: Bytes of contents after which one read brings no more of them.
CONTENTS = 16 * 1024 * 1024
#: An ``algo_comb`` of no more bytes is not worth to be kept.
SMALL = 4096


@frozen
class Order:
    """A message to be sent.

    :ivar kind: ``add``, ``modify`` or ``delete`` (§6).
    :ivar params: of the message, but for ``store_conf``; those that are bytes are JSON already.
    :ivar conf: the storage configuration that goes with it; its content is apart, since many orders share it.
    """

    key: OrderKey
    kind: str
    rev: int
    params: dict[str, Any]
    conf: ContentKey | None


_planned = commands.alias("planned")
_wanted = (
    select(
        orders,
        tasks.c.task_type,
        tasks.c.name,
        tasks.c.rev.label("task_rev"),
        tasks.c.store_conf_unid,
        store_confs.c.rev.label("store_conf_rev"),
        store_confs.c.size.label("store_conf_size"),
        type_coerce(subtasks.c.vchan, Text).label("vchan"),
    )
    .select_from(orders)
    .outerjoin(tasks, tasks.c.task_id == orders.c.task_id)
    .outerjoin(subtasks, subtasks.c.subtask_id == orders.c.subtask_id)
    .outerjoin(store_confs, store_confs.c.unid == tasks.c.store_conf_unid)
)
# A picture task is to have what its running command plans; settle decides whether it stays.
_algo_comb = func.coalesce(_planned.c.algo_comb, tasks.c.algo_comb)
_of_tasks = (
    select(tasks.c.task_id)
    .outerjoin(_planned, and_(_planned.c.task_id == tasks.c.task_id, _planned.c.settled_at.is_(None)))
    .where(tasks.c.task_id.in_(bindparam("task_ids", expanding=True)))
)
# Read once for all orders of a task, and as it is stored: it may be large, and the task on thousands of devices.
_algo_combs = _of_tasks.add_columns(type_coerce(_algo_comb, Text).label("algo_comb"))
_algo_sizes = _of_tasks.add_columns(func.length(cast(type_coerce(_algo_comb, Text), LargeBinary)).label("size"))
_named = _wanted.where(behind, tuple_(*KEY).in_(bindparam("keys", expanding=True)))
# A task comes after its subtasks, so that it is deleted after them (§6).
_place = (orders.c.task_id, case((orders.c.subtask_id == "", 1), else_=0), orders.c.subtask_id)
_after: tuple[Any, Any, Any] = (bindparam("task_id"), bindparam("is_task"), bindparam("subtask_id"))
_scanned = (
    _wanted.where(behind, orders.c.dev_unid == bindparam("dev_unid"), tuple_(*_place) > tuple_(*_after))
    .order_by(*_place)
    .limit(bindparam("limit"))
)


@frozen
class Due:
    """What has to be sent.

    :ivar positions: for each scan where it ended; None: there is nothing behind it.
    :ivar contents: what goes with it, as JSON, and was not known.
    :ivar left: what has to be read again, since its contents were too much for this read.
    """

    orders: list[Order]
    positions: list[OrderKey | None]
    contents: dict[ContentKey, bytes]
    left: list[OrderKey]


def read(connection: Connection, keys: Sequence[OrderKey], scans: Sequence[tuple[OrderKey, int]], known: Known) -> Due:
    """Return what has to be sent: of ``keys`` those that are behind, and by ``scans`` more of their devices.

    :param scans: (after, limit): the next ``limit`` orders of the device that follow ``after``.
    :param known: contents that the caller has.
    :returns: in the order of ``keys``, and then of ``scans``; contents pass :data:`CONTENTS` bytes by those of one
        order at most.
    """
    rows: list[Any] = []
    positions: list[OrderKey | None] = []
    for start in range(0, len(keys), 500):
        rows += connection.execute(_named, {"keys": list(keys[start : start + 500])})
    places = {key: place for place, key in enumerate(keys)}
    rows.sort(key=lambda row: places[key_of(row)])
    for after, limit in scans:
        place = {**after._asdict(), "is_task": bool(after.task_id and not after.subtask_id), "limit": limit}
        scanned = connection.execute(_scanned, place).all()
        positions.append(key_of(scanned[-1]) if len(scanned) == limit else None)
        rows += scanned
    fitting, left = _that_fit(connection, rows, known)
    algo_combs, contents = _algo_combs_for(connection, [row for row in fitting if _with_algos(row)], known)
    found = [_order(row, algo_combs) for row in fitting]
    for order in found:
        if order.conf is not None and order.conf not in contents and not _knows(known, order.conf):
            contents[order.conf] = _read_conf(connection, order.conf)
    return Due(found, positions, contents, left)


def _knows(known: Known, content: ContentKey) -> bool:
    return content[0] in known and known[content[0]][0] == content[1]


def _with_algos(row: Row[Any]) -> bool:
    return bool(row.life != "deleted" and row.algo_rev > row.applied_rev)


def _algos_of(row: Row[Any]) -> ContentKey:
    return row.task_id, row.task_rev


def _algo_combs_for(
    connection: Connection, rows: list[Row[Any]], known: Known
) -> tuple[dict[str, bytes | None], dict[ContentKey, bytes]]:
    """Return the ``algo_comb`` of the tasks of ``rows``, and those that are worth to be kept and were not known."""
    found: dict[str, bytes | None] = {}
    unknown: dict[str, int] = {}
    for row in rows:
        if _knows(known, _algos_of(row)):
            found[row.task_id] = known[row.task_id][1]
        else:
            unknown[row.task_id] = row.task_rev
    kept: dict[ContentKey, bytes] = {}
    for task_id, algo_comb in _read_algo_combs(connection, unknown).items():
        if algo_comb is not None and len(algo_comb) > SMALL:
            # One that has not changed is the same object as before, which may be on its way to others.
            before = known.get(task_id, (0, b""))[1]
            found[task_id] = kept[(task_id, unknown[task_id])] = before if before == algo_comb else algo_comb
        else:
            found[task_id] = algo_comb
    return found, kept


def _conf_of(row: Row[Any]) -> ContentKey | None:
    if row.life == "deleted" or row.store_conf_unid is None or row.conf_rev <= row.applied_rev:
        return None
    return row.store_conf_unid, row.store_conf_rev


def _that_fit(connection: Connection, rows: list[Row[Any]], known: Known) -> tuple[list[Row[Any]], list[OrderKey]]:
    """Return those of ``rows`` whose contents fit into one read, and the keys of the others."""
    unknown = {row.task_id: None for row in rows if _with_algos(row) and not _knows(known, _algos_of(row))}
    sizes: dict[str, int] = {}
    for task_ids in _batches(unknown):
        sizes |= {row.task_id: row.size or 0 for row in connection.execute(_algo_sizes, {"task_ids": task_ids})}
    fitting, left = [], []
    counted: set[str] = set()
    total = 0
    for row in rows:
        new = {row.task_id: sizes[row.task_id]} if _with_algos(row) and row.task_id in sizes else {}
        conf = _conf_of(row)
        if conf is not None and not _knows(known, conf):
            new[conf[0]] = 4 * (row.store_conf_size + 2) // 3  # in base64
        more = sum(size for content, size in new.items() if content not in counted)
        if more and total > CONTENTS:
            left.append(key_of(row))
        else:
            fitting.append(row)
            counted |= new.keys()
            total += more
    return fitting, left


def _batches(ids: Iterable[str]) -> Iterator[list[str]]:
    """Yield ``ids``, so many at a time that a statement takes them."""
    those = list(ids)
    for start in range(0, len(those), 500):
        yield those[start : start + 500]


def _read_algo_combs(connection: Connection, task_ids: Iterable[str]) -> dict[str, bytes | None]:
    """Return the ``algo_comb`` of each of ``task_ids``, as JSON."""
    found: dict[str, bytes | None] = {}
    for some in _batches(task_ids):
        for task_id, text in connection.execute(_algo_combs, {"task_ids": some}):
            found[task_id] = None if text is None else text.encode()
    return found


def _order(row: Row[Any], algo_combs: dict[str, bytes | None]) -> Order:
    key = key_of(row)
    params: dict[str, Any] = {"task_id": key.task_id}
    if key.subtask_id:
        params["subtask_id"] = key.subtask_id
    params["rev"] = row.wanted_rev
    if row.life == "deleted":
        return Order(key, "delete", row.wanted_rev, params, None)
    conf = None if row.store_conf_unid is None else (row.store_conf_unid, row.store_conf_rev)
    if row.applied_rev == 0:
        return Order(key, "add", row.wanted_rev, params | _whole(row, algo_combs), conf)
    if row.name_rev > row.applied_rev:
        params["name"] = row.name
    if row.algo_rev > row.applied_rev:
        params["algo_comb"] = algo_combs[key.task_id]
    if row.conf_rev <= row.applied_rev:
        conf = None
    elif conf is None:
        params["store_conf"] = None
    return Order(key, "modify", row.wanted_rev, params, conf)


def _whole(row: Row[Any], algo_combs: dict[str, bytes | None]) -> dict[str, Any]:
    whole: dict[str, Any] = {"task_type": row.task_type, "name": row.name}
    algo_comb = algo_combs[row.task_id]
    if algo_comb is not None:
        whole["algo_comb"] = algo_comb
    if row.vchan is not None:
        whole["vchan"] = row.vchan.encode()
    return whole


_conf = select(store_confs).where(store_confs.c.unid == bindparam("unid"), store_confs.c.rev == bindparam("rev"))


def _read_conf(connection: Connection, conf: ContentKey) -> bytes:
    """Return a storage configuration as JSON, as a message carries it (§6)."""
    unid, rev = conf
    row = connection.execute(_conf, {"unid": unid, "rev": rev}).one()
    content = b64encode(row.content).decode()
    return wire.encode({"unid": unid, "name": row.name, "file_ext": row.file_ext, "file_b64": content})


_created = (tasks.c.seq, func.coalesce(subtasks.c.seq, 0))
_holds = (
    _wanted.add_columns(tasks.c.seq.label("task_seq"), _created[1].label("subtask_seq"))
    .where(
        orders.c.dev_unid == bindparam("dev_unid"),
        orders.c.life == "present",
        tuple_(*_created) > tuple_(bindparam("task_seq"), bindparam("subtask_seq")),
    )
    .order_by(*_created)
    .limit(bindparam("limit"))
)


def holds(
    connection: Connection, dev_unid: str, after: str | None, limit: int, size: int
) -> tuple[list[Any], str | None]:
    """Return all that a device should have, each as in the params of *add* (§6, the device's own ``get tasks``).

    :param after: the ``next`` of the page before.
    :param size: bytes of contents, of whatever kind, after which the page ends early.
    :returns: the page, in the order of creation, and the ``after`` of the next one.
    :raises CommandFailed: ``BAD_FIELD``: ``after`` is not what a page's ``next`` said.
    """
    task_seq, _, subtask_seq = (after or "0.0").partition(".")
    place = {"task_seq": position(task_seq), "subtask_seq": position(subtask_seq)}
    page: list[Any] = []
    following: str | None = None
    total = 0
    algo_combs: dict[str, bytes | None] = {}
    result = connection.execute(_holds, {"dev_unid": dev_unid, **place, "limit": limit + 1})
    while (row := result.fetchone()) is not None:
        if len(page) == limit or total > size:
            result.close()
            return page, following
        following = f"{row.task_seq}.{row.subtask_seq}"
        if row.task_id not in algo_combs:  # the subtasks of a task follow each other
            algo_combs = _read_algo_combs(connection, [row.task_id])
        params: dict[str, Any] = {"task_id": row.task_id}
        if row.subtask_id:
            params["subtask_id"] = row.subtask_id
        # A change that it refused and that was undone: what it has is older than what it last answered.
        in_step = row.wanted_rev == row.acked_rev and row.ecode == 0
        whole = _whole(row, algo_combs)
        if row.store_conf_unid is not None:
            whole["store_conf"] = _read_conf(connection, (row.store_conf_unid, row.store_conf_rev))
        total += sum(len(value) for value in whole.values() if isinstance(value, bytes))
        params["rev"] = row.applied_rev if in_step else row.wanted_rev
        for name, value in whole.items():
            params[name] = msgspec.Raw(value) if isinstance(value, bytes) else value
        page.append(params)
    return page, None
