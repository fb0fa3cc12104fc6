"""What devices answered, and what they say they have, written into the rows of :mod:`devconf.store.orders`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Row, and_, bindparam, case, delete, exists, func, or_, select, tuple_, update

from devconf.errors import Ecode
from devconf.model import OrderKey
from devconf.store.orders import (
    KEY,
    behind,
    bound,
    deleted,
    key_of,
    raise_rows,
    rows_of,
    this,
    want_deleted,
    want_present,
)
from devconf.store.tables import commands, devices, orders, tasks

#: A device may not push a task's counter beyond this: 2**52 further changes remain.
MAX_REV = 2**52

#: Beyond the rev of an order that is answered when its task is gone: the device has seen no rev above that.
LEAP = 2**20

#: By these a device says that it has no such task, or no such subtask (§6).
LACKS = (1004040001, 1004040003)

#: With these a device has not got what it was sent; any other answer is a delivery (§4, put store_confs).
UNDELIVERED = (*LACKS, Ecode.LOST)


class Outcome(Enum):
    """What an answer says of the order it answers; ``LOST``: there is none, it has cost too many connections."""

    APPLIED = "applied"
    REFUSED = "refused"
    LACKS = "lacks"
    STALE = "stale"
    LOST = "lost"


@frozen
class Acknowledgement:
    """An answer to an order, to be written.

    :ivar epoch: of the connection it came on; one that is not the device's newest is not written.
    :ivar ecode: the device's own; of ``LOST`` ours.
    :ivar device_rev: of ``STALE``: the rev that the device has.
    """

    key: OrderKey
    rev: int
    epoch: int
    outcome: Outcome
    ecode: int = 0
    enote: str = ""
    device_rev: int = 0
    late: bool = False


_current = select(devices.c.epoch).where(devices.c.dev_unid == orders.c.dev_unid).scalar_subquery() == bindparam(
    "k_epoch"
)
_newer = orders.c.acked_rev < bindparam("k_rev")
running = exists().where(commands.c.task_id == orders.c.task_id, commands.c.settled_at.is_(None))

_answered: dict[str, Any] = {
    "acked_rev": bindparam("k_rev"),
    "ecode": bindparam("v_ecode"),
    "enote": bindparam("v_enote"),
    "at": bindparam("v_at"),
    "late": bindparam("v_late"),
    "epoch": bindparam("k_epoch"),
}
_statements = {
    # A *modify* of what the device is taken to lack since it was sent (resync) says nothing: *add* follows.
    Outcome.APPLIED: update(orders)
    .where(this, _newer, _current, or_(bindparam("v_kind") != "modify", orders.c.applied_rev > 0))
    .values(
        # A late answer to a delete that has been taken back: the device has nothing.
        applied_rev=case(
            (and_(bindparam("v_kind") == "delete", orders.c.life == "present"), 0), else_=bindparam("k_rev")
        ),
        **_answered,
    ),
    Outcome.REFUSED: update(orders).where(this, _newer, _current).values(**_answered),
    Outcome.LOST: update(orders)
    .where(this, _newer, _current, orders.c.wanted_rev == bindparam("k_rev"))
    .values(**_answered),
    Outcome.LACKS: update(orders).where(this, _newer, _current).values(acked_rev=0, applied_rev=0),
}
# What a delete was answered is kept while its command runs, which settles it; else any answer ends the matter.
_over = delete(orders).where(this, deleted, ~running)
_epoch = select(devices.c.epoch).where(devices.c.dev_unid == bindparam("dev_unid"))


def acknowledge(
    connection: Connection, answers: Sequence[tuple[Acknowledgement, str]], now: float
) -> dict[OrderKey, Row[Any]]:
    """Write ``answers``, each with the kind of the order that it answers.

    :returns: the rows they concern as they are then; a key that is missing has no row any longer.
    """
    for outcome, statement in _statements.items():
        values = [
            {
                **bound(answer.key),
                "k_rev": answer.rev,
                "k_epoch": answer.epoch,
                "v_ecode": answer.ecode,
                "v_enote": answer.enote,
                "v_at": now,
                "v_late": answer.late,
                **({"v_kind": kind} if outcome is Outcome.APPLIED else {}),
            }
            for answer, kind in answers
            if answer.outcome is outcome
        ]
        if values:
            connection.execute(statement, values)
    for answer, _ in answers:
        if answer.outcome is Outcome.STALE:
            _overtake(connection, answer)
    last = {answer.key: (answer, kind) for answer, kind in answers}
    connection.execute(_over, [bound(key) for key in last])
    rows = rows_of(connection, list(last))
    for answer, kind in last.values():
        if answer.outcome is Outcome.APPLIED and kind != "delete" and answer.key not in rows:
            _take_away(connection, answer)
            rows |= rows_of(connection, [answer.key])
    return rows


def _take_away(connection: Connection, answer: Acknowledgement) -> None:
    """Let a device delete what it did late, after it had said that it lacks what it was to delete."""
    if connection.execute(_epoch, {"dev_unid": answer.key.dev_unid}).scalar() == answer.epoch:
        _want_away(connection, answer.key, answer.rev, LEAP)


def _want_away(connection: Connection, key: OrderKey, rev: int, leap: int = 1) -> None:
    """Let a device delete what there is no row of.

    :param rev: the device has it at this one.
    :param leap: how far beyond that, if the task is gone with its counter.
    """
    # Of a task that there is, the device may have seen a higher rev than the one it tells.
    counted = update(tasks).where(tasks.c.task_id == key.task_id).values(rev=func.max(tasks.c.rev, rev) + 1)
    above = connection.execute(counted.returning(tasks.c.rev)).scalar() or rev + leap
    want_present(connection, [key], above)
    want_deleted(connection, [key], above)


def _overtake(connection: Connection, answer: Acknowledgement) -> None:
    """Raise the task's counter above the rev that the device says it has, and want the same again."""
    task_id = answer.key.task_id
    above = answer.device_rev + 1
    connection.execute(update(tasks).where(tasks.c.task_id == task_id).values(rev=func.max(tasks.c.rev + 1, above)))
    rev = connection.execute(select(tasks.c.rev).where(tasks.c.task_id == task_id)).scalar()
    connection.execute(
        update(orders)
        .where(this, _newer, _current)
        .values(wanted_rev=func.max(orders.c.wanted_rev + 1, above) if rev is None else rev),
        {**bound(answer.key), "k_rev": answer.rev, "k_epoch": answer.epoch},
    )


