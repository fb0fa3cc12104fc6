"""Devices, as they are stored."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from devconf.errors import CommandFailed, Ecode
from devconf.model import State
from devconf.store import orders as order_rows
from devconf.store import refusals
from devconf.store.paging import containing, page, position
from devconf.store.tables import credentials, devices, orders, subtasks, task_devices
from devconf.store.tasks import RANKS, rank

_device = select(devices).where(devices.c.dev_unid == bindparam("dev_unid"))


def get_device(connection: Connection, dev_unid: str) -> Row[Any]:
    """Return the device.

    :raises CommandFailed: ``NO_SUCH_DEVICE``.
    """
    row = connection.execute(_device, {"dev_unid": dev_unid}).one_or_none()
    if row is None:
        raise CommandFailed(Ecode.NO_SUCH_DEVICE, f"there is no device {dev_unid!r} ($.params.dev_unid)")
    return row


def enabled_among(connection: Connection, dev_unids: Sequence[str]) -> list[str]:
    """Return those of ``dev_unids`` that are devices which may connect."""
    found: list[str] = []
    for start in range(0, len(dev_unids), 500):
        some = dev_unids[start : start + 500]
        may = select(devices.c.dev_unid).where(devices.c.dev_unid.in_(some), devices.c.enabled)
        found += connection.execute(may).scalars()
    return found


def insert_device(connection: Connection, now: float, **values: Any) -> None:
    """Store a new device.

    :raises CommandFailed: ``ALREADY_EXISTS``: there is one of that ``dev_refid``.
    """
    defaults = {"enabled": True, "key_used": False, "algos": None, "epoch": 0, "echoes": False, "created_at": now}
    try:
        connection.execute(insert(devices).values(**defaults, **values))
    except IntegrityError:
        raise _taken(values["dev_refid"]) from None


def _taken(dev_refid: str) -> CommandFailed:
    return CommandFailed(Ecode.ALREADY_EXISTS, f"there is a device {dev_refid!r} already ($.params.dev_refid)")


def change_device(connection: Connection, dev_unid: str, values: dict[str, Any]) -> Row[Any]:
    """Change columns of a device.

    Another ``dev_refid`` is other hardware in this place: it is taken to have nothing. What ends its sessions ends
    its tokens too.

    :returns: the device as it was.
    :raises CommandFailed: ``NO_SUCH_DEVICE``, ``ALREADY_EXISTS``.
    """
    before = get_device(connection, dev_unid)
    moved = "dev_refid" in values and values["dev_refid"] != before.dev_refid
    if moved:
        values = {**values, "echoes": False, "algos": None}
    if values:
        try:
            connection.execute(update(devices).where(devices.c.dev_unid == dev_unid).values(**values))
        except IntegrityError:
            raise _taken(values["dev_refid"]) from None
    if moved:
        order_rows.forget(connection, dev_unid)
    if moved or "key_hash" in values or values.get("enabled") is False:
        connection.execute(delete(credentials).where(credentials.c.unid == dev_unid))
    return before


def delete_device(connection: Connection, dev_unid: str) -> Row[Any]:
    """Delete a device, with its tokens and what it was still to delete.

    :returns: the device as it was.
    :raises CommandFailed: ``NO_SUCH_DEVICE``, or ``IN_USE``: it is bound to a task.
    """
    before = get_device(connection, dev_unid)
    for table in (task_devices, subtasks):
        task_id = connection.execute(select(table.c.task_id).where(table.c.dev_unid == dev_unid).limit(1)).scalar()
        if task_id is not None:
            raise CommandFailed(
                Ecode.IN_USE,
                f"the device is bound to the task {task_id!r}; take it out of it first ($.params.dev_unid)",
            )
    connection.execute(delete(credentials).where(credentials.c.unid == dev_unid))
    connection.execute(delete(devices).where(devices.c.dev_unid == dev_unid))
    return before


def describe(
    connection: Connection, dev_unid: str, dev_refid: str, dev_type: str, dev_name: str, algos: list[str] | None
) -> None:
    """Note what a device says of itself (*register*, §1). Its name counts only while no operator has set one.

    :raises CommandFailed: ``BAD_FIELD``: ``dev_refid`` is not its own.
    """
    row = get_device(connection, dev_unid)
    if row.dev_refid != dev_refid:
        raise CommandFailed(Ecode.BAD_FIELD, f"$.dev_refid must be this device's own, {row.dev_refid!r}")
    values: dict[str, Any] = {"dev_type": dev_type, "algos": algos or None}
    if not row.named_by_operator:
        values["dev_name"] = dev_name
    connection.execute(update(devices).where(devices.c.dev_unid == dev_unid).values(**values))


def _count(which: int) -> Any:
    counted = func.sum(case((rank == which, 1), else_=0))
    return select(func.coalesce(counted, 0)).where(orders.c.dev_unid == devices.c.dev_unid).scalar_subquery()


_pending, _refused = _count(RANKS.index(State.PENDING)), _count(RANKS.index(State.REFUSED))
_of_state = {
    State.CONFIRMED: (_pending == 0) & (_refused == 0),
    State.PENDING: (_pending > 0) & (_refused == 0),
    State.REFUSED: _refused > 0,
}


def list_devices(
    connection: Connection,
    *,
    limit: int,
    after: str | None,
    dev_unid: str | None,
    online: bool | None,
    state: str | None,
    text: str | None,
    connected: Container[str],
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of devices as items of §4 (but for what only their connections tell), and the next ``after``.

    :param connected: the devices that are online.
    """
    statement: Select[Any] = select(devices, _pending.label("pending"), _refused.label("refused"))
    if dev_unid is not None:
        statement = statement.where(devices.c.dev_unid == dev_unid)
    if state is not None:
        statement = statement.where(_of_state[State(state)])
    if text is not None:
        columns = (devices.c.dev_refid, devices.c.dev_name, devices.c.dev_type, devices.c.dev_unid)
        statement = statement.where(or_(*(containing(column, text) for column in columns)))
    if online is None:
        rows, following = page(connection, statement, devices.c.seq, limit, after)
    else:
        rows, following = _online_page(connection, statement, limit, after, online, connected)
    why = refusals.of(connection, orders.c.dev_unid, [row.dev_unid for row in rows if row.refused])
    return [_item(row, why.get(row.dev_unid, [])) for row in rows], following


def _online_page(
    connection: Connection,
    statement: Select[Any],
    limit: int,
    after: str | None,
    online: bool,
    connected: Container[str],
) -> tuple[list[Row[Any]], str | None]:
    # Who is online is not in the database: read on until the page is full.
    found: list[Row[Any]] = []
    following: str | None = str(0 if after is None else position(after))
    while following is not None:
        rows, following = page(connection, statement, devices.c.seq, 1000, following)
        found += [row for row in rows if (row.dev_unid in connected) is online]
        if len(found) > limit:
            return found[:limit], str(found[limit - 1].seq)
    return found, None


def _item(row: Row[Any], refused: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "dev_unid": row.dev_unid,
        "dev_refid": row.dev_refid,
        "dev_name": row.dev_name,
        "dev_type": row.dev_type,
        "enabled": row.enabled,
        "key_required": row.key_required,
        "algos": row.algos,
        "online": False,
        "since": None,
        "addr": None,
        "pending": row.pending,
        "refused": row.refused,
        **({"refusals": refused} if refused else {}),
    }
