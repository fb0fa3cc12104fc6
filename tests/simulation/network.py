"""The network: connections that delay, split, merge, stall, are cut, and of which one end may know nothing.

The server's end is a transport of Twisted's (bounded buffer, producers, ``loseConnection``, ``abortConnection``),
the peer's end a few calls. Between them are two pipes with a window each: what the receiver does not read fills the
window, then the sender's buffer, and then the sender's producer is told to pause.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.simulation.pipe import Pipe, Quality
from tests.simulation.timeline import RunawayError, Timeline

_log = Logger()

#: Bytes that the server's end keeps before its producer is told to pause (Twisted: 64 KiB; here it is reached).
BUFFER = 4096


class IEnd(Protocol):
    """The peer's end of a connection: who it belongs to."""

    def received(self, data: bytes) -> None:
        """Bytes have come."""

    def lost(self) -> None:
        """The connection is gone, or has never come about."""


@implementer(ITCPTransport)
class ServerTransport:
    """The server's end of a connection, as ``twisted.internet.tcp`` makes it.

    :ivar alive: the server that has it lives: it hears of what happens.
    """

    def __init__(self, connection: Connection, timeline: Timeline, seen: Counter[str]) -> None:
        self.connection = connection
        self.protocol: Any
        self.connected = True
        self.disconnecting = False
        self.alive = True
        self._seen = seen
        self._timeline = timeline
        self._producer: Any = None
        self._producer_paused = False
        self._aborting = False

    # -- ITransport

    def write(self, data: bytes) -> None:
        """See ``ITransport``."""
        if not self.connected or self._aborting or not data:
            return
        self.connection.down.write(data)
        if self._producer is not None and self.connection.down.buffered > BUFFER:
            self._producer_paused = True
            self._seen["server: told to pause"] += 1
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """See ``ITransport``."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """See ``ITransport``: what is buffered goes out first."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self.connection.up.read(False)
            self._timeline.after(0, self.drained)

    def abortConnection(self) -> None:
        """See ``ITCPTransport``."""
        if self.connected and not self._aborting:
            self._aborting = True
            self._seen["server: aborts a connection"] += 1
            self.connection.up.read(False)
            self._timeline.after(0, self._aborted)

    def _aborted(self) -> None:
        if not self.alive:
            return
        self.connection.down.sever()
        self.connection.tell_peer()
        self.lost(ConnectionAborted())

    def getPeer(self) -> IPv4Address:
        """See ``ITransport``."""
        return IPv4Address("TCP", f"10.0.0.{self.connection.host}", 1024 + self.connection.number)

    def getHost(self) -> IPv4Address:
        """See ``ITransport``."""
        return IPv4Address("TCP", "10.0.0.0", 80)

    def loseWriteConnection(self) -> None:
        """See ``ITCPTransport``."""
        raise NotImplementedError("nothing of ours closes one half")

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""

    def getTcpNoDelay(self) -> bool:
        """See ``ITCPTransport``."""
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""

    def getTcpKeepAlive(self) -> bool:
        """See ``ITCPTransport``."""
        return False

    # -- IPushProducer and IConsumer

    def pauseProducing(self) -> None:
        """See ``IPushProducer``."""
        self._seen["server: stops reading"] += 1
        self.connection.up.read(False)

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        if self.connected and not self.disconnecting and not self._aborting:
            self.connection.up.read(True)

    def stopProducing(self) -> None:
        """See ``IPushProducer``."""
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See ``IConsumer``."""
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        if not streaming:
            raise NotImplementedError("nothing of ours pulls")
        if self.connected:
            self._producer = producer
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        """See ``IConsumer``."""
        self._producer = None

    # -- from the network

    def received(self, data: bytes) -> None:
        """Bytes have come."""
        if self.alive and self.connected and not self._aborting:
            try:
                self.protocol.dataReceived(data)
            except RunawayError:
                raise
            except Exception:
                _log.failure("dataReceived failed; the reactor drops the connection")
                self.abortConnection()

    def drained(self) -> None:
        """What was written is on its way, all of it."""
        if not self.alive or not self.connected or self.connection.down.buffered:
            return
        if self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._seen["server: told to resume"] += 1
            self._producer.resumeProducing()
        elif self.disconnecting and not self._aborting:
            self.connection.down.finish()
            self.lost(ConnectionDone())

    def ended(self) -> None:
        """The peer has closed."""
        self.lost(ConnectionDone())

    def lost(self, reason: Exception) -> None:
        """The connection is gone."""
        if not self.connected:
            return
        self.connected = False
        self.connection.up.sever()
        if not self.alive:
            return
        producer, self._producer = self._producer, None
        with _log.failuresHandled("a protocol failed at the end of its connection"):
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(Failure(reason))


@define(eq=False)
class Connection:
    """One connection.

    :ivar number: which one of the run; :ivar host: how the address of the peer ends.
    :ivar transport: the server's end, once it has been accepted.
    :ivar peer_open: the peer believes that it is there.
    :ivar cut: something has cut it.
    """

    number: int
    end: IEnd
    timeline: Timeline
    random: Random
    seen: Counter[str]
    quality: Quality
    up: Pipe = field(init=False)
    down: Pipe = field(init=False)
    transport: ServerTransport | None = None
    host: int = 1
    peer_open: bool = True
    cut: bool = False

    def __attrs_post_init__(self) -> None:
        self.up = Pipe(self.timeline, self.random, self.quality, self.seen)
        self.down = Pipe(self.timeline, self.random, self.quality, self.seen)
        self.down.receive = self._to_peer
        self.down.ended = self._peer_loses

    def accept(self, protocol: Any) -> None:
        """Make the server's end, and give it to ``protocol``."""
        transport = self.transport = ServerTransport(self, self.timeline, self.seen)
        transport.protocol = protocol
        self.up.receive, self.up.ended, self.down.drained = transport.received, transport.ended, transport.drained
        protocol.makeConnection(transport)

    # -- what the peer does

    def send(self, data: bytes) -> None:
        """Send ``data`` to the server."""
        if self.peer_open:
            self.up.write(data)

    def read(self, reading: bool) -> None:
        """Read what the server sends, or do not."""
        self.down.read(reading)

    def close(self) -> None:
        """Close the peer's end: the server hears of it after what was sent."""
        self._forget()
        self.up.finish()

    def break_off(self, server_after: float | None, peer_after: float | None) -> None:
        """Let nothing through any longer.

        :param server_after: seconds until the server's end hears that the connection is gone; None: it does not.
        :param peer_after: the same for the peer's.
        """
        self.cut = True
        self.up.sever()
        self.down.sever()
        if server_after is not None:
            self.timeline.after(server_after, self._server_loses)
        if peer_after is not None:
            self.timeline.after(peer_after, self._peer_loses)

    def stall(self, seconds: float) -> None:
        """Let nothing more arrive for so long."""
        self.up.stalled_until = self.down.stalled_until = self.timeline.now + seconds

    # -- what the ends hear

    def _server_loses(self) -> None:
        if self.transport is not None:
            self.transport.lost(ConnectionLost())

    def _to_peer(self, data: bytes) -> None:
        if self.peer_open:
            self.end.received(data)

    def tell_peer(self) -> None:
        """Let the peer hear that the server's end is gone, unless nothing gets through."""
        if not self.cut:
            self.timeline.after(self.quality.latency, self._peer_loses)

    def _peer_loses(self) -> None:
        if self.peer_open:
            self._forget()
            self.end.lost()

    def _forget(self) -> None:
        self.peer_open = False
        self.down.sever()