@frozen
class Connected:
    """What the server has to know of a device that connects.

    :ivar epoch: of this connection, greater than that of any before.
    :ivar echoes: it has sent a ``req_id`` back before.
    :ivar behind: there is something to send.
    """

    epoch: int
    echoes: bool
    behind: bool


_of_device = orders.c.dev_unid == bindparam("dev_unid")
_new_epoch = (
    update(devices)
    .where(devices.c.dev_unid == bindparam("k_dev_unid"), devices.c.enabled)
    .values(epoch=devices.c.epoch + 1)
    .returning(devices.c.epoch, devices.c.echoes)
)
# What rests is not sent again because of a connection: it has cost the ones before.
_no = and_(orders.c.ecode != 0, orders.c.ecode != Ecode.LOST, ~behind)
_refused = select(exists().where(_of_device, _no))
_behind = select(exists().where(_of_device, behind))
_all = select(orders).where(_of_device)


def connect(connection: Connection, dev_unid: str) -> Connected | None:
    """Note that ``dev_unid`` connects: what it refused is wanted again, with a new rev (§4).

    :returns: None if it may not connect any longer.
    """
    row = connection.execute(_new_epoch, {"k_dev_unid": dev_unid}).one_or_none()
    if row is None:
        return None
    if connection.execute(_refused, {"dev_unid": dev_unid}).scalar():
        raise_rows(connection, and_(orders.c.dev_unid == dev_unid, _no))
    late = connection.execute(_behind, {"dev_unid": dev_unid}).scalar()
    return Connected(row.epoch, row.echoes, bool(late))


def learn_echo(connection: Connection, dev_unid: str) -> None:
    """Note that ``dev_unid`` sends a ``req_id`` back."""
    connection.execute(update(devices).where(devices.c.dev_unid == dev_unid).values(echoes=True))


#: A device may make the server remember so many tasks that only the device knows of.
MAX_UNKNOWN = 1000


def reconcile(connection: Connection, dev_unid: str, has: dict[OrderKey, int]) -> None:
    """Compare what ``dev_unid`` says it has with what it should have (*register*, §1).

    What differs is wanted anew, and what we do not know of is to be deleted there.

    :param has: each task or subtask, and the rev that the device has of it.
    """
    rows = {key_of(row): row for row in connection.execute(_all, {"dev_unid": dev_unid})}
    differs = [key for key, row in rows.items() if row.applied_rev and has.get(key) != row.applied_rev]
    # What it said yes to before it lost it may come only now: then that is to a rev that is wanted no longer.
    lacks = [key for key, row in rows.items() if not row.applied_rev and row.wanted_rev > row.acked_rev]
    anew = [*differs, *(key for key in lacks if key not in has)]
    for start in range(0, len(anew), 500):
        # With a new rev: the device may have kept what it said to the old one.
        raise_rows(connection, tuple_(*KEY).in_(anew[start : start + 500]))
    if differs:
        nothing = update(orders).where(this).values(acked_rev=0, applied_rev=0, ecode=0, enote="")
        connection.execute(nothing, [bound(key) for key in differs])
    unknown = [(key, rev) for key, rev in has.items() if key not in rows and 0 <= rev < MAX_REV]
    # It may have refused to delete it, at a rev that nobody remembers, and would say so again without looking. So the
    # rev is another one each time: it registers before it connects, and each connection has a greater epoch.
    leap = LEAP + (connection.execute(_epoch, {"dev_unid": dev_unid}).scalar() or 0)
    for key, rev in unknown[: max(0, MAX_UNKNOWN - sum(row.life == "deleted" for row in rows.values()))]:
        _want_away(connection, key, rev, leap)
