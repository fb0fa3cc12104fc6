"""``devices`` and ``devices/resync`` (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Any

from attrs import define
from msgspec import UNSET, UnsetType, to_builtins
from sqlalchemy import Connection

from devconf.auth import UnknownDevices
from devconf.clock import stamp
from devconf.commands.machine import Machine
from devconf.commands.registry import Call, command
from devconf.commands.schemas import Id, Name, Page, Params, StateName, Text, optional
from devconf.errors import CommandFailed, Ecode
from devconf.model import Role
from devconf.sessions import Sessions
from devconf.store import devices, orders
from devconf.store.accounts import hashed


class GetDevices(Page):
    """Params of ``get devices``."""

    dev_unid: str | UnsetType = UNSET
    online: bool | UnsetType = UNSET
    state: StateName | UnsetType = UNSET
    text: Text | UnsetType = UNSET


class PostDevice(Params):
    """Params of ``post devices``."""

    dev_refid: Name
    dev_name: Text | UnsetType = UNSET
    dev_type: Text | UnsetType = UNSET
    key_required: bool = True


class PutDevice(Params):
    """Params of ``put devices``."""

    dev_unid: Id
    dev_name: Text | UnsetType = UNSET
    dev_refid: Name | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    key_required: bool | UnsetType = UNSET
    new_key: bool | UnsetType = UNSET


class OneDevice(Params):
    """Params of ``delete devices`` and ``post devices/resync``."""

    dev_unid: Id


@define
class DeviceCommands:
    """The handlers."""

    _machine: Machine
    _sessions: Sessions
    _unknown: UnknownDevices

    @command("get devices", GetDevices, Role.VIEWER)
    async def get(self, call: Call) -> dict[str, Any]:
        """List devices."""
        hub = self._machine.hub
        items, following = await self._machine.store.run(_list, call.params, hub)
        for item in items:
            link = hub.get(item["dev_unid"])
            if link is not None:
                item |= {"online": True, "since": stamp(link.since), "addr": link.address}
            other = hub.duplicates.other(item["dev_unid"])
            if other is not None:
                item["duplicate"] = other
        return {"devices": items, "next": following}

    @command("post devices", PostDevice, Role.ADMIN)
    async def post(self, call: Call) -> dict[str, Any]:
        """Enrol a device; its key is shown this once."""
        params: PostDevice = call.params
        dev_unid, key = self._machine.random.identifier(), self._machine.random.secret()

        def insert(connection: Connection, now: float) -> None:
            devices.insert_device(
                connection,
                now,
                dev_unid=dev_unid,
                dev_refid=params.dev_refid,
                dev_name=optional(params.dev_name) or "",
                named_by_operator=bool(optional(params.dev_name)),
                dev_type=optional(params.dev_type) or "",
                key_required=params.key_required,
                key_hash=hashed(key),
            )

        payload = {"dev_unid": dev_unid, "dev_key": key}
        await self._machine.record(call, {**to_builtins(params), "dev_unid": dev_unid}, insert, lambda _: payload)
        self._unknown.enrolled(params.dev_refid)
        self._tell(dev_unid, params.dev_refid, "enrolled")
        return payload

    def _tell(self, dev_unid: str, dev_refid: str, change: str) -> None:
        told = {"dev_unid": dev_unid, "dev_refid": dev_refid, "change": change}
        self._machine.events.publish("devices", told)

    @command("get devices/unknown", Params, Role.ADMIN)
    async def unknown(self, _call: Call) -> dict[str, Any]:
        """List devices that tried to log in and are not enrolled."""
        return {"unknown": self._unknown.listed()}

    @command("put devices", PutDevice, Role.ADMIN)
    async def put(self, call: Call) -> dict[str, Any]:
        """Change a device; one that is disabled, gets a new key or is other hardware is disconnected."""
        params: PutDevice = call.params
        values, key = self._changes(params)

        def change(connection: Connection, _now: float) -> Any:
            return devices.change_device(connection, params.dev_unid, values)

        payload = {} if key is None else {"dev_key": key}
        before = await self._machine.record(call, to_builtins(params), change, lambda _: payload)
        if values.get("enabled") is False:
            self._machine.arrivals.excuse(params.dev_unid)
        for ends, why in (
            (key is not None, "this device was given a new key"),
            (values.get("enabled") is False, "this device was disabled"),
            (values.get("dev_refid", before.dev_refid) != before.dev_refid, "other hardware takes this place"),
        ):
            if ends:
                self._sessions.end(params.dev_unid, why)
                self._machine.hub.duplicates.forget(params.dev_unid)
                break
        dev_refid = values.get("dev_refid", before.dev_refid)
        self._unknown.enrolled(dev_refid)
        self._tell(params.dev_unid, dev_refid, "changed")
        return payload

    def _changes(self, params: PutDevice) -> tuple[dict[str, Any], str | None]:
        asked = {name: value for name, value in to_builtins(params).items() if name != "dev_unid"}
        if not asked:
            raise CommandFailed(Ecode.BAD_FIELD, "$.params must have what is to change: dev_name, dev_refid, ...")
        if asked.pop("new_key", True) is False:
            raise CommandFailed(Ecode.BAD_FIELD, "$.params.new_key must be true, or left out")
        key = None
        if params.new_key is True:
            key = self._machine.random.secret()
            asked |= {"key_hash": hashed(key), "key_used": False}
        if "dev_name" in asked:
            asked["named_by_operator"] = bool(asked["dev_name"])
        return asked, key

    @command("delete devices", OneDevice, Role.ADMIN)
    async def delete(self, call: Call) -> dict[str, Any]:
        """Delete a device that is bound to no task."""
        dev_unid = call.params.dev_unid
        gone = await self._machine.record(
            call, {"dev_unid": dev_unid}, lambda connection, _now: devices.delete_device(connection, dev_unid)
        )
        self._machine.arrivals.excuse(dev_unid)
        self._sessions.end(dev_unid, "this device was deleted")
        self._machine.hub.duplicates.forget(dev_unid)
        self._tell(dev_unid, gone.dev_refid, "deleted")
        return {}

    @command("post devices/resync", OneDevice, Role.OPERATOR)
    async def resync(self, call: Call) -> dict[str, Any]:
        """Send a device everything again."""
        dev_unid = call.params.dev_unid

        def forget(connection: Connection, _now: float) -> int:
            devices.get_device(connection, dev_unid)
            return orders.forget(connection, dev_unid)

        def payload(pending: int) -> dict[str, Any]:
            return {"pending": pending}

        pending = await self._machine.record(call, {"dev_unid": dev_unid}, forget, payload)
        self._machine.delivery.catch_up(dev_unid)
        return payload(pending)


def _list(connection: Connection, params: GetDevices, connected: Any) -> tuple[list[dict[str, Any]], str | None]:
    return devices.list_devices(
        connection,
        limit=params.limit,
        after=optional(params.after),
        dev_unid=optional(params.dev_unid),
        online=optional(params.online),
        state=optional(params.state),
        text=optional(params.text),
        connected=connected,
    )
