"""What has to be sent to devices, made from the rows of :mod:`devconf.store.orders` and what is wanted now."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from attrs import frozen
from sqlalchemy import Connection, Row, Text, and_, bindparam, case, func, select, tuple_, type_coerce

from devconf import wire
from devconf.model import OrderKey
from devconf.store.orders import KEY, behind, key_of
from devconf.store.paging import position
from devconf.store.tables import commands, orders, store_confs, subtasks, tasks

#: A storage configuration at one of its revisions, as messages carry it.
ConfKey = tuple[str, int]

#: Bytes of contents after which one read brings no more of them.
CONTENTS = 16 * 1024 * 1024


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
    conf: ConfKey | None


_planned = commands.alias("planned")
_wanted = (
    select(
        orders,
        tasks.c.task_type,
        tasks.c.name,
        tasks.c.store_conf_unid,
        store_confs.c.rev.label("store_conf_rev"),
        type_coerce(subtasks.c.vchan, Text).label("vchan"),
    )
    .select_from(orders)
    .outerjoin(tasks, tasks.c.task_id == orders.c.task_id)
    .outerjoin(subtasks, subtasks.c.subtask_id == orders.c.subtask_id)
    .outerjoin(store_confs, store_confs.c.unid == tasks.c.store_conf_unid)
)
# Read once for all orders of a task, and as it is stored: it may be large, and the task on thousands of devices.
_algo_combs = (
    select(
        tasks.c.task_id,
        # A picture task is to have what its running command plans; settle decides whether it stays.
        type_coerce(func.coalesce(_planned.c.algo_comb, tasks.c.algo_comb), Text).label("algo_comb"),
    )
    .outerjoin(_planned, and_(_planned.c.task_id == tasks.c.task_id, _planned.c.settled_at.is_(None)))
    .where(tasks.c.task_id.in_(bindparam("task_ids", expanding=True)))
)
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
    :ivar contents: the storage configurations that go with it, as JSON, but for those known already.
    """

    orders: list[Order]
    positions: list[OrderKey | None]
    contents: dict[ConfKey, bytes]


def read(
    connection: Connection,
    keys: Sequence[OrderKey],
    scans: Sequence[tuple[OrderKey, int]],
    known: Collection[ConfKey],
) -> Due:
    """Return what has to be sent: of ``keys`` those that are behind, and by ``scans`` more of their devices.

    :param scans: (after, limit): the next ``limit`` orders of the device that follow ``after``.
    :param known: contents that the caller has.
    :returns: contents pass :data:`CONTENTS` bytes by one at most; what is missing has to be read again.
    """
    rows: list[Any] = []
    positions: list[OrderKey | None] = []
    for start in range(0, len(keys), 500):
        rows += connection.execute(_named, {"keys": list(keys[start : start + 500])})
    for after, limit in scans:
        place = {**after._asdict(), "is_task": bool(after.task_id and not after.subtask_id), "limit": limit}
        scanned = connection.execute(_scanned, place).all()
        positions.append(key_of(scanned[-1]) if len(scanned) == limit else None)
        rows += scanned
    algo_combs = _read_algo_combs(connection, [row for row in rows if row.algo_rev > row.applied_rev])
    found = [_order(row, algo_combs) for row in rows]
    needed = {order.conf: None for order in found if order.conf is not None and order.conf not in known}
    return Due(found, positions, contents(connection, needed, CONTENTS))


def _read_algo_combs(connection: Connection, rows: Iterable[Row[Any]]) -> dict[str, bytes | None]:
    """Return the ``algo_comb`` of the tasks of ``rows``, as JSON."""
    task_ids = list({row.task_id for row in rows})
    found: dict[str, bytes | None] = {}
    for start in range(0, len(task_ids), 500):
        for task_id, text in connection.execute(_algo_combs, {"task_ids": task_ids[start : start + 500]}):
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


_content = select(store_confs).where(store_confs.c.unid == bindparam("unid"), store_confs.c.rev == bindparam("rev"))


def contents(connection: Connection, confs: Iterable[ConfKey], most: int) -> dict[ConfKey, bytes]:
    """Return the storage configurations ``confs`` as JSON, as a message carries them (§6); those of this rev only.

    :param most: bytes after which no more are read.
    """
    found: dict[ConfKey, bytes] = {}
    size = 0
    for unid, rev in confs:
        if size > most:
            break
        row = connection.execute(_content, {"unid": unid, "rev": rev}).one_or_none()
        if row is not None:
            found[(unid, rev)] = wire.encode(
                {
                    "unid": unid,
                    "name": row.name,
                    "file_ext": row.file_ext,
                    "file_b64": b64encode(row.content).decode(),
                }
            )
            size += len(found[(unid, rev)])
    return found


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
    :param size: bytes of contents after which the page ends early.
    :returns: the page, in the order of creation, and the ``after`` of the next one.
    :raises CommandFailed: ``BAD_FIELD``: ``after`` is not what a page's ``next`` said.
    """
    task_seq, _, subtask_seq = (after or "0.0").partition(".")
    place = {"task_seq": position(task_seq), "subtask_seq": position(subtask_seq)}
    page: list[Any] = []
    total = 0
    rows = list(connection.execute(_holds, {"dev_unid": dev_unid, **place, "limit": limit + 1}))
    algo_combs = _read_algo_combs(connection, rows)
    for row in rows[:limit]:
        if total > size:
            break
        params: dict[str, Any] = {"task_id": row.task_id}
        if row.subtask_id:
            params["subtask_id"] = row.subtask_id
        # A change that it refused and that was undone: what it has is older than what it last answered.
        in_step = row.wanted_rev == row.acked_rev and row.ecode == 0
        whole = {
            name: msgspec.Raw(value) if isinstance(value, bytes) else value
            for name, value in _whole(row, algo_combs).items()
        }
        params |= {"rev": row.applied_rev if in_step else row.wanted_rev, **whole}
        if row.store_conf_unid is not None:
            conf = contents(connection, [(row.store_conf_unid, row.store_conf_rev)], 0)
            encoded = conf[(row.store_conf_unid, row.store_conf_rev)]
            params["store_conf"] = msgspec.Raw(encoded)
            total += len(encoded)
        page.append(params)
    if len(page) == len(rows):
        return page, None
    last = rows[len(page) - 1]
    return page, f"{last.task_seq}.{last.subtask_seq}"
