"""The table of commands: name → schema, role, handler; and the one way a request is handled.

The order of checks is the contract's: known command, role, params, and then what is stored (the handler).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import msgspec
from attrs import evolve, frozen
from msgspec import UnsetType
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface

from devconf import wire
from devconf.clock import Random
from devconf.commands.asker import Asker, Dropped
from devconf.commands.keys import Keys, key_of
from devconf.errors import CommandFailed, Ecode
from devconf.events import Topic
from devconf.model import Identity, Role
from devconf.sparing import SparingLog
from devconf.store.keys import Key

#: What the response repeats of the params (§2, the standard response).
_IDS = ("task_id", "unid", "subtask_id")


class ISubscriber(Interface):
    """A connection that can be told of events."""

    def subscribe(topic: Topic) -> None:
        """Tell it of ``topic`` from now on."""

    def unsubscribe(topic: Topic) -> None:
        """Tell it of ``topic`` no longer."""


@frozen
class Call:
    """One request on its way.

    :ivar command: its canonical name.
    :ivar params: as the command's schema has read them.
    :ivar progress: told how much is done, and of how much.
    :ivar asker: who waits for the response.
    :ivar subscriber: an ``ISubscriber``: the connection it came on, if that can be told of events.
    :ivar key: by which it is carried out once; what carries it out writes this, and the answer.
    """

    identity: Identity
    command: str
    params: Any
    progress: Callable[[int, int], None]
    asker: Asker
    subscriber: Any = None
    key: Key | None = None

    def gone(self) -> bool:
        """Tell whether the client has gone away."""
        return self.asker.gone


Handler = Callable[[Call], Coroutine[Any, Any, dict[str, Any]]]


@frozen
class Command:
    """A line of the table.

    :ivar name: ``<method> <path>``.
    :ivar params: the schema, a ``Struct`` that forbids unknown fields.
    :ivar role: who may.
    :ivar for_subscribers: it is known only where the connection can be told of events.
    """

    name: str
    params: type[msgspec.Struct]
    role: Role
    handler: Handler
    for_subscribers: bool = False

    @property
    def changes(self) -> bool:
        """Whether it may change anything: what does not needs no idempotency key."""
        return not self.name.startswith("get ") and not self.for_subscribers


def command(
    name: str, params: type[msgspec.Struct], role: Role, *, for_subscribers: bool = False
) -> Callable[[Any], Any]:
    """Mark a method as the handler of a command.

    :param name: ``<method> <resource>``.
    """

    def mark(method: Any) -> Any:
        method.devconf_command = (name, params, role, for_subscribers)
        return method

    return mark


class Registry:
    """The commands of one server.

    :ivar answered: how many responses had which ``ecode``.
    :ivar tolerated: unknown fields of ``params`` that pass, for old pages.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, random: Random, keys: Keys, tolerated: tuple[str, ...] = ()) -> None:
        self._sparing = SparingLog(clock, self._log)
        self._random = random
        self._keys = keys
        self._tolerated = frozenset(tolerated)
        self._commands: dict[str, Command] = {}
        self.answered: Counter[int] = Counter()
        self._stopping = False
        self._running = 0
        # A response is awaited here if and only if its Deferred has not fired.
        self._awaited: dict[Deferred[dict[str, Any]], None] = {}  # in the order in which they are answered at a stop

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())

    def include(self, subject: object) -> None:
        """Take in the methods of ``subject`` that are marked with :func:`command`.

        :raises ValueError: there is such a command already.
        """
        for attribute in vars(type(subject)):
            marked = getattr(getattr(subject, attribute), "devconf_command", None)
            if marked is not None:
                short, params, role, for_subscribers = marked
                method, _, resource = short.partition(" ")
                name = f"{method} {wire.PREFIX}{resource}"
                if name in self._commands:
                    raise ValueError(f"two handlers for {name}")
                handler = getattr(subject, attribute)
                self._commands[name] = Command(name, params, role, handler, for_subscribers)

    def handle(
        self,
        request: wire.Request,
        identity: Identity,
        progress: Callable[[int, int], None],
        asker: Asker,
        *,
        subscriber: Any = None,
        text: bool = False,
        again: bool = False,
    ) -> Deferred[dict[str, Any]]:
        """Handle ``request``.

        :param subscriber: an ``ISubscriber``, if the connection can be told of events.
        :param text: numbers and booleans may be texts (§5).
        :param again: a response to it was made before, and thrown away: both count as one.
        :returns: fires with the fields of the response but for what the envelope repeats, whatever goes wrong; fails
            with :class:`Dropped` only. To cancel it ends the waiting, and not what has begun.
        """
        if self._stopping:
            self.answered[Ecode.STOPPING] += not again
            return succeed(_stopping("the server is stopping; connect again and ask again"))
        response: Deferred[dict[str, Any]] = Deferred()
        self._awaited[response] = None
        response.addBoth(self._forget, response, again)
        self._running += 1
        call = self._handle(request, identity, progress, asker, subscriber, text)
        Deferred.fromCoroutine(call).addBoth(self._handled, response)
        return response

    def _forget(self, result: Any, response: Deferred[dict[str, Any]], again: bool) -> Any:
        self._awaited.pop(response, None)
        if not isinstance(result, Failure) and not again:
            self.answered[result["ecode"]] += 1
        return result

    def _handled(self, result: Any, response: Deferred[dict[str, Any]]) -> None:
        self._running -= 1
        if response in self._awaited:
            response.callback(result)

    # -- stopping

    def stop(self) -> None:
        """Take no more requests (``STOPPING``); what runs goes on."""
        self._stopping = True

    @property
    def running(self) -> int:
        """How many requests are being handled, whether or not anybody still waits for the response."""
        return self._running

    def abandon(self) -> None:
        """Answer all that wait, with ``STOPPING``."""
        for response in list(self._awaited):
            response.callback(_stopping("the server stops; what was under way is settled when it starts again"))

    async def _handle(
        self,
        request: wire.Request,
        identity: Identity,
        progress: Callable[[int, int], None],
        asker: Asker,
        subscriber: Any,
        text: bool,
    ) -> dict[str, Any]:
        named = {name: request.params[name] for name in _IDS if isinstance(request.params.get(name), str)}
        checked = self._checked(request, identity, progress, asker, subscriber, text, named)
        return await self._response(request.command, named, checked)

    async def _checked(
        self,
        request: wire.Request,
        identity: Identity,
        progress: Callable[[int, int], None],
        asker: Asker,
        subscriber: Any,
        text: bool,
        named: dict[str, str],
    ) -> dict[str, Any]:
        found = self._find(request.command)
        if found.for_subscribers and subscriber is None:
            raise CommandFailed(
                Ecode.UNKNOWN_COMMAND, "events come over a WebSocket only; connect, and subscribe there"
            )
        if identity.role < found.role:
            raise CommandFailed(
                Ecode.FORBIDDEN, f"this takes the role {found.role.title}; yours is {identity.role.title}"
            )
        params = wire.convert(self._tolerate(found, request.params), found.params, "$.params", text=text)
        call = Call(identity, found.name, params, progress, asker, subscriber)
        if not found.changes or isinstance(request.idempotency_key, UnsetType):
            return await _carried_out(found, call, named)
        key = key_of(identity.unid, request.idempotency_key, found.name, params, named)

        def carry_out(progress: Callable[[int, int], None], asker: Asker) -> Awaitable[dict[str, Any]]:
            keyed = evolve(call, key=key, progress=progress, asker=asker)
            return self._response(found.name, named, _carried_out(found, keyed, named))

        return await self._keys.once(key, carry_out, progress, asker)

    async def _response(self, name: str, named: dict[str, str], response: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """Return ``response``, or what tells why there is none."""
        try:
            return await response
        except CommandFailed as failure:
            return {"ecode": failure.ecode, "enote": failure.enote, **named, **failure.payload}
        except Dropped:
            raise
        except Exception:
            return self._internal(Failure(), name)

    def _find(self, name: str) -> Command:
        method, _, path = name.partition(" ")
        found = self._commands.get(f"{method.lower()} {path}")
        if found is None:
            raise CommandFailed(
                Ecode.UNKNOWN_COMMAND,
                f"$.command {name[:200]!r} is not known; it is `<method> {wire.PREFIX}<resource>`",
            )
        return found

    def _tolerate(self, found: Command, params: dict[str, Any]) -> dict[str, Any]:
        if not self._tolerated:
            return params
        known = {field.encode_name for field in msgspec.structs.fields(found.params)}
        passed = (params.keys() - known) & self._tolerated
        if passed:
            self._sparing.info("{command}: unknown params passed: {passed}", command=found.name, passed=sorted(passed))
        return {name: value for name, value in params.items() if name not in passed}

    def _internal(self, failure: Failure, name: str) -> dict[str, Any]:
        reference = self._random.identifier()[:12]
        self._log.failure("{command} failed, reference {reference}", failure, command=name[:200], reference=reference)
        return {"ecode": Ecode.INTERNAL, "enote": f"internal error; the server's log has it as {reference}"}


async def _carried_out(found: Command, call: Call, named: dict[str, str]) -> dict[str, Any]:
    payload = await found.handler(call)
    # A list is its payload alone; what was asked for is in its items.
    return {"ecode": Ecode.OK, "enote": "ok", **({} if found.name.startswith("get ") else named), **payload}


def _stopping(enote: str) -> dict[str, Any]:
    return {"ecode": Ecode.STOPPING, "enote": enote}
