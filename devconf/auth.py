"""Ways in: who may, and as whom (``docs/protocol.md`` §1)."""

from __future__ import annotations

import hmac
from typing import Any

from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from devconf.clock import Now, Random, stamp
from devconf.config import Config, is_among
from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity, Role
from devconf.passwords import NOBODY, IPasswords
from devconf.sessions import Sessions
from devconf.store import Store, accounts

ATOKEN_LIVES = 3600.0
RTOKEN_LIVES = 30 * 86400.0
TICKET_LIVES = 60.0


@define
class Auth:
    """Logs accounts in, and knows them again by their tokens and tickets."""

    _store: Store
    _passwords: Any  # IPasswords
    _random: Random
    _now: Now
    _config: Config
    _sessions: Sessions
    unknown: UnknownDevices = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.unknown = UnknownDevices(self._now)

    async def login_user(self, user_name: str, password: str) -> dict[str, Any]:
        """Log an operator in and return the answer's fields.

        :raises CommandFailed: ``BAD_CREDENTIALS``, or ``TOO_MANY`` log in.
        """
        user = await self._store.run(accounts.find_user, user_name)
        # Of nobody, too, a password is compared: an unknown name must not be told by the time it takes.
        right = await self._passwords.verify(NOBODY if user is None else user.password_hash, password)
        if user is None or not right:
            raise _wrong_password()
        return await self._store.run(self._login_user, user_name, user.password_hash)

    def _login_user(self, connection: Connection, user_name: str, password_hash: str) -> dict[str, Any]:
        user = accounts.find_user(connection, user_name)
        # While the password was compared, the account may have got another one.
        if user is None or user.password_hash != password_hash:
            raise _wrong_password()
        return self._issue(connection, Identity(user.user_unid, user.user_name, Role(user.role)))

    async def login_device(self, dev_refid: str, dev_key: str | None, address: str) -> dict[str, Any]:
        """Log a device in and return the answer's fields.

        :param address: the device's, for those that may come without a key.
        :raises CommandFailed: ``BAD_CREDENTIALS``; never 1 or 2, at which devices in the field log in again at once.
        """
        tokens = await self._store.run(self._login_device, dev_refid, dev_key, address)
        if tokens is None:
            self.unknown.knocked(dev_refid, address)
            raise _not_enrolled()
        return tokens

    def _login_device(
        self, connection: Connection, dev_refid: str, dev_key: str | None, address: str
    ) -> dict[str, Any] | None:
        device = accounts.find_device(connection, dev_refid)
        if device is None:
            return None
        if not device.enabled:
            raise _not_enrolled()
        if dev_key is None:
            if device.key_required or device.key_used or not is_among(address, self._config.legacy_device_networks):
                raise CommandFailed(Ecode.BAD_CREDENTIALS, "this device has to log in with its dev_key")
        elif not hmac.compare_digest(device.key_hash, accounts.hashed(dev_key)):
            raise CommandFailed(Ecode.BAD_CREDENTIALS, "wrong dev_refid or dev_key, or the device is disabled")
        elif not device.key_used:
            accounts.key_used(connection, device.dev_unid)
        return self._issue(connection, Identity(device.dev_unid, device.dev_refid, Role.DEVICE))

    async def renew(self, rtoken: str) -> dict[str, Any]:
        """Return new tokens for an ``rtoken``, which works once: the fields of *login*.

        :raises CommandFailed: ``BAD_TOKEN``, ``TOKEN_EXPIRED``.
        """
        identity, tokens = await self._store.run(self._renew, rtoken)
        if tokens is None:
            self._sessions.end(identity.unid, "an rtoken was used twice; log in again", identity.family)
            raise CommandFailed(Ecode.BAD_TOKEN, "this rtoken has been used before; log in again")
        return tokens

    def _renew(self, connection: Connection, rtoken: str) -> tuple[Identity, dict[str, Any] | None]:
        identity, first = accounts.redeem_rtoken(connection, rtoken, self._now())
        return identity, self._issue(connection, identity) if first else None

    async def log_out(self, kind: str, token: str) -> None:
        """End the family of ``token``, and its sockets.

        :param kind: ``atoken`` or ``rtoken``.
        :raises CommandFailed: ``BAD_TOKEN``, ``TOKEN_EXPIRED``.
        """
        identity = await self._store.run(accounts.end_family, kind, token, self._now())
        self._sessions.end(identity.unid, "logged out", identity.family)

    def _issue(self, connection: Connection, identity: Identity) -> dict[str, Any]:
        now = self._now()
        family = identity.family or self._random.identifier()
        tokens: dict[str, Any] = {"user_unid": identity.unid, "user_type": identity.user_type}
        for kind, lives in (("atoken", ATOKEN_LIVES), ("rtoken", RTOKEN_LIVES)):
            secret = self._random.secret()
            accounts.insert_credential(connection, kind, secret, identity.unid, family, now + lives)
            tokens |= {kind: secret, f"{kind}_edt": stamp(now + lives)}
        return tokens

    def identify(self, atoken: str) -> Deferred[Identity]:
        """Fire with who ``atoken`` belongs to.

        :returns: fails with ``CommandFailed``: ``BAD_TOKEN``, ``TOKEN_EXPIRED``.
        """
        return self._store.run(accounts.identify, atoken, self._now())

    def redeem(self, ticket: str) -> Deferred[Identity]:
        """Fire with who a ticket was given to; it works once.

        :returns: fails with ``CommandFailed``: ``BAD_TOKEN``.
        """
        return self._store.run(accounts.redeem_ticket, ticket, self._now())

    async def ticket(self, identity: Identity) -> str:
        """Return a ``connect_unid`` for ``identity``: valid once, for 60 s.

        :raises CommandFailed: ``BAD_TOKEN``: since it was identified, the tokens it came with have ended.
        """
        ticket = self._random.identifier()
        await self._store.run(accounts.insert_ticket, ticket, identity, self._now() + TICKET_LIVES)
        return ticket

    def prune(self) -> Deferred[None]:
        """Forget what expired a day ago."""
        return self._store.run(accounts.prune, self._now())


def _wrong_password() -> CommandFailed:
    return CommandFailed(Ecode.BAD_CREDENTIALS, "wrong user_name or password")


def _not_enrolled() -> CommandFailed:
    return CommandFailed(
        Ecode.BAD_CREDENTIALS, "wrong dev_refid or dev_key, or the device is disabled; enrol it with `post devices`"
    )


#: Devices that are not enrolled, of which it is remembered that they tried to log in.
REMEMBERED = 1000


@define
class UnknownDevices:
    """Devices that tried to log in and are not enrolled: the latest of them, the last one last."""

    _now: Now
    _seen: dict[str, dict[str, Any]] = field(factory=dict, init=False)

    def knocked(self, dev_refid: str, address: str) -> None:
        """Note that ``dev_refid`` tried."""
        dev_refid, now = dev_refid[:256], stamp(self._now())
        seen = self._seen.pop(dev_refid, {"dev_refid": dev_refid, "first_at": now, "count": 0})
        self._seen[dev_refid] = {**seen, "addr": address, "last_at": now, "count": seen["count"] + 1}
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def enrolled(self, dev_refid: str) -> None:
        """Forget ``dev_refid``: it is known now."""
        self._seen.pop(dev_refid, None)

    def listed(self) -> list[dict[str, Any]]:
        """Return what is remembered, the last one first, as items of §4."""
        return [dict(seen) for seen in reversed(self._seen.values())]


__all__ = ["Auth", "IPasswords"]
