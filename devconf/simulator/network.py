"""The network of a simulated device: what goes wrong on the way, below the device's own code.

A :class:`Line` stands where a device has its reactor. What the device opens through it can be cut, frozen, slowed down
or doubled, and the device learns of it as it would from a network that does so.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHostnameResolver,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

#: How a text message begins that is one frame.
_TEXT = 0x81


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver)
class Line:
    """A device's way to the server.

    :ivar doubling: what the device says on its socket goes out twice; not through TLS.
    :ivar rate: bytes a second that are read; None: as many as come.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._connections: list[_Connection] = []
        self.rate: float | None = None
        self.doubling = False

    # -- what goes wrong

    def cut(self) -> None:
        """End all connections, without a word but what the kernel says."""
        for connection in list(self._connections):
            connection.cut()

    def freeze(self) -> None:
        """Let nothing pass any longer on the connections that are open; new ones are as they should be."""
        for connection in self._connections:
            connection.freeze()

    def thaw(self, linger: float) -> None:
        """Tell the device that frozen connections are gone; the server is told so ``linger`` seconds later."""
        for connection in list(self._connections):
            if connection.frozen:
                connection.let_go(linger)

    def slow_down(self, rate: float | None) -> None:
        """Have the device read no more than ``rate`` bytes a second; None: as many as come."""
        self.rate = rate
        if rate is None:
            for connection in self._connections:
                connection.read_on()

    # -- from its connections

    def opened(self, connection: _Connection) -> None:
        """Note a connection."""
        self._connections.append(connection)

    def closed(self, connection: _Connection) -> None:
        """Note the end of a connection, on both sides."""
        self._connections.remove(connection)

    # -- the reactor of the device

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> IConnector:
        """See ``IReactorTCP``."""
        wrapped = _Connections(self, factory)
        connector: IConnector = self._reactor.connectTCP(host, port, wrapped, timeout, bindAddress)
        return connector

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See ``IReactorTCP``."""
        return self._reactor.listenTCP(port, factory, backlog, interface)

    def seconds(self) -> float:
        """See ``IReactorTime``."""
        now: float = self._reactor.seconds()
        return now

    def callLater(self, delay: float, callable: Any, *args: Any, **kwargs: Any) -> IDelayedCall:  # noqa: A002
        """See ``IReactorTime``."""
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return call

    def getDelayedCalls(self) -> Any:
        """See ``IReactorTime``."""
        return self._reactor.getDelayedCalls()

    @property
    def nameResolver(self) -> IHostnameResolver:
        """See ``IReactorPluggableNameResolver``."""
        resolver: IHostnameResolver = self._reactor.nameResolver
        return resolver

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """See ``IReactorPluggableNameResolver``."""
        before: IHostnameResolver = self._reactor.installNameResolver(resolver)
        return before


class _Connections(WrappingFactory[Any]):
    noisy = False

    def __init__(self, line: Line, wrapped: Any) -> None:
        super().__init__(wrapped)
        self.line = line

    def buildProtocol(self, addr: IAddress | None) -> _Connection:
        return _Connection(self, self.wrappedFactory.buildProtocol(addr))


class _Connection(ProtocolWrapper):
    """One connection.

    :ivar frozen: nothing passes.
    """

    factory: _Connections
    transport: Any

    def __init__(self, factory: _Connections, wrapped: Any) -> None:
        super().__init__(factory, wrapped)
        self.frozen = False
        self._line = factory.line
        self._begun = False
        self._is_socket = False
        self._gone = False
        self._timer: IDelayedCall | None = None

    def makeConnection(self, transport: Any) -> None:
        """See ``IProtocol``."""
        self._line.opened(self)
        super().makeConnection(transport)

    # -- what goes wrong

    def cut(self) -> None:
        if self.frozen:
            self.let_go(0.0)
        self.transport.abortConnection()

    def freeze(self) -> None:
        self.frozen = True
        self._set_timer(None)
        self.transport.pauseProducing()

    def let_go(self, linger: float) -> None:
        """End it for the device now, and for the server ``linger`` seconds later."""
        self._tell_lost(Failure(ConnectionLost("the network is gone")))
        self._set_timer(self._line.callLater(linger, self.transport.abortConnection))

    def read_on(self) -> None:
        if not self.frozen:
            self._set_timer(None)
            self.transport.resumeProducing()

    def _set_timer(self, timer: IDelayedCall | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = timer

    # -- from the device

    def write(self, data: bytes) -> None:
        """See ``ITransport``."""
        if not self._begun:
            self._begun = True
            self._is_socket = data.startswith(b"GET /wsapi/")
        if self.frozen:
            return
        # Autobahn writes each frame by itself, and whole.
        if self._line.doubling and self._is_socket and data[0] == _TEXT:
            data += data
        super().write(data)

    def writeSequence(self, data: Any) -> None:
        """See ``ITransport``."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """See ``ITransport``."""
        if self.frozen:
            self.let_go(0.0)
        else:
            super().loseConnection()

    def abortConnection(self) -> None:
        """See ``ITCPTransport``."""
        if self.frozen:
            self.let_go(0.0)
        else:
            self.transport.abortConnection()

    # -- from the server

    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        super().dataReceived(data)
        rate = self._line.rate
        if rate is not None and not self.frozen and not self._gone:
            self.transport.pauseProducing()
            self._set_timer(self._line.callLater(len(data) / rate, self.read_on))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``."""
        self._line.closed(self)
        self._set_timer(None)
        self._tell_lost(reason)

    def _tell_lost(self, reason: Failure) -> None:
        if not self._gone:
            self._gone = True
            super().connectionLost(reason)
