"""Orders that rest, since their device lost its connection each time it was sent them (``docs/protocol.md`` §6).

Such a row of :mod:`devconf.store.orders` is refused, with an ecode that no device says: it is not behind, so nothing of
it is sent, until it changes, is forgotten (``devices/resync``), or has rested for long enough and is woken here.
"""

from __future__ import annotations

from sqlalchemy import Connection, and_, func, or_, select

from devconf.errors import Ecode
from devconf.model import OrderKey
from devconf.store.orders import KEY, behind, key_of, raise_rows
from devconf.store.tables import orders

#: Seconds by the wall clock, since a rest outlives the server.
REST = 3600.0

_rests = and_(orders.c.ecode == Ecode.LOST, ~behind)
_soonest = select(func.min(orders.c.at)).where(_rests)


def wake(connection: Connection, now: float) -> tuple[list[OrderKey], float | None]:
    """Let what has rested long enough be sent once more, with a new rev.

    :returns: what that is, and in how many seconds the next has rested long enough; None: nothing rests.
    """
    ended = now - REST
    # One that began in the future tells that the clock has been set back: nobody knows for how long it has rested.
    rested = and_(_rests, or_(orders.c.at <= ended, orders.c.at > now))
    keys = [key_of(row) for row in connection.execute(select(*KEY).where(rested))]
    if keys:
        raise_rows(connection, rested)
    soonest = connection.execute(_soonest).scalar()
    return keys, None if soonest is None else max(0.0, soonest - ended)
