"""``commands``: the history, who did what and how it ended (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Any

from attrs import define
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from devconf import wire
from devconf.commands.machine import Machine
from devconf.commands.registry import Call, command
from devconf.commands.schemas import Page, optional
from devconf.model import Role
from devconf.store import journal
from devconf.store.paging import PAGE_BYTES


class GetCommands(Page):
    """Params of ``get commands``."""

    command_id: str | UnsetType = UNSET
    task_id: str | UnsetType = UNSET
    dev_unid: str | UnsetType = UNSET
    user_name: str | UnsetType = UNSET


@define
class HistoryCommands:
    """The handler."""

    _machine: Machine

    @command("get commands", GetCommands, Role.VIEWER)
    async def get(self, call: Call) -> dict[str, Any]:
        """List what was done, the newest first; viewers see what they did themselves."""
        params: GetCommands = call.params
        only = call.identity.unid if call.identity.role == Role.VIEWER else None
        found: list[dict[str, Any]] = []
        room, after = PAGE_BYTES, optional(params.after)
        while True:
            limit = params.limit - len(found)
            items, after, size = await self._machine.store.run(_list, params, limit, after, only, room)
            found += items
            room -= size
            if after is None or len(found) == params.limit or room <= 0 or call.gone():
                return {"commands": found, "next": after}


def _list(
    connection: Connection, params: GetCommands, limit: int, after: str | None, user_unid: str | None, room: int
) -> tuple[list[dict[str, Any]], str | None, int]:
    items, following = journal.list_commands(
        connection,
        limit=limit,
        after=after,
        command_id=optional(params.command_id),
        task_id=optional(params.task_id),
        dev_unid=optional(params.dev_unid),
        user_name=optional(params.user_name),
        user_unid=user_unid,
        room=room,
    )
    return items, following, len(wire.encode(items))
