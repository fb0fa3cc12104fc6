"""Our own site, and its HTTP connections: bounded in size, in time, and in number.

Twisted bounds the head of a request (16 KiB, 500 fields). The rest is ours: every phase of a connection ends.
"""

from __future__ import annotations

from collections import Counter, deque
from ipaddress import IPv6Address, ip_address
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from devconf.config import Network, is_among
from devconf.errors import CommandFailed, Ecode
from devconf.web.answers import render

#: Seconds: a connection on which nothing is asked, and a head that does not end, are closed.
IDLE = 15.0
HEAD_WITHIN = 15.0
#: Seconds for a body, and for reading an answer; to each comes a second for so many bytes.
BODY_WITHIN = 30.0
READ_WITHIN = 60.0
BYTES_A_SECOND = 16384
#: Seconds until a connection that we close is cut.
CLOSE_WITHIN = 5.0
#: HTTP connections in all; who has become a WebSocket is none any longer.
CONNECTIONS = 10_000


class BoundedRequest(Request):
    """A request whose body is read no further than the site allows: the rest is thrown away."""

    channel: Any
    _read = 0

    def handleContentChunk(self, data: bytes) -> None:
        """See ``twisted.web.http.Request``."""
        self._read += len(data)
        limit = self.channel.site.body_max
        if self._read <= limit:
            super().handleContentChunk(data)
        elif self._read > 16 * limit:
            self.channel.loseConnection()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """See ``twisted.web.http.Request``, which would spend seconds on a form: all of ours is JSON."""
        self.requestHeaders.removeHeader(b"content-type")
        super().requestReceived(command, path, version)

    def process(self) -> None:
        """See ``twisted.web.http.Request``; in its turn."""
        self.channel.site.take(self)

    def go_on(self) -> None:
        """It is this request's turn."""
        if self._disconnected:
            return
        limit = self.channel.site.body_max
        if self._read > limit:
            self.channel.site.answered[Ecode.TOO_LARGE] += 1
            self.write(render(self, CommandFailed(Ecode.TOO_LARGE, f"the body is larger than {limit} bytes")))
            self.finish()
        else:
            super().process()


