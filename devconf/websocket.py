"""What both WebSocket protocols share: guards, keep-alive, back-pressure and closing, on Autobahn.

Autobahn's own timers run on the global reactor, so they are switched off and ours, on the clock that was passed in,
take their place. The HTTP layer in front has bounded the handshake already (:mod:`devconf.web.upgrade`).
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from typing import Any

from attrs import define, field
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.util import encode_truncate
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from devconf import sessions

PING_EVERY = 30.0
PONG_WITHIN = 10.0
CLOSE_WITHIN = 5.0

#: A message may come in so many frames.
MAX_FRAGMENTS = 64

_log = Logger()


@implementer(IPushProducer)
class Peer(WebSocketServerProtocol):
    """One connection. A subclass has :meth:`opened`, :meth:`received` and :meth:`lost`.

    :ivar factory: the :class:`PeerFactory` that built it.
    """

    factory: PeerFactory
    transport: Any
    # As class attributes, so that Autobahn finds them before the connection is made.
    tcpNoDelay = True

    def __init__(self) -> None:
        super().__init__()
        self._paused = False
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._fragments = 0
        self._size = 0
        self._is_open = False
        self._closing: IDelayedCall | None = None

    # -- for subclasses

    def opened(self) -> None:
        """The handshake is done."""

    def received(self, payload: bytes) -> None:
        """A text message has come."""

    def drained(self) -> None:
        """What was sent has been read."""

    def lost(self) -> None:
        """The connection is gone; called once, and only if it was :meth:`opened`."""

    @property
    def writable(self) -> bool:
        """Whether the peer reads what is sent."""
        return self._may_send and not self._paused

    @property
    def _may_send(self) -> bool:
        # Autobahn raises where a close frame has been sent or received already, be it on its own account.
        return self._is_open and self.state == self.STATE_OPEN

    def send(self, payload: bytes) -> None:
        """Send a text message; of a peer that does not read, keep it within the limits or drop the connection."""
        if not self._may_send:
            return
        if not self._paused:
            self.sendMessage(payload)
            return
        self._unread.append(payload)
        self._unread_bytes += len(payload)
        limits = self.factory.limits
        if self._unread_bytes > limits.unread_bytes or len(self._unread) > limits.unread_messages:
            _log.warn("{peer} does not read: connection aborted", peer=self.peer)
            self.transport.abortConnection()

    def close(self, code: int, reason: str) -> None:
        """Close with any ``code``; a peer that does not answer is dropped after a few seconds."""
        if self._may_send:
            self.sendCloseFrame(code=code, reasonUtf8=encode_truncate(reason, 123))

    # -- from Autobahn

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        """See :class:`autobahn.websocket.protocol.WebSocketProtocol`, which closes by itself at a violation, too."""
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self._is_open and self._closing is None:
            self._closing = self.factory.clock.callLater(CLOSE_WITHIN, self.transport.abortConnection)

    def onOpen(self) -> None:
        """See ``IWebSocketChannel``."""
        self._is_open = True
        self.transport.registerProducer(self, True)
        self.factory.keepalive.add(self)
        self._guarded(self.opened)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """See ``IWebSocketChannel``."""
        if not self._may_send:
            return
        if isBinary:
            self.close(sessions.UNSUPPORTED, "send text messages, not binary ones")
        else:
            self._guarded(self.received, payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: ARG002
        """See ``IWebSocketChannel``."""
        if not self._is_open:
            return
        self._is_open = False
        self._unread.clear()
        self.factory.keepalive.remove(self)
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        self._guarded(self.lost)

    def _guarded(self, function: Any, *args: Any) -> None:
        # An exception that leaves a callback drops the connection without a word.
        try:
            function(*args)
        except Exception:
            _log.failure("{function} failed for {peer}", function=function.__qualname__, peer=self.peer)

    def dataReceived(self, data: bytes) -> None:
        """Note that the peer lives."""
        self.factory.keepalive.heard(self)
        super().dataReceived(data)

    def onMessageBegin(self, isBinary: bool) -> None:
        """See ``IWebSocketChannel``."""
        self._fragments = self._size = 0
        super().onMessageBegin(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        """Bound what is received; Autobahn's own limits would bound what is sent too, and do not see empty frames."""
        super().onMessageFrameBegin(length)
        self._fragments += 1
        self._size += length
        limit = self.factory.message_max
        if (self._size > limit or self._fragments > MAX_FRAGMENTS) and not self.failedByMe:
            self._max_message_size_exceeded(
                self._size, limit, f"a message has at most {limit} bytes, in at most {MAX_FRAGMENTS} frames"
            )

    def onPing(self, payload: bytes) -> None:
        """Answer, unless the peer does not read the answers: then it is flooding."""
        if self._paused:
            self.transport.abortConnection()
        else:
            super().onPing(payload)

    # -- from the transport: IPushProducer

    def pauseProducing(self) -> None:
        """See ``IPushProducer``; comes for every write while the buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self._paused = False
        while self._unread and self.writable:
            payload = self._unread.popleft()
            self._unread_bytes -= len(payload)
            self.sendMessage(payload)
        if self.writable:
            self._guarded(self.drained)

    def stopProducing(self) -> None:
        """See ``IPushProducer``: the transport is gone; ``onClose`` follows."""


class PeerFactory(WebSocketServerFactory):
    """Builds :class:`Peer` protocols.

    :ivar clock: monotonic.
    :ivar limits: the configuration's limits (§7).
    :ivar message_max: bytes of a message that is received.
    """

    noisy = False

    def __init__(self, clock: IReactorTime, limits: Any, message_max: int) -> None:
        # Given a reactor, Autobahn leaves the global one alone. It seeds the process's random numbers: the host's.
        state = random.getstate()
        super().__init__(server="", reactor=clock)
        random.setstate(state)
        self.clock = clock
        self.limits = limits
        self.message_max = message_max
        self.keepalive = Keepalive(clock)
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            utf8validateIncoming=False,  # the decoder of the messages does, and answers (§ small print)
            autoFragmentSize=0,
            failByDrop=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            autoPingTimeout=0,
            allowNullOrigin=True,
        )


@define
class Keepalive:
    """Pings peers that have been silent for long, and drops those that stay so. One timer for all."""

    _clock: IReactorTime
    # When to act on each peer. Both are in the order of time, since each peer waits equally long.
    _quiet: OrderedDict[Peer, float] = field(factory=OrderedDict, init=False)
    _pinged: OrderedDict[Peer, float] = field(factory=OrderedDict, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    def add(self, peer: Peer) -> None:
        """Watch ``peer``."""
        self._quiet[peer] = self._clock.seconds() + PING_EVERY
        self._arm()

    def heard(self, peer: Peer) -> None:
        """Note that ``peer`` lives; one that is not watched is fine."""
        if peer in self._quiet or self._pinged.pop(peer, None) is not None:
            self._quiet[peer] = self._clock.seconds() + PING_EVERY
            self._quiet.move_to_end(peer)

    def remove(self, peer: Peer) -> None:
        """Watch ``peer`` no longer."""
        self._quiet.pop(peer, None)
        self._pinged.pop(peer, None)
        if not self._quiet and not self._pinged and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        times = [next(iter(waiting.values())) for waiting in (self._quiet, self._pinged) if waiting]
        if times and self._timer is None:
            self._timer = self._clock.callLater(max(0.0, min(times) - self._clock.seconds()), self._run)

    def _run(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for peer in self._due(self._pinged, now):
            _log.info("{peer} is silent: connection dropped", peer=peer.peer)
            peer.transport.abortConnection()
        for peer in self._due(self._quiet, now):
            self._pinged[peer] = now + PONG_WITHIN
            peer.sendPing()
        self._arm()

    def _due(self, waiting: OrderedDict[Peer, float], now: float) -> list[Peer]:
        due = []
        while waiting and next(iter(waiting.values())) <= now:
            due.append(waiting.popitem(last=False)[0])
        return due
