"""Idempotency keys: requests that changed something, each with its answer (``docs/protocol.md`` §2).

A key is written in the transaction that carries its request out, and its answer in the one that decides it: they
stand or fall together.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, or_, select, update

from devconf import wire
from devconf.store.tables import idempotency

#: Seconds that a key is kept.
KEPT_FOR = 86400.0
#: Keys that are kept besides those of the last hour.
KEPT = 1_000_000
#: Seconds that every key is kept, however many there are.
KEPT_AT_LEAST = 3600.0
#: Bytes of an answer that are kept.
ANSWER_MAX = 65536
#: Keys that one transaction looks at to remove them: others have their turn in between.
SLICE = 10_000
#: What an answer shows once.
_SECRETS = frozenset({"dev_key"})


@frozen
class Key:
    """A request that has a key.

    :ivar digest: of the key, which is not stored itself.
    :ivar fingerprint: of the command and its params, by which others with the same key are told apart.
    :ivar named: what the response repeats of the params.
    """

    user_unid: str
    digest: str
    fingerprint: str
    named: dict[str, str]


def _this(user_unid: str, digest: str) -> ColumnElement[bool]:
    return and_(idempotency.c.user_unid == user_unid, idempotency.c.digest == digest)


def _over(now: float) -> ColumnElement[bool]:
    # A clock that was ahead must not make keys that outlive it.
    return or_(idempotency.c.at <= now - KEPT_FOR, idempotency.c.at > now + KEPT_FOR)


def find(connection: Connection, key: Key, now: float) -> Row[Any] | None:
    """Return the request that was made with ``key``, with its ``fingerprint`` and its ``answer``, if it is kept."""
    connection.execute(delete(idempotency).where(_this(key.user_unid, key.digest), _over(now)))
    return connection.execute(select(idempotency).where(_this(key.user_unid, key.digest))).one_or_none()


def begin(connection: Connection, key: Key, now: float) -> None:
    """Write ``key``, whose request is carried out in this transaction."""
    values = {"user_unid": key.user_unid, "digest": key.digest, "fingerprint": key.fingerprint}
    connection.execute(insert(idempotency).values(at=now, **values))


def answer(connection: Connection, user_unid: str, digest: str, response: dict[str, Any]) -> None:
    """Write what a request was answered, but for its secrets, and for what is too large; its key may be gone."""
    connection.execute(update(idempotency).where(_this(user_unid, digest)).values(answer=_kept(response)))


def _kept(response: dict[str, Any]) -> dict[str, Any]:
    left_out = [name for name in response if name in _SECRETS]
    kept = {name: value for name, value in response.items() if name not in left_out}
    sizes = {name: len(wire.encode(value)) for name, value in kept.items() if isinstance(value, dict | list)}
    while sizes and len(wire.encode(kept)) > ANSWER_MAX:
        largest = max(sizes, key=sizes.__getitem__)
        del kept[largest], sizes[largest]
        left_out.append(largest)
    return {**kept, "not_kept": left_out} if left_out else kept


def forget(connection: Connection, key: Key) -> None:
    """Forget ``key``: nothing was done."""
    connection.execute(delete(idempotency).where(_this(key.user_unid, key.digest)))


def forget_user(connection: Connection, user_unid: str) -> None:
    """Forget the keys of an account."""
    connection.execute(delete(idempotency).where(idempotency.c.user_unid == user_unid))


def prune(connection: Connection, now: float) -> bool:
    """Remove keys whose time is over, and the oldest of too many.

    :returns: whether there may be more to remove.
    """
    newest = connection.execute(select(func.max(idempotency.c.seq))).scalar() or 0
    oldest = select(idempotency.c.seq).order_by(idempotency.c.seq).limit(SLICE)
    too_many = and_(idempotency.c.seq <= newest - KEPT, idempotency.c.at <= now - KEPT_AT_LEAST)
    removed = delete(idempotency).where(idempotency.c.seq.in_(oldest), or_(_over(now), too_many))
    return connection.execute(removed).rowcount > 0
