"""``store_confs``: storage configurations, replaced on all devices that use them (§20.3; ``docs/protocol.md`` §4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from attrs import define
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from devconf.commands import content
from devconf.commands.machine import Machine, Plan
from devconf.commands.registry import Call, command
from devconf.commands.schemas import ConnectWait, Id, Name, Page, Params, optional
from devconf.errors import CommandFailed, Ecode
from devconf.model import Role
from devconf.store import confs, journal, orders

#: Runs a function in a thread of its own: parsing a file takes long.
InThread = Callable[..., Deferred[Any]]


class GetStoreConfs(Page):
    """Params of ``get store_confs``."""

    unid: str | UnsetType = UNSET
    content: bool = False


class PostStoreConf(Params):
    """Params of ``post store_confs``."""

    name: Name
    file_ext: Annotated[str, Meta(pattern=content.FILE_EXT_PATTERN)]
    file_b64: str


class PutStoreConf(PostStoreConf):
    """Params of ``put store_confs``."""

    unid: Id
    connect_wait: ConnectWait | UnsetType = UNSET


class DeleteStoreConf(Params):
    """Params of ``delete store_confs``."""

    unid: Id


@define
class StoreConfCommands:
    """The handlers.

    :ivar _limit: bytes of content at most.
    """

    _machine: Machine
    _in_thread: InThread
    _limit: int

    @command("get store_confs", GetStoreConfs, Role.VIEWER)
    async def get(self, call: Call) -> dict[str, Any]:
        """List storage configurations, to operators with their contents."""
        if call.params.content and call.identity.role < Role.OPERATOR:
            raise CommandFailed(Ecode.FORBIDDEN, "contents take the role operator ($.params.content)")
        items, following = await self._machine.store.run(_list, call.params)
        return {"store_confs": items, "next": following}

    @command("post store_confs", PostStoreConf, Role.OPERATOR)
    async def post(self, call: Call) -> dict[str, Any]:
        """Store a new one."""
        params: PostStoreConf = call.params
        data = await self._check(params)
        unid = self._machine.random.identifier()

        def insert(connection: Connection, now: float) -> int:
            return confs.insert_conf(connection, now, unid, params.name, params.file_ext, data)

        def payload(rev: int) -> dict[str, Any]:
            return {"unid": unid, "rev": rev}

        return payload(await self._machine.record(call, {**_told(params, data), "unid": unid}, insert, payload))

    @command("delete store_confs", DeleteStoreConf, Role.OPERATOR)
    async def delete(self, call: Call) -> dict[str, Any]:
        """Delete one that nobody uses."""
        unid = call.params.unid

        def remove(connection: Connection, _now: float) -> None:
            # A change of a task that is under way may go back to it.
            if any(before.get("store_conf_unid") == unid for before in journal.planned_before(connection, "put_task")):
                raise CommandFailed(Ecode.IN_USE, "a task is being changed that uses it; try again ($.params.unid)")
            confs.delete_conf(connection, unid)

        release = await self._machine.locks.acquire(lock_of(unid), call.asker)
        try:
            await self._machine.record(call, {"unid": unid}, remove)
        finally:
            release()
        self._machine.store.scrub()
        return {}

    @command("put store_confs", PutStoreConf, Role.OPERATOR)
    async def put(self, call: Call) -> dict[str, Any]:
        """Replace one, and send it to everyone that uses it (§20.3)."""
        params: PutStoreConf = call.params
        data = await self._check(params)

        def plan(connection: Connection, now: float) -> Plan:
            rev, changed = confs.replace_conf(connection, now, params.unid, params.name, params.file_ext, data)
            if changed:
                targets = orders.want_store_conf(connection, params.unid)
            else:
                targets = orders.behind_store_conf(connection, params.unid)
            return Plan("put_store_conf", targets, payload={"unid": params.unid, "rev": rev}, erases=True)

        return await self._machine.run(
            call,
            lock_of(params.unid),
            plan,
            {**_told(params, data), "unid": params.unid},
            lambda connection: orders.devices_of(connection, conf=params.unid),
        )

    async def _check(self, params: PostStoreConf) -> bytes:
        data: bytes = await self._in_thread(content.check, params.file_ext, params.file_b64, self._limit)
        return data


def lock_of(unid: str) -> str:
    """Return the name of the lock of a storage configuration."""
    return f"store_conf {unid}"


def _told(params: PostStoreConf, data: bytes) -> dict[str, Any]:
    """What the history keeps: never the content."""
    return {"name": params.name, "file_ext": params.file_ext, "size": len(data), "sha256": confs.digest(data)}


def _list(connection: Connection, params: GetStoreConfs) -> tuple[list[dict[str, Any]], str | None]:
    return confs.list_confs(
        connection,
        limit=params.limit,
        after=optional(params.after),
        unid=optional(params.unid),
        content=params.content,
    )
