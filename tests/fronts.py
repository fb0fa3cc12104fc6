"""Our site and connections to it, as an endpoint of Twisted would make them: without sockets, on a clock."""

from __future__ import annotations

import ssl
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from devconf.config import Network
from devconf.web import listening
from devconf.web.channel import BoundedSite

BODY_MAX = 100_000
BUFFER = 65536
GET = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n"
GET_LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"x" * 200_000


class Wire(StringTransport):
    """The server's end: tells its producer to pause while nobody reads.

    :ivar reads: whether the client reads.
    """

    def __init__(self, peer: Any) -> None:
        super().__init__(peerAddress=peer)
        self.reads = True
        self.aborted = False
        self.heard = b""

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.reads:
            self.heard += data
            self.clear()
        elif self.producer is not None and len(self.value()) > BUFFER:
            self.producer.pauseProducing()

    def read(self) -> bytes:
        """Read what there is, and read on."""
        self.reads = True
        self.heard += self.value()
        self.clear()
        if self.producer is not None:
            self.producer.resumeProducing()
        heard, self.heard = self.heard, b""
        return heard

    def setTcpNoDelay(self, enabled: bool) -> None:
        """As TCP has it."""

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()

    @property
    def ended(self) -> bool:
        return self.disconnecting

    @property
    def is_read(self) -> bool:
        return self.producerState == "producing"


class Pages(Resource):
    """Answers small, large, or not at all.

    :ivar asked: the paths, in order.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.waiting: list[Any] = []
        self.args: list[Any] = []

    def render(self, request: Any) -> Any:
        self.asked.append(request.path.decode())
        self.args.append(request.args)
        if request.path == b"/wait":
            self.waiting.append(request)
            return NOT_DONE_YET
        return LARGE if request.path == b"/large" else b"small"


class Visitor:
    """Somebody who speaks TLS: what it has to say is taken from it, and what it hears given to it."""

    def __init__(self, trusted: Path, *protocols: str) -> None:
        self._hears, self._says = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(trusted))
        context.set_alpn_protocols(protocols)
        self.tls = context.wrap_bio(self._hears, self._says, server_hostname="localhost")

    def hello(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._says.read()

    def shake_hands(self, protocol: Any, wire: Wire) -> None:
        protocol.dataReceived(self.hello())
        self._hears.write(wire.read())
        self.tls.do_handshake()
        protocol.dataReceived(self._says.read())

    def tell(self, protocol: Any, request: bytes) -> None:
        self.tls.write(request)
        protocol.dataReceived(self._says.read())

    def hear(self, world: World, wire: Wire) -> bytes:
        world.clock.advance(0)
        self._hears.write(wire.read())
        heard = b""
        with suppress(ssl.SSLWantReadError):
            while more := self.tls.read(65536):
                heard += more
        return heard


class World:
    """A site at an endpoint, and the connections to it."""

    def __init__(
        self,
        strangers: int = 1000,
        listen: str = "tcp:80",
        proxies: tuple[Network, ...] = (),
        root: IResource | None = None,
    ) -> None:
        self.clock: Any = MemoryReactorClock()
        self.pages = Pages()
        self.refused: Counter[str] = Counter()
        self.site = BoundedSite(root or self.pages, self.clock, BODY_MAX, strangers, proxies, self.refused, Counter())
        Deferred.fromCoroutine(listening.listen(self.clock, listen, self.site))
        if self.clock.sslServers:
            (_, factory, context, _, _) = self.clock.sslServers[0]
            # As a real reactor has it.
            self.factory: Any = TLSMemoryBIOFactory(context, False, factory)
        else:
            self.factory = self.clock.tcpServers[0][1]
        self.factory._clock = self.clock  # TLS takes the global one

    def open(self, address: str = "192.0.2.1") -> tuple[Any, Wire] | None:
        """Connect from ``address``; None: the connection is closed at once."""
        kind = IPv6Address if ":" in address else IPv4Address
        protocol = self.factory.buildProtocol(kind("TCP", address, 1))
        wire = Wire(kind("TCP", address, 1))
        protocol.makeConnection(wire)
        if wire.ended:
            self.end(protocol)
            return None
        return protocol, wire

    def end(self, protocol: Any) -> None:
        protocol.connectionLost(Failure(ConnectionDone()))

    def turn(self) -> None:
        """Call what is due, but not what that asks for."""
        for call in [call for call in self.clock.calls if call.getTime() <= self.clock.seconds()]:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


def opened(world: World) -> tuple[Any, Wire]:
    found = world.open()
    assert found is not None
    return found


def lasts(world: World, wire: Wire, feed: Any = lambda: None, every: float = 1.0) -> float:
    """How long the server keeps the connection while every now and then something comes."""
    while not wire.ended:
        assert world.clock.seconds() < 1000
        feed()
        world.clock.advance(every)
    return float(world.clock.seconds())
