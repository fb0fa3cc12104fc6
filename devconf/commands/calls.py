"""``devices/call``: a request that is passed through to one device (``docs/protocol.md`` §4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from attrs import define, field
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf import failpoints, wire
from devconf.commands.asker import Dropped
from devconf.commands.machine import SETTLE_AGAIN, Machine
from devconf.commands.registry import Call, command
from devconf.commands.schemas import ConnectWait, Id, Params, optional
from devconf.commands.settle import entry
from devconf.devices.pending import ConnectionGone, NoAnswer, Withdrawn
from devconf.errors import CommandFailed, Ecode, StoreFailed
from devconf.model import Answer, OrderKey, Role, State
from devconf.store import complain, devices, journal, keys
from devconf.store.keys import Key

_TASKS = wire.PREFIX + "tasks"
_OURS = {f"{method} {_TASKS}" for method in ("post", "put", "delete")}


class CallDevice(Params):
    """Params of ``post devices/call``."""

    dev_unid: Id
    command: Annotated[str, Meta(min_length=1, max_length=1024)]
    params: dict[str, Any] | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0, le=300)] | UnsetType = UNSET
    connect_wait: ConnectWait | UnsetType = UNSET


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
        await self._machine.wait_for_devices(call, lambda _: [params.dev_unid])
        command_id = self._machine.random.identifier()
        started = self._machine.now()
        try:
            payload = await (self._ask(call) if call.key is None else self._ask_once(call, call.key, command_id))
        except _Unanswered as failure:
            await self._record(call, started, _response(command_id, failure.ecode, failure.enote, failure.payload))
            raise _named(failure, command_id) from None
        except CommandFailed as failure:
            raise _named(failure, command_id) from None
        await self._record(call, started, _response(command_id, Ecode.OK, "ok", payload))
        return {"command_id": command_id, **payload}

    async def _ask_once(self, call: Call, key: Key, command_id: str) -> dict[str, Any]:
        """Ask the device, and keep ``key`` if it may have heard."""
        params: CallDevice = call.params
        await self._check_online(params.dev_unid)
        # Before the device may hear of it: if the server ends before there is an answer, this is what is known.
        unknown = _ended(params)
        response = _response(command_id, unknown.ecode, unknown.enote, unknown.payload)
        await self._machine.store.run(_begin, key, self._machine.now(), response)
        try:
            return await self._ask(call)
        except _Unanswered:
            raise
        except CommandFailed:
            await self._keep(keys.forget, key)
            raise
        except Dropped:
            await self._keep(keys.forget, key)
            if call.asker.gone:
                raise
        # Meanwhile it was asked for again.
        return await self._ask_once(call, key, command_id)

    async def _keep(self, function: Callable[..., None], *args: Any) -> None:
        """Write what became of a call that has a key, however often it takes: an answer that is not kept is none.

        :raises CommandFailed: ``STOPPING``: it could not be written, and the server ends; its key says so later.
        """
        while True:
            try:
                await self._machine.store.run(function, *args)
            except Exception as error:
                if isinstance(error, StoreFailed) and error.ecode is Ecode.STOPPING:
                    raise
                complain(self._log, Failure(), "what became of a call could not be kept; trying again")
            else:
                return
            if self._machine.delivery.waits_ended:
                raise CommandFailed(
                    Ecode.STOPPING,
                    "the server stops, and could not keep what became of this call; its device was asked",
                )
            again: Deferred[None] = Deferred()
            self._machine.clock.callLater(SETTLE_AGAIN, again.callback, None)
            await again

    async def _check_online(self, dev_unid: str) -> None:
        if dev_unid not in self._machine.hub:
            await self._machine.store.run(devices.get_device, dev_unid)
            raise CommandFailed(Ecode.OFFLINE, f"the device {dev_unid} is offline")

    async def _ask(self, call: Call) -> dict[str, Any]:
        params: CallDevice = call.params
        timeout = optional(params.timeout) or self._timeout
        dev_unid = params.dev_unid
        await self._check_online(dev_unid)
        try:
            asked = optional(params.params) or {}
            answer = await self._machine.hub.call(dev_unid, params.command, asked, timeout, call.asker)
        except Withdrawn:
            raise Dropped from None
        except NoAnswer:
            raise _unanswered(
                params,
                Ecode.SILENT,
                f"the device {dev_unid!r} did not answer within {timeout:g} s; it may still act on it",
            ) from None
        except ConnectionGone:
            if self._machine.delivery.waits_ended:
                raise _ended(params) from None
            raise _unanswered(
                params, Ecode.OFFLINE, f"the device {dev_unid!r} was lost before it answered; it may have acted on it"
            ) from None
        failpoints.reach("answer received")
        return {"answer": answer.message}

    async def _record(self, call: Call, started: float, response: dict[str, Any]) -> None:
        """Write a line of the history; and for a key, which is waited for, the response in the same transaction."""
        params: CallDevice = call.params
        told = {"dev_unid": params.dev_unid, "command": params.command}
        header, now = self._machine.header(response["command_id"], call, told), self._machine.now()
        outcome = {"ecode": response["ecode"], "enote": response["enote"]}
        line = {**header, "planned_at": started, "settled_at": now, **outcome}
        if call.key is not None:
            await self._keep(_end, call.key, line, response)
        else:
            self._lines.append(line)
            if not self._writing:
                self._write()
        self._machine.tell(header, started, now, Ecode(response["ecode"]), response["enote"])

    def _write(self, _result: None = None) -> None:
        lines, self._lines = self._lines, []
        self._writing = bool(lines)
        if lines:
            self._machine.store.run(_write_lines, lines).addErrback(self._cannot_write).addCallback(self._write)

    def _cannot_write(self, failure: Failure) -> None:
        complain(self._log, failure, "calls could not be written to the history")


def _unanswered(params: CallDevice, ecode: Ecode, enote: str) -> _Unanswered:
    device = entry(OrderKey(params.dev_unid, "", ""), Answer(State.PENDING, ecode, enote))
    return _Unanswered(ecode, enote, devices=[device])


def _ended(params: CallDevice) -> _Unanswered:
    return _unanswered(params, Ecode.SILENT, "the server ended before the device answered; it may have acted on it")


def _named(failure: CommandFailed, command_id: str) -> CommandFailed:
    return CommandFailed(failure.ecode, failure.enote, command_id=command_id, **failure.payload)


def _response(command_id: str, ecode: Ecode, enote: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"ecode": int(ecode), "enote": enote, "command_id": command_id, **payload}


def _begin(connection: Connection, key: Key, now: float, response: dict[str, Any]) -> None:
    keys.begin(connection, key, now)
    keys.answer(connection, key.user_unid, key.digest, response)


def _end(connection: Connection, key: Key, line: dict[str, Any], response: dict[str, Any]) -> None:
    journal.done(connection, [line])
    keys.answer(connection, key.user_unid, key.digest, response)


def _write_lines(connection: Connection, lines: list[dict[str, Any]]) -> None:
    journal.done(connection, lines)
