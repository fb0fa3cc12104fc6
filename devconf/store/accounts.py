"""Accounts of operators, and the tokens and tickets of all."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, literal, select, union_all, update
from sqlalchemy.exc import IntegrityError

from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity, Role
from devconf.store import keys
from devconf.store.paging import page
from devconf.store.tables import credentials, devices, users


def hashed(secret: str) -> str:
    """Return what is stored of a key, token or ticket: 256 random bits need no more than SHA-256."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


# -- operators ----------------------------------------------------------------------------------------------------


def find_user(connection: Connection, user_name: str) -> Row[Any] | None:
    """Return the account ``user_name``."""
    return connection.execute(select(users).where(users.c.user_name == user_name)).one_or_none()


def get_user(connection: Connection, user_name: str) -> Row[Any]:
    """Return the account ``user_name``.

    :raises CommandFailed: ``NO_SUCH_USER``.
    """
    row = find_user(connection, user_name)
    if row is None:
        raise CommandFailed(Ecode.NO_SUCH_USER, f"there is no user {user_name!r}")
    return row


def insert_user(
    connection: Connection, now: float, user_unid: str, user_name: str, role: Role, password_hash: str
) -> None:
    """Store a new account.

    :raises CommandFailed: ``ALREADY_EXISTS``.
    """
    try:
        connection.execute(
            insert(users).values(
                user_unid=user_unid, user_name=user_name, role=role, password_hash=password_hash, created_at=now
            )
        )
    except IntegrityError:
        raise CommandFailed(Ecode.ALREADY_EXISTS, f"there is a user {user_name!r} already") from None


def change_user(connection: Connection, user_name: str, values: dict[str, Any], old_hash: str | None) -> str:
    """Change columns of an account and end its tokens.

    :param old_hash: of the password that who asks has shown to know; None: they need not.
    :returns: its ``user_unid``.
    :raises CommandFailed: ``NO_SUCH_USER``, ``BAD_CREDENTIALS``: its password is another by now, or ``IN_USE``: it is
        the last admin.
    """
    row = get_user(connection, user_name)
    if old_hash is not None and row.password_hash != old_hash:
        raise wrong_old_password()
    if values.get("role", Role.ADMIN) != Role.ADMIN:
        _keep_an_admin(connection, row)
    connection.execute(update(users).where(users.c.user_name == user_name).values(**values))
    end_tokens(connection, row.user_unid)
    return str(row.user_unid)


def wrong_old_password() -> CommandFailed:
    """Return what a change with another ``old_password`` than the account's is refused with."""
    return CommandFailed(Ecode.BAD_CREDENTIALS, "$.params.old_password is wrong")


def delete_user(connection: Connection, user_name: str) -> str:
    """Delete an account, its tokens and its idempotency keys.

    :returns: its ``user_unid``.
    :raises CommandFailed: ``NO_SUCH_USER``, or ``IN_USE``: it is the last admin.
    """
    row = get_user(connection, user_name)
    _keep_an_admin(connection, row)
    end_tokens(connection, row.user_unid)
    keys.forget_user(connection, row.user_unid)
    connection.execute(delete(users).where(users.c.user_name == user_name))
    return str(row.user_unid)


def _keep_an_admin(connection: Connection, row: Row[Any]) -> None:
    admins = connection.execute(select(func.count()).select_from(users).where(users.c.role == Role.ADMIN)).scalar()
    if row.role == Role.ADMIN and admins == 1:
        raise CommandFailed(Ecode.IN_USE, f"{row.user_name!r} is the last admin; make another one first")


def list_users(connection: Connection) -> list[dict[str, Any]]:
    """Return all accounts as items of §4, in the order of creation."""
    return [_user_item(row) for row in connection.execute(select(users).order_by(users.c.seq))]


