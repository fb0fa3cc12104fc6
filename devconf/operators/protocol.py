"""The WebSocket protocol of operators' clients: bytes to requests, responses to bytes (``docs/protocol.md`` §2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from devconf import failpoints, wire
from devconf.clock import stamp
from devconf.commands.asker import Asker, Dropped
from devconf.commands.registry import ISubscriber, Registry
from devconf.config import Limits
from devconf.errors import CommandFailed, Ecode
from devconf.events import Event, Events, Topic
from devconf.model import Identity, Role
from devconf.pacing import Hold
from devconf.pages import Pages
from devconf.sessions import Sessions
from devconf.websocket import Peer, PeerFactory

_log = Logger()

#: Seconds between progress frames at least, and until the first one at most.
PROGRESS_EVERY = 0.1
PROGRESS_FIRST = 1.0

#: Lists (``get``) of one connection that are read at a time. All that are asked for would keep the store from others.
LISTS = 8

#: Bytes of requests of one connection in flight beyond which nothing more is read of it.
IN_FLIGHT_BYTES = 4 * 1024 * 1024

#: What was wrong before anything was looked up: it costs whoever sent it next to nothing.
_USELESS = frozenset(
    (Ecode.NOT_AN_OBJECT, Ecode.BAD_FIELD, Ecode.UNKNOWN_COMMAND, Ecode.FORBIDDEN, Ecode.TOO_MANY, Ecode.STOPPING)
)


@implementer(ISubscriber)
class OperatorProtocol(Peer):
    """One connection of a client, whose identity its ticket or token has told."""

    factory: OperatorFactory

    def __init__(self, identity: Identity) -> None:
        super().__init__()
        self.identity = identity
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._asker = Asker()
        self._lists = Lists(lambda: self.writable)
        self._topics: set[Topic] = set()
        self._seq = 0

    def opened(self) -> None:
        """See :class:`Peer`."""
        self.factory.sessions.add(self.identity, self.end)

    def end(self, code: int, reason: str) -> None:
        """Close it from here: its account or its tokens have ended, or the server stops.

        What still waits is dropped now. Its client may take its time to close, and must not have it done meanwhile.
        """
        self._asker.leave()
        self.close(code, reason)

    def lost(self) -> None:
        """See :class:`Peer`. What is planned goes on; its answer is thrown away."""
        self._asker.leave()
        self._lists.forget()
        self.factory.pages.taken(self)
        for topic in list(self._topics):
            self.unsubscribe(topic)
        self.factory.sessions.remove(self.identity, self.end)

    def drained(self) -> None:
        """See :class:`Peer`."""
        self.factory.pages.taken(self)
        self._lists.go_on()

    @property
    def account(self) -> str:
        """Whose connection it is."""
        return self.identity.unid

    @property
    def gone(self) -> bool:
        """Whether the connection is gone."""
        return self._asker.gone

    def received(self, payload: bytes) -> None:
        """See :class:`Peer`. Requests run concurrently, and each gets one response."""
        echoed: dict[str, Any] = {}
        try:
            message = wire.decode_object(payload)
            echoed = wire.echo(message)
            request = wire.request_of(message)
            if self._in_flight >= self.factory.limits.requests_per_connection:
                raise CommandFailed(
                    Ecode.TOO_MANY, f"{self._in_flight} requests of this connection are in flight; wait for answers"
                )
        except CommandFailed as failure:
            self.factory.registry.answered[failure.ecode] += 1
            self._respond(echoed, {"ecode": failure.ecode, "enote": failure.enote})
            return
        self._begun(len(payload))
        if request.command[:4].lower() == "get ":
            self._lists.ask(partial(self._list, request, echoed, len(payload)))
        else:
            self._handle(request, echoed, len(payload))

    def _handle(self, request: wire.Request, echoed: dict[str, Any], size: int) -> None:
        progress = self._progress(request, echoed)
        response = self._response(request, progress).addBoth(self._finished, size, progress)
        response.addCallbacks(lambda response: self._respond(echoed, response), self._not_answered)

    def _list(self, request: wire.Request, echoed: dict[str, Any], size: int) -> Deferred[None]:
        progress = self._progress(request, echoed)
        made = False

        def make() -> Deferred[bytes]:
            nonlocal made
            again, made = made, True
            return self._response(request, progress, again=again).addCallback(self._encoded, echoed)

        answered = self.factory.pages.answer(self, make, self._hand)
        return answered.addBoth(self._finished, size, progress).addErrback(self._not_answered)

    def _progress(self, request: wire.Request, echoed: dict[str, Any]) -> Progress | None:
        return Progress(self.factory.clock, self.send, echoed) if request.progress else None

    def _response(
        self, request: wire.Request, progress: Progress | None, *, again: bool = False
    ) -> Deferred[dict[str, Any]]:
        told = progress.update if progress else _no_progress
        return self.factory.registry.handle(request, self.identity, told, self._asker, subscriber=self, again=again)

    def _begun(self, size: int) -> None:
        self._in_flight += 1
        self._in_flight_bytes += size
        if self._in_flight_bytes > IN_FLIGHT_BYTES:
            self.hold(Hold.BUSY)

    def _finished(self, result: Any, size: int, progress: Progress | None) -> Any:
        self._in_flight -= 1
        self._in_flight_bytes -= size
        if self._in_flight_bytes <= IN_FLIGHT_BYTES:
            self.release(Hold.BUSY)
        if progress is not None:
            progress.stop()
        return result

    def _respond(self, echoed: dict[str, Any], response: dict[str, Any]) -> None:
        failpoints.reach("before answer")
        self.send(self._encoded(response, echoed))

    def _encoded(self, response: dict[str, Any], echoed: dict[str, Any]) -> bytes:
        if response["ecode"] in _USELESS:
            self.useless()
        return wire.encode_response(echoed, response)

    def _hand(self, page: bytes) -> None:
        failpoints.reach("before answer")
        reads = self.writable
        self.send(page)
        if reads:
            # It is bounded with those of all others. What comes after it must not cut off a client that reads.
            self._apart = self._unread_bytes

    def _not_answered(self, failure: Failure) -> None:
        if not failure.check(Dropped):
            _log.failure("a request of {peer} got no answer", failure, peer=self.peer)

    # -- ISubscriber

    def subscribe(self, topic: Topic) -> None:
        """See :class:`ISubscriber`."""
        # A request may outlive its connection.
        if not self._asker.gone:
            self._topics.add(topic)
            self.factory.events.subscribe(topic, self._happened)

    def unsubscribe(self, topic: Topic) -> None:
        """See :class:`ISubscriber`."""
        self._topics.discard(topic)
        self.factory.events.unsubscribe(topic, self._happened)

    def _happened(self, event: Event) -> None:
        if event.owner and self.identity.role == Role.VIEWER and event.owner != self.identity.unid:
            return
        self._seq += 1
        # To cut off a client because events come faster than it reads would help nobody: it sees the gap.
        if self.writable:
            self.send(wire.encode({"event": event.topic, "seq": self._seq, "at": stamp(event.at), "data": event.data}))


def _no_progress(_done: int, _total: int) -> None:
    """Nobody asked."""


@define
class Lists:
    """The lists that one connection has asked for: some are read, the others wait for these.

    :ivar _writable: whether the client reads what is sent: for one that does not, none is begun.
    """

    _writable: Callable[[], bool]
    _running: int = field(default=0, init=False)
    _waiting: deque[Callable[[], Deferred[None]]] = field(factory=deque, init=False)
    _going: bool = field(default=False, init=False)

    def ask(self, begin: Callable[[], Deferred[None]]) -> None:
        """Call ``begin`` in its turn; what it returns fires when the list is made and handed over."""
        self._waiting.append(begin)
        self.go_on()

    def forget(self) -> None:
        """Begin no more of them."""
        self._waiting.clear()

    def go_on(self) -> None:
        """Begin more of them, if there is room: the client has read what was sent."""
        # A loop, since one that fails at once would begin the next one from within.
        if self._going:
            return
        self._going = True
        try:
            while self._waiting and self._running < LISTS and self._writable():
                self._running += 1
                self._waiting.popleft()().addBoth(self._done)
        finally:
            self._going = False

    def _done(self, _result: object) -> None:
        self._running -= 1
        self.go_on()


@define
class Progress:
    """Sends the progress frames of one request."""

    _clock: IReactorTime
    _send: Any
    _echoed: dict[str, Any]
    _done: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)
    _sent_at: float = field(default=float("-inf"), init=False)
    _first: IDelayedCall | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._first = self._clock.callLater(PROGRESS_FIRST, self._tell)

    def update(self, done: int, total: int) -> None:
        """Note how far the command is; when it has got further it is told, at most ten times a second."""
        further = done > self._done
        self._done, self._total = max(done, self._done), total
        if further and self._clock.seconds() - self._sent_at >= PROGRESS_EVERY:
            self._tell()

    def _tell(self) -> None:
        self._sent_at = self._clock.seconds()
        self._send(wire.encode_response(self._echoed, {"progress": {"done": self._done, "total": self._total}}))

    def stop(self) -> None:
        """Send no more: the response follows."""
        if self._first is not None and self._first.active():
            self._first.cancel()


class OperatorFactory(PeerFactory):
    """Builds :class:`OperatorProtocol` for clients that are known."""

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        registry: Registry,
        sessions: Sessions,
        events: Events,
        pages: Pages,
    ) -> None:
        super().__init__(clock, limits, limits.operator_message_max)
        self.registry = registry
        self.pages = pages
        self.events = events
        self.sessions = sessions

    def build(self, identity: Identity) -> OperatorProtocol:
        """Return a protocol for a connection of ``identity``."""
        protocol = OperatorProtocol(identity)
        protocol.factory = self
        return protocol