class Channel(HTTPChannel):
    """An HTTP connection, counted by its address until it has shown a ticket or token.

    Of requests that are sent together one is taken in each turn of the reactor, and none while answers are not read.

    :ivar stranger: the address it is counted under.
    """

    site: Any
    transport: Any
    callLater: Any
    stranger: str | None = None
    _begun = False
    _unread = 0
    _reading: IDelayedCall | None = None
    _read: Deferred[None] | None = None
    _turn: IDelayedCall | None = None
    _ending: IDelayedCall | None = None

    def known(self) -> None:
        """Count it no longer by its address."""
        if self.stranger is not None:
            self.site.forget(self.stranger)
            self.stranger = None

    def left(self) -> None:
        """Count it no longer: it is gone, or has become something else."""
        self.known()
        self.site.connections.discard(self)
        for timer in (self._reading, self._turn, self._ending):
            if timer is not None and timer.active():
                timer.cancel()
        self._tell_read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``."""
        self.left()
        super().connectionLost(reason)

    # -- what comes in

    def resetTimeout(self) -> None:
        """See ``TimeoutMixin``: each phase has a time of its own, which nothing that comes in makes longer."""

    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        if not self._begun and not self._handlingRequest and (data or self._buffer):
            self._begun = True
            self.setTimeout(HEAD_WITHIN)
        super().dataReceived(data)

    def allHeadersReceived(self) -> None:
        """See ``HTTPChannel``."""
        super().allHeadersReceived()
        if self.length != 0:
            limit = self.site.body_max
            size = limit if self.length is None else min(limit, self.length)
            self.setTimeout(BODY_WITHIN + size / BYTES_A_SECOND)

    def requestDone(self, request: Any) -> None:
        """See ``HTTPChannel``."""
        self._begun = False
        self._savedTimeOut = IDLE
        self.paused = True
        super().requestDone(request)
        if self._ending is not None:
            return
        if self._waitingForTransport:
            self.setTimeout(None)
            self._networkProducer.pauseProducing()
        elif self._buffer and self._turn is None:
            self._networkProducer.pauseProducing()
            self._turn = self.callLater(0, self._go_on)
        else:
            self.paused = False

    def _go_on(self) -> None:
        self._turn = None
        self.paused = False
        self._networkProducer.resumeProducing()
        self.dataReceived(b"")

    # -- what goes out

    def write(self, data: bytes) -> None:
        """See ``ITransport``."""
        self._unread += len(data)
        super().write(data)

    def pauseProducing(self) -> None:
        """See ``IPushProducer``."""
        if self._reading is None:
            self._reading = self.callLater(READ_WITHIN + self._unread / BYTES_A_SECOND, self._does_not_read)
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self._unread = 0
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        self._tell_read()
        super().resumeProducing()
        if self.paused and not self._handlingRequest and self._turn is None:
            self.setTimeout(IDLE)
            self._go_on()

    def when_read(self) -> Deferred[None]:
        """Return what fires once all that was written has been read, or the connection is gone."""
        if self._reading is None:
            return succeed(None)
        if self._read is None:
            self._read = Deferred()
        return self._read

    def _tell_read(self) -> None:
        read, self._read = self._read, None
        if read is not None:
            read.callback(None)

    def _does_not_read(self) -> None:
        self._reading = None
        self.transport.abortConnection()

    # -- the end

    def loseConnection(self) -> None:
        """See ``ITransport``; what was written is read in time, or never."""
        self._end(READ_WITHIN + self._unread / BYTES_A_SECOND)

    def finish(self) -> None:
        """End it: after the answer to what has been asked, or else now."""
        self.persistent = False
        if not self._handlingRequest:
            self._end(CLOSE_WITHIN)

    def timeoutConnection(self) -> None:
        """See ``TimeoutMixin``; without a line in the log, which whoever tries this could fill."""
        self._end(CLOSE_WITHIN)

    def _end(self, within: float) -> None:
        if self._ending is None:
            self._ending = self.callLater(within, self.transport.abortConnection)
        super().loseConnection()


class Refused(Protocol):
    """A connection for which there is no room: it is closed, or cut in the middle of a TLS handshake."""

    transport: Any

    def connectionMade(self) -> None:
        """See ``IProtocol``."""
        self.transport.loseConnection()


class BoundedSite(Site):
    """Our own site: bounded in the size of bodies, in time, and in connections, in all and from one address.

    In each turn of the reactor one request is taken, so that a fleet that comes back does not hold up everyone else.

    :ivar body_max: bytes.
    :ivar connections: those that are open and no WebSockets.
    :ivar answered: counts the bodies that are too large, as what else is answered, by ``ecode``.
    """

    requestFactory = BoundedRequest
    protocol: Any = Channel

    def __init__(
        self,
        root: IResource,
        reactor: Any,
        body_max: int,
        strangers_max: int,
        proxies: tuple[Network, ...],
        refused: Counter[str],
        answered: Counter[int],
    ) -> None:
        """Take the root.

        :param strangers_max: connections from one address that have not shown a ticket or token.
        :param proxies: networks that are not counted: whoever comes through them has another address.
        :param refused: counts the connections for which there is no room.
        """
        super().__init__(root, reactor=reactor, timeout=IDLE)
        self.body_max = body_max
        self.displayTracebacks = False
        self.noisy = False
        self.answered = answered
        self.connections: set[Channel] = set()
        self._strangers_max = strangers_max
        self._proxies = proxies
        self._refused = refused
        self._strangers: Counter[str] = Counter()
        self._waiting: deque[BoundedRequest] = deque()
        self._turn: IDelayedCall | None = None

    def take(self, request: BoundedRequest) -> None:
        """Let ``request`` go on when those before it had their turn."""
        if self._turn is None:
            self._turn = self.reactor.callLater(0, self._next)
            request.go_on()
        else:
            self._waiting.append(request)

    def _next(self) -> None:
        self._turn = None
        if self._waiting:
            self.take(self._waiting.popleft())

    def buildProtocol(self, addr: Any) -> Any:
        """See ``IProtocolFactory``."""
        host: str | None = getattr(addr, "host", None)
        stranger = None if host is None or is_among(host, self._proxies) else neighbourhood(host)
        bound = "in all" if len(self.connections) >= CONNECTIONS else ""
        if stranger and self._strangers[stranger] >= self._strangers_max:
            bound = "of one address before login"
        if bound:
            self._refused[bound] += 1
            # Not None: TLS and PROXY would wrap that, fail with it, and leave the connection open for ever.
            return Refused()
        channel: Any = super().buildProtocol(addr)
        self.connections.add(channel)
        if stranger is not None:
            channel.stranger = stranger
            self._strangers[stranger] += 1
        return channel

    def acceptableProtocols(self) -> list[bytes]:
        """See ``IProtocolNegotiationFactory``: no HTTP/2, which our connections do not speak."""
        return [b"http/1.1"]

    def finish(self) -> None:
        """End all connections, each after the answer to what has been asked on it."""
        for channel in list(self.connections):
            channel.finish()

    def cut(self) -> None:
        """Cut the connections that are left."""
        for channel in list(self.connections):
            channel.transport.abortConnection()

    def forget(self, address: str) -> None:
        """Note that one of the connections from ``address`` is counted no longer."""
        self._strangers[address] -= 1
        if not self._strangers[address]:
            del self._strangers[address]

    def log(self, request: Any) -> None:
        """Write no access log: probes and logins of thousands of devices would drown the rest."""


def neighbourhood(address: str) -> str:
    """Return under what ``address`` is counted: of IPv6 its /64, since everybody has as many addresses as that."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.exploded[:19]