def page_of_users(
    connection: Connection, *, limit: int, after: str | None, user_name: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of accounts as items of §4, and the ``after`` of the next one."""
    statement = select(users)
    if user_name is not None:
        statement = statement.where(users.c.user_name == user_name)
    rows, following = page(connection, statement, users.c.seq, limit, after)
    return [_user_item(row) for row in rows], following


def _user_item(row: Row[Any]) -> dict[str, Any]:
    return {"user_unid": row.user_unid, "user_name": row.user_name, "role": Role(row.role).title}


# -- tokens and tickets -------------------------------------------------------------------------------------------

# Made once: a fleet that comes back asks them thousands of times.
_insert = insert(credentials)
_by_hash = select(credentials).where(credentials.c.hash == bindparam("hash"), credentials.c.kind == bindparam("kind"))
_still_there = select(credentials.c.hash).where(
    credentials.c.unid == bindparam("unid"),
    credentials.c.family == bindparam("family"),
    credentials.c.kind != "ticket",
)
_redeem = (
    delete(credentials)
    .where(
        credentials.c.hash == bindparam("hash_"),
        credentials.c.kind == "ticket",
        credentials.c.expires_at > bindparam("now"),
    )
    .returning(*credentials.c)
)
_account_of = union_all(
    select(users.c.user_name.label("name"), users.c.role).where(users.c.user_unid == bindparam("unid")),
    select(devices.c.dev_refid, literal(int(Role.DEVICE))).where(
        devices.c.dev_unid == bindparam("unid"), devices.c.enabled
    ),
)


def insert_credential(
    connection: Connection, kind: str, secret: str, unid: str, family: str, expires_at: float
) -> None:
    """Store a token or ticket; only its hash is kept."""
    named = {"hash": hashed(secret), "kind": kind, "unid": unid, "family": family, "expires_at": expires_at}
    connection.execute(_insert, {**named, "used": False})


def insert_ticket(connection: Connection, ticket: str, identity: Identity, expires_at: float) -> None:
    """Store a ticket, unless the tokens with which ``identity`` came have ended meanwhile.

    :raises CommandFailed: ``BAD_TOKEN``.
    """
    named = {"unid": identity.unid, "family": identity.family}
    if connection.execute(_still_there, named).first() is None:
        raise _not_valid()
    insert_credential(connection, "ticket", ticket, identity.unid, identity.family, expires_at)


def identify(connection: Connection, atoken: str, now: float) -> Identity:
    """Return who ``atoken`` belongs to.

    :raises CommandFailed: ``BAD_TOKEN``, ``TOKEN_EXPIRED``.
    """
    return _account(connection, _token(connection, atoken, "atoken", now))


def _token(connection: Connection, token: str, kind: str, now: float) -> Row[Any]:
    row = connection.execute(_by_hash, {"hash": hashed(token), "kind": kind}).one_or_none()
    if row is None:
        raise _not_valid()
    if row.expires_at <= now:
        raise CommandFailed(Ecode.TOKEN_EXPIRED, "this token has expired; log in again, or use the rtoken")
    return row


def _not_valid() -> CommandFailed:
    return CommandFailed(Ecode.BAD_TOKEN, "this token is not valid; log in again")


def redeem_ticket(connection: Connection, ticket: str, now: float) -> Identity:
    """Return who a ticket was given to; it works once.

    :raises CommandFailed: ``BAD_TOKEN``.
    """
    row = connection.execute(_redeem, {"hash_": hashed(ticket), "now": now}).one_or_none()
    if row is None:
        raise CommandFailed(Ecode.BAD_TOKEN, "this address is not valid any longer; ask for a new one")
    return _account(connection, row)


def redeem_rtoken(connection: Connection, rtoken: str, now: float) -> tuple[Identity, bool]:
    """Return who ``rtoken`` belongs to, and whether it is used for the first time; else its whole family has ended.

    :raises CommandFailed: ``BAD_TOKEN``, ``TOKEN_EXPIRED``.
    """
    row = _token(connection, rtoken, "rtoken", now)
    identity = _account(connection, row)
    if row.used:
        end_tokens(connection, row.unid, row.family)
        return identity, False
    connection.execute(update(credentials).where(credentials.c.hash == row.hash).values(used=True))
    return identity, True


def end_family(connection: Connection, kind: str, token: str, now: float) -> Identity:
    """End all tokens and tickets of the family of ``token``, and return whose they were.

    :param kind: ``atoken`` or ``rtoken``.
    :raises CommandFailed: ``BAD_TOKEN``, ``TOKEN_EXPIRED``.
    """
    row = _token(connection, token, kind, now)
    end_tokens(connection, row.unid, row.family)
    return _account(connection, row)


def _account(connection: Connection, credential: Row[Any]) -> Identity:
    account = connection.execute(_account_of, {"unid": credential.unid}).one_or_none()
    if account is None:
        raise CommandFailed(Ecode.BAD_TOKEN, "this account is disabled or gone")
    return Identity(credential.unid, account.name, Role(account.role), credential.family)


def end_tokens(connection: Connection, unid: str, family: str | None = None) -> None:
    """End the tokens and tickets of an account, or of one family of it."""
    statement = delete(credentials).where(credentials.c.unid == unid)
    if family is not None:
        statement = statement.where(credentials.c.family == family)
    connection.execute(statement)


def prune(connection: Connection, now: float) -> None:
    """Forget tokens and tickets that expired a while ago: until then it can be told that they have."""
    connection.execute(delete(credentials).where(credentials.c.expires_at < now - 86400))


_by_refid = select(devices).where(devices.c.dev_refid == bindparam("dev_refid"))


def find_device(connection: Connection, dev_refid: str) -> Row[Any] | None:
    """Return the device ``dev_refid``."""
    return connection.execute(_by_refid, {"dev_refid": dev_refid}).one_or_none()


def key_used(connection: Connection, dev_unid: str) -> None:
    """Note that a device has used its key: from now on it is needed."""
    connection.execute(update(devices).where(devices.c.dev_unid == dev_unid).values(key_used=True))
