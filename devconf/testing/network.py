"""Connections without sockets: a reactor on which programs for a real one connect to a server in memory.

What is written at one end arrives at the other in the next step of the reactor's time, which stands still until it is
advanced.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from attrs import define, field
from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IConnector, IConsumer, IPushProducer, ITCPTransport
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

#: Bytes that an end keeps for one that does not read, before it asks its producer to pause.
BUFFER = 65536

_log = Logger()


class MemoryReactor(MemoryReactorClock):
    """A reactor whose connections all lead to one server, whatever address they name. Names resolve at once.

    :ivar _accept: returns the server's protocol for a connection from an address; None refuses it.
    """

    def __init__(self, accept: Callable[[IPv4Address], Any]) -> None:
        super().__init__()
        self._accept = accept
        self._open: dict[Connection, None] = {}
        self._ports = count(49152)

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,  # noqa: ARG002
        bindAddress: object = None,  # noqa: ARG002
    ) -> Connector:
        """See ``IReactorTCP``; the connection is there, or refused, in the next step."""
        connector = Connector(self, IPv4Address("TCP", host, port), factory)
        connector.connect()
        return connector

    def join(self, connector: Connector) -> Connection | None:
        """Connect ``connector`` to the server; None: it is refused."""
        address = IPv4Address("TCP", "127.0.0.1", next(self._ports))
        server = self._accept(address)
        if server is None:
            return None
        connection = Connection(self, connector)
        self._open[connection] = None
        connection.begin(server, address)
        return connection

    def forget(self, connection: Connection) -> None:
        """Note the end of a connection."""
        self._open.pop(connection, None)

    def cut(self) -> None:
        """End all connections as the end of the server's process does: its own side is not told."""
        while self._open:
            connection, _ = self._open.popitem()
            connection.cut()


@implementer(IConnector)
@define(eq=False)
class Connector:
    """What a client factory knows of its connection."""

    _reactor: MemoryReactor
    _address: IPv4Address
    factory: Any
    _attempt: Any = None
    _connection: Connection | None = None

    def connect(self) -> None:
        """See ``IConnector``."""
        self.factory.doStart()
        self.factory.startedConnecting(self)
        self._attempt = self._reactor.callLater(0, self._dial)

    def _dial(self) -> None:
        self._attempt = None
        self._connection = self._reactor.join(self)
        if self._connection is None:
            self._failed(error.ConnectionRefusedError())

    def _failed(self, why: Exception) -> None:
        self.factory.clientConnectionFailed(self, Failure(why))
        self.factory.doStop()

    def lost(self, reason: Failure) -> None:
        """Note the end of the connection."""
        self._connection = None
        self.factory.clientConnectionLost(self, reason)
        self.factory.doStop()

    def stopConnecting(self) -> None:
        """See ``IConnector``."""
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
            self._failed(error.UserError())

    def disconnect(self) -> None:
        """See ``IConnector``."""
        self.stopConnecting()
        if self._connection is not None:
            self._connection.client.loseConnection()

    def getDestination(self) -> IPv4Address:
        """See ``IConnector``."""
        return self._address


@define(eq=False)
class Connection:
    """Two ends that are joined.

    :ivar client: the end of who connected.
    :ivar server: the other.
    """

    reactor: MemoryReactor
    connector: Connector
    client: End = field(init=False)
    server: End = field(init=False)

    def begin(self, server: Any, address: IPv4Address) -> None:
        """Make the connection with the protocol of the server, which sees ``address``."""
        here = self.connector.getDestination()
        self.server = End(self, server, here, address)
        self.client = End(self, self.connector.factory.buildProtocol(here), address, here)
        server.makeConnection(self.server)
        self.client.protocol.makeConnection(self.client)

    def other(self, end: End) -> End:
        """Return the opposite of ``end``."""
        return self.server if end is self.client else self.client

    def end(self, first: End, why: Exception, told: Exception) -> None:
        """End it: ``first`` is lost for the reason ``why``, and the other is ``told`` another."""
        if not first.gone:
            self.reactor.forget(self)
            for end, reason in ((first, why), (self.other(first), told)):
                end.gone = True
                self.reactor.callLater(0, self._lost, end, Failure(reason))

    def cut(self) -> None:
        """End it for the client alone."""
        self.server.gone = self.client.gone = True
        self.reactor.callLater(0, self._lost, self.client, Failure(error.ConnectionLost()))

    def _lost(self, end: End, reason: Failure) -> None:
        producer, end.producer = end.producer, None
        if producer is not None:
            producer.stopProducing()
        end.protocol.connectionLost(reason)
        if end is self.client:
            self.connector.lost(reason)


