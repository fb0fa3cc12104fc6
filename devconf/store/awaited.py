"""Commands that ended with an error and stay all the same, and what still has to be acknowledged of them.

Such a command *awaits* orders: each has its ``seq`` in ``awaited_by`` until its device has acknowledged the storage
configuration that the order has now, or is not to have it any more. A newer command for the same storage
configuration takes over what older ones await: in the row of each, ``awaits`` is the ``seq`` of the one that has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, and_, bindparam, exists, or_, select, update

from devconf.model import OrderKey
from devconf.store import journal
from devconf.store.answers import UNDELIVERED, running
from devconf.store.orders import behind, bound, key_of, this
from devconf.store.tables import commands, orders, tasks

#: Commands that await the same storage configuration; the older ones are not told of any more.
AT_ONCE = 100

_holder: BindParameter[int] = bindparam("k_seq")
_same_conf = and_(commands.c.unid == bindparam("k_unid"), commands.c.awaits.is_not(None))
_take_over = (
    update(orders)
    .where(orders.c.awaited_by.in_(select(commands.c.awaits).where(_same_conf)))
    .values(awaited_by=_holder)
)
_follow = update(commands).where(or_(_same_conf, commands.c.seq == _holder)).values(awaits=_holder)
_others = commands.alias()
_newest = select(_others.c.seq).where(_others.c.awaits == _holder).order_by(_others.c.seq.desc())
_give_up = (
    update(commands)
    .where(commands.c.awaits == _holder, commands.c.seq.not_in(_newest.limit(bindparam("k_most"))))
    .values(awaits=None)
)
_still_uses = exists().where(tasks.c.task_id == orders.c.task_id, tasks.c.store_conf_unid == bindparam("k_unid"))
_still_to_have = and_(orders.c.life == "present", _still_uses)
# While a command may be undone, its devices may have to have it after all.
_mark = update(orders).where(this, or_(_still_to_have, running)).values(awaited_by=_holder)

# That it answered a newer rev is not enough: it may have refused to delete what was to be changed.
_answered = and_(orders.c.acked_rev >= orders.c.conf_rev, ~behind, *(orders.c.ecode != ecode for ecode in UNDELIVERED))
_delivered = and_(orders.c.life == "present", or_(orders.c.applied_rev >= orders.c.conf_rev, _answered))
_uses = exists().where(
    tasks.c.task_id == orders.c.task_id,
    commands.c.seq == orders.c.awaited_by,
    tasks.c.store_conf_unid == commands.c.unid,
)
_clear = update(orders).where(orders.c.awaited_by.is_not(None)).values(awaited_by=None)
# What its device acknowledges while a command may still be undone is decided with that.
_clear_delivered = _clear.where(this, _delivered, ~running)
_clear_decided = _clear.where(
    orders.c.task_id == bindparam("k_task_id"), or_(_delivered, orders.c.life == "deleted", ~_uses)
)

_any = select(exists().where(commands.c.awaits.is_not(None)))
_nothing_left = ~exists().where(orders.c.awaited_by == commands.c.awaits)
_complete = (
    update(commands)
    .where(commands.c.awaits.is_not(None), _nothing_left)
    .values(awaits=None, completed_at=bindparam("v_now"))
    .returning(*journal.SHOWN)
)
_complete_some = _complete.where(commands.c.awaits.in_(bindparam("holders", expanding=True)))


def begin(connection: Connection, command: Row[Any], keys: Collection[OrderKey]) -> None:
    """Note that ``command`` was not delivered to ``keys``, which get it when they can, if they are still to have it."""
    named = {"k_seq": command.seq, "k_unid": command.unid}
    connection.execute(_take_over, named)
    connection.execute(_follow, named)
    connection.execute(_give_up, {"k_seq": command.seq, "k_most": AT_ONCE})
    connection.execute(_mark, [{**bound(key), **named} for key in keys])


def acknowledged(connection: Connection, rows: Iterable[Row[Any]], now: float) -> list[dict[str, Any]]:
    """Note that ``rows`` have just been answered.

    :returns: the commands that this completes, oldest first, as items of the history.
    """
    met = [row for row in rows if row.awaited_by is not None]
    if not met:
        return []
    connection.execute(_clear_delivered, [bound(key_of(row)) for row in met])
    return _told(connection.execute(_complete_some, {"v_now": now, "holders": list({row.awaited_by for row in met})}))


def settled(
    connection: Connection, task_id: str | None, keys: Collection[OrderKey], now: float
) -> list[dict[str, Any]]:
    """Note that a command is settled.

    :param task_id: whose lock it has held; None: it was about the storage configuration of ``keys``.
    :returns: as :func:`acknowledged`.
    """
    if not connection.execute(_any).scalar():
        return []
    if task_id is not None:
        connection.execute(_clear_decided, {"k_task_id": task_id})
    elif keys:
        connection.execute(_clear_delivered, [bound(key) for key in keys])
    return _told(connection.execute(_complete, {"v_now": now}))


def _told(rows: Iterable[Row[Any]]) -> list[dict[str, Any]]:
    return [journal.item(row._mapping) for row in sorted(rows, key=lambda row: row.seq)]
