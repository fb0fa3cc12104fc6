"""``users``: the accounts of operators (``docs/protocol.md`` §1 and §4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from attrs import define
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection

from devconf.commands.machine import Machine
from devconf.commands.registry import Call, command
from devconf.commands.schemas import Name, Page, Params, optional
from devconf.errors import CommandFailed, Ecode
from devconf.model import Role
from devconf.sessions import Sessions
from devconf.store import accounts

Password = Annotated[str, Meta(min_length=1, max_length=1024)]
RoleName = Literal["viewer", "operator", "admin"]


class GetUsers(Page):
    """Params of ``get users``."""

    user_name: str | UnsetType = UNSET


class PostUser(Params):
    """Params of ``post users``."""

    user_name: Name
    role: RoleName
    password: Password


class PutUser(Params):
    """Params of ``put users``."""

    user_name: Name
    role: RoleName | UnsetType = UNSET
    password: Password | UnsetType = UNSET
    old_password: Password | UnsetType = UNSET


class DeleteUser(Params):
    """Params of ``delete users``."""

    user_name: Name


@define
class UserCommands:
    """The handlers."""

    _machine: Machine
    _sessions: Sessions
    _passwords: Any  # IPasswords

    @command("get users", GetUsers, Role.ADMIN)
    async def get(self, call: Call) -> dict[str, Any]:
        """List accounts."""
        items, following = await self._machine.store.run(_list, call.params)
        return {"users": items, "next": following}

    @command("post users", PostUser, Role.ADMIN)
    async def post(self, call: Call) -> dict[str, Any]:
        """Make an account."""
        params: PostUser = call.params
        _check_size(params.password)
        hashed = await self._passwords.hash(params.password)
        user_unid = self._machine.random.identifier()

        def insert(connection: Connection, now: float) -> None:
            accounts.insert_user(connection, now, user_unid, params.user_name, Role.named(params.role), hashed)

        await self._machine.record(call, {"user_name": params.user_name, "role": params.role}, insert)
        return {}

    @command("put users", PutUser, Role.VIEWER)
    async def put(self, call: Call) -> dict[str, Any]:
        """Change an account: an admin anybody's, the others their own password."""
        params: PutUser = call.params
        role, password = optional(params.role), optional(params.password)
        if role is None and password is None:
            raise CommandFailed(Ecode.BAD_FIELD, "$.params must have what is to change: role or password")
        _check_size(password or "")
        old_hash = await self._check(call, params)
        values: dict[str, Any] = {}
        told: dict[str, Any] = {"user_name": params.user_name}
        if role is not None:
            values["role"] = Role.named(role)
            told["role"] = role
        if password is not None:
            values["password_hash"] = await self._passwords.hash(password)
            told["new_password"] = True
        user_unid = await self._machine.record(
            call, told, lambda connection, _now: accounts.change_user(connection, params.user_name, values, old_hash)
        )
        self._end(user_unid, "this account has another role or password; log in again")
        return {}

    async def _check(self, call: Call, params: PutUser) -> str | None:
        """Check that who asks may, and knows the old password if one is given.

        :returns: what is stored of that password. While it was compared, the account may have got another one.
        :raises CommandFailed: ``FORBIDDEN``, ``NO_SUCH_USER``, ``BAD_CREDENTIALS``.
        """
        old_password = optional(params.old_password)
        if call.identity.role < Role.ADMIN and (
            params.user_name != call.identity.name or optional(params.role) is not None or old_password is None
        ):
            raise CommandFailed(
                Ecode.FORBIDDEN, "this takes the role admin; your own password you may change with old_password"
            )
        if old_password is None:
            return None
        user = await self._machine.store.run(accounts.get_user, params.user_name)
        if not await self._passwords.verify(user.password_hash, old_password):
            raise accounts.wrong_old_password()
        return str(user.password_hash)

    @command("delete users", DeleteUser, Role.ADMIN)
    async def delete(self, call: Call) -> dict[str, Any]:
        """Delete an account."""
        user_name = call.params.user_name
        user_unid = await self._machine.record(
            call, {"user_name": user_name}, lambda connection, _now: accounts.delete_user(connection, user_name)
        )
        self._end(user_unid, "this account was deleted")
        return {}

    def _end(self, user_unid: str, reason: str) -> None:
        # Who changes their own account is answered first.
        self._machine.clock.callLater(0, self._sessions.end, user_unid, reason)


def _check_size(password: str) -> None:
    # A login, which is bounded in bytes, has to have room for it.
    if len(password.encode()) > 1024:
        raise CommandFailed(Ecode.BAD_FIELD, "$.params.password is longer than 1024 bytes")


def _list(connection: Connection, params: GetUsers) -> tuple[list[dict[str, Any]], str | None]:
    return accounts.page_of_users(
        connection, limit=params.limit, after=optional(params.after), user_name=optional(params.user_name)
    )
