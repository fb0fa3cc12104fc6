"""``devices/call``: a request that is passed through to one device (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Annotated, Any

from attrs import define, field
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf import failpoints, wire
from devconf.commands.machine import Machine
from devconf.commands.registry import Call, command
from devconf.commands.schemas import Id, Params, optional
from devconf.commands.settle import entry
from devconf.devices.pending import ConnectionGone, NoAnswer
from devconf.errors import CommandFailed, Ecode
from devconf.model import Answer, OrderKey, Role, State
from devconf.store import complain, devices, journal

_TASKS = wire.PREFIX + "tasks"
_OURS = {f"{method} {_TASKS}" for method in ("post", "put", "delete")}


class CallDevice(Params):
    """Params of ``post devices/call``."""

    dev_unid: Id
    command: Annotated[str, Meta(min_length=1, max_length=1024)]
    params: dict[str, Any] | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0, le=300)] | UnsetType = UNSET


class _Unanswered(CommandFailed):
    """The device was asked, and may have acted on it."""


@define
class CallCommands:
    """The handler.

    :ivar _timeout: seconds a device has to answer unless the request says otherwise.
    """

    _log = Logger()

    _machine: Machine
    _timeout: float
    # Who called what, waiting to be written: many lines at once, and no call waits for it.
    _lines: list[dict[str, Any]] = field(factory=list, init=False)
    _writing: bool = field(default=False, init=False)

    @command("post devices/call", CallDevice, Role.ADMIN)
    async def call(self, call: Call) -> dict[str, Any]:
        """Pass a request through; whatever the device says is the answer."""
        params: CallDevice = call.params
        method, _, path = params.command.partition(" ")
        if f"{method.lower()} {path}" in _OURS:
            raise CommandFailed(
                Ecode.BAD_FIELD, "$.params.command: what a device should have is changed by the commands for tasks"
            )
        command_id = self._machine.random.identifier()
        named = {"command_id": command_id}
        started = self._machine.now()
        try:
            answer = await self._pass_through(params)
        except _Unanswered as failure:
            self._record(call, command_id, started, failure.ecode, failure.enote)
            devices = [entry(OrderKey(params.dev_unid, "", ""), Answer(State.PENDING, failure.ecode, failure.enote))]
            raise CommandFailed(failure.ecode, failure.enote, **named, devices=devices) from None
        except CommandFailed as failure:
            failure.payload = {**named, **failure.payload}
            raise
        self._record(call, command_id, started, Ecode.OK, "ok")
        return {**named, "answer": answer}

    async def _pass_through(self, params: CallDevice) -> dict[str, Any]:
        timeout = optional(params.timeout) or self._timeout
        dev_unid = params.dev_unid
        if dev_unid not in self._machine.hub:
            await self._machine.store.run(devices.get_device, dev_unid)
        try:
            answer = await self._machine.hub.call(dev_unid, params.command, optional(params.params) or {}, timeout)
        except NoAnswer:
            raise _Unanswered(
                Ecode.SILENT, f"the device {dev_unid!r} did not answer within {timeout:g} s; it may still act on it"
            ) from None
        except ConnectionGone:
            raise _Unanswered(
                Ecode.OFFLINE, f"the device {dev_unid!r} was lost before it answered; it may have acted on it"
            ) from None
        failpoints.reach("answer received")
        return answer.message

    def _record(self, call: Call, command_id: str, started: float, ecode: Ecode, enote: str) -> None:
        params: CallDevice = call.params
        header = self._machine.header(command_id, call, {"dev_unid": params.dev_unid, "command": params.command})
        now = self._machine.now()
        self._machine.tell(header, started, now, ecode, enote)
        self._lines.append(
            {
                **header,
                "planned_at": started,
                "settled_at": now,
                "ecode": int(ecode),
                "enote": enote,
            }
        )
        if not self._writing:
            self._write()

    def _write(self, _result: None = None) -> None:
        lines, self._lines = self._lines, []
        self._writing = bool(lines)
        if lines:
            self._machine.store.run(_write_lines, lines).addErrback(self._cannot_write).addCallback(self._write)

    def _cannot_write(self, failure: Failure) -> None:
        complain(self._log, failure, "calls could not be written to the history")


def _write_lines(connection: Connection, lines: list[dict[str, Any]]) -> None:
    journal.done(connection, lines)