@implementer(ITCPTransport, IConsumer, IPushProducer)
@define(eq=False)
class End:
    """One end of a connection, as the protocol there sees it.

    :ivar protocol: may be replaced, as that of a real transport.
    :ivar gone: nothing comes or goes any more.
    """

    _connection: Connection
    protocol: Any
    _here: IPv4Address
    _there: IPv4Address
    gone: bool = field(default=False, init=False)
    disconnecting: bool = field(default=False, init=False)
    producer: Any = field(default=None, init=False)
    _streaming: bool = field(default=True, init=False)
    _producer_paused: bool = field(default=False, init=False)
    _reads: bool = field(default=True, init=False)
    _unread: bytearray = field(factory=bytearray, init=False)
    _moving: bool = field(default=False, init=False)
    _keepalive: bool = field(default=False, init=False)
    _no_delay: bool = field(default=False, init=False)

    # -- writing

    def write(self, data: bytes) -> None:
        """See ``ITransport``."""
        if not self.gone and data:
            self._unread += data
            if self.producer is not None and self._streaming and len(self._unread) > BUFFER:
                self._producer_paused = True
                self.producer.pauseProducing()
            self._move_soon()

    def writeSequence(self, iovec: Any) -> None:
        """See ``ITransport``."""
        self.write(b"".join(iovec))

    def _move_soon(self) -> None:
        if not self._moving:
            self._moving = True
            self._connection.reactor.callLater(0, self._move)

    def _move(self) -> None:
        self._moving = False
        other = self._connection.other(self)
        if self.gone or not other._reads:
            return
        data, self._unread = bytes(self._unread), bytearray()
        if data:
            other._arrived(data)
        if self.producer is not None and (self._producer_paused or not self._streaming) and not self.gone:
            self._producer_paused = False
            self.producer.resumeProducing()
        if self.disconnecting and not self._unread:
            self._connection.end(self, error.ConnectionDone(), error.ConnectionDone())

    def _arrived(self, data: bytes) -> None:
        try:
            self.protocol.dataReceived(data)
        except Exception:  # as a reactor does
            _log.failure("a protocol failed to take what came; its connection is dropped")
            self.abortConnection()

    def loseConnection(self, *_: Any) -> None:
        """See ``ITransport``: what has been written arrives first."""
        self.disconnecting = True
        self._move_soon()

    def loseWriteConnection(self) -> None:
        """See ``ITCPTransport``: here the same as losing it."""
        self.loseConnection()

    def abortConnection(self) -> None:
        """See ``ITCPTransport``: what has not arrived never does."""
        self.disconnecting = True
        self._unread.clear()
        self._connection.end(self, error.ConnectionAborted(), error.ConnectionLost())

    # -- IConsumer: what produces for this end

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See ``IConsumer``."""
        if self.producer is not None:
            raise RuntimeError(f"cannot register {producer}: {self.producer} is registered")
        if self.gone:
            producer.stopProducing()
            return
        self.producer, self._streaming, self._producer_paused = producer, streaming, False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """See ``IConsumer``."""
        self.producer = None
        if self.disconnecting:
            self._move_soon()

    # -- IPushProducer: this end reads, or it does not

    def pauseProducing(self) -> None:
        """See ``IPushProducer``."""
        self._reads = False

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self._reads = True
        self._connection.other(self)._move_soon()

    def stopProducing(self) -> None:
        """See ``IPushProducer``."""
        self.loseConnection()

    # -- what a TCP transport has besides

    def getHost(self) -> IPv4Address:
        """See ``ITransport``."""
        return self._here

    def getPeer(self) -> IPv4Address:
        """See ``ITransport``."""
        return self._there

    def getTcpNoDelay(self) -> bool:
        """See ``ITCPTransport``."""
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""
        self._no_delay = enabled

    def getTcpKeepAlive(self) -> bool:
        """See ``ITCPTransport``."""
        return self._keepalive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""
        self._keepalive = enabled
