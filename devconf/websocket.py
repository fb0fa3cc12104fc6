"""What both WebSocket protocols share: guards, keep-alive, back-pressure both ways and closing, on Autobahn.

Autobahn's own timers run on the global reactor, so they are switched off and ours, on the clock that was passed in,
take their place. The HTTP layer in front has bounded the handshake already (:mod:`devconf.web.upgrade`).

All frames go out through :meth:`Peer.sendData`, and what the transport does not take waits there, where it is bounded.
What comes in is taken in steps (:meth:`Peer.processData`), so that one peer does not hold up the others.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.util import encode_truncate
from twisted.internet.error import ConnectionClosed, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from devconf import sessions
from devconf.pacing import Hold, Keepalive, Turns, Useless
from devconf.sparing import Muted, SparingLog

CLOSE_WITHIN = 5.0
#: A message may come in so many frames.
MAX_FRAGMENTS = 64
#: Bytes that the transport is given at once: it takes all that it gets, and only then says that it is full.
PIECE = 65536
#: Bytes below which what comes of a message is joined at once: many small objects take many times their size.
DRIP = 4096
#: Steps, one or two for each frame, that are taken of a peer before others have their turn.
STEPS = 64

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
    log: Any = Muted()

    def __init__(self) -> None:
        super().__init__()
        self._paused = False
        self._unread: deque[bytes | memoryview] = deque()
        self._pong: bytes | None = None
        self._unread_bytes = self._apart = self._pongs_left_out = 0  # _apart: counted elsewhere
        self._fragments = self._size = 0
        self._is_open = self._given_up = self._finishing = False
        self._closing: IDelayedCall | None = None
        self._held = Hold.NONE
        self._steps = 0
        self._useless = Useless()
        self._slowed: IDelayedCall | None = None

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
        return self._is_open and not self._given_up and bool(self.state == self.STATE_OPEN)

    @property
    def unread(self) -> bool:
        """Whether the peer has something to read."""
        return self._paused

    @property
    def held(self) -> bool:
        """Whether nothing is read of the peer."""
        return bool(self._held)

    def send(self, *parts: bytes) -> None:
        """Send a text message; of a peer that does not read, keep it within the limits or drop the connection.

        :param parts: what it consists of; of a large message they are not copied, and may be common to many.
        """
        if not self._may_send:
            return
        size = sum(map(len, parts))
        if len(parts) == 1 or size <= PIECE:
            self.sendMessage(b"".join(parts))
        else:  # one frame of text, whose length has eight bytes
            head = b"\x81\x7f" + size.to_bytes(8, "big") + parts[0]
            self._put(head, *[memoryview(part) for part in parts[1:]])

    def close(self, code: int, reason: str) -> None:
        """Close with any ``code``; a peer that does not answer is dropped after a few seconds."""
        if self._may_send:
            self.sendCloseFrame(code=code, reasonUtf8=encode_truncate(reason, 123))

    def give_up(self) -> None:
        """Drop the connection, with all that was not read."""
        self._given_up = True
        self.factory.closed["dropped"] += 1
        self._forget_unread()
        self.transport.abortConnection()

    def hold(self, why: Hold) -> None:
        """Read nothing more of the peer until :meth:`release`."""
        if not self._held:
            self.transport.pauseProducing()
        self._held |= why

    def release(self, why: Hold) -> None:
        """Read on, unless there is another reason not to; one that there was not is fine."""
        if not self._held & why:
            return
        self._held &= ~why
        if self._held or not self._is_open:
            return
        if self.data:
            # Not from in here: who releases may stand in the middle of a message of the same peer.
            self._held = Hold.TURN
            self.factory.turns.wait(self)
        else:
            self.transport.resumeProducing()

    def useless(self) -> None:
        """Note that a message came to nothing; of a peer that goes on and on with such, less is read."""
        if self._useless.too_many(self.factory.clock.seconds()) and self._may_send and self._slowed is None:
            self.hold(Hold.USELESS)
            self._slowed = self.factory.clock.callLater(1.0, self._read_on)

    def _read_on(self) -> None:
        self._slowed = None
        self.release(Hold.USELESS)

    # -- what goes out

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:  # noqa: ARG002
        """See :class:`autobahn.websocket.protocol.WebSocketProtocol`: each frame, whoever sends it."""
        self._put(data)

    def _put(self, *frame: bytes | memoryview) -> None:
        """Write a frame, or keep what of it cannot be written yet; what is not its beginning is a ``memoryview``."""
        behind = len(self._unread)
        for data in frame:
            if self._paused:
                self._unread.append(data)
                self._unread_bytes += len(data)
            else:
                self._write(data)
        limits = self.factory.limits
        counted = self._unread_bytes - self._apart
        # One message may always wait: it may be larger than all that is allowed.
        if behind >= limits.unread_messages or (behind and counted > limits.unread_bytes):
            self._does_not_read()

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest and not self._paused:
            self.transport.write(bytes(rest[:PIECE]))
            rest = rest[PIECE:]
        if rest:
            self._unread.appendleft(rest)
            self._unread_bytes += len(rest)

    def _does_not_read(self) -> None:
        if not self._given_up:
            self.factory.log.info("{peer} does not read: connection dropped", peer=self.peer)
            self.give_up()

    def _forget_unread(self) -> None:
        self._unread.clear()
        self._unread_bytes = 0
        self._pong = None

    def onPing(self, payload: bytes) -> None:
        """Answer; of the pings that come while the peer does not read, the last one (RFC 6455, 5.5.3)."""
        if not self._paused:
            super().onPing(payload)
        elif self._may_send:
            self._pongs_left_out += self._pong is not None
            self._pong = bytes((0x8A, len(payload))) + payload
            if self._pongs_left_out > self.factory.limits.unread_messages:
                self._does_not_read()

    def pauseProducing(self) -> None:
        """See ``IPushProducer``; comes for every write while the buffer is full."""
        if not self._paused:
            self._paused = True
            self.factory.keepalive.reads_not(self)

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self._paused = False
        self._pongs_left_out = 0
        self.factory.keepalive.reads(self)
        while not self._paused and (self._pong is not None or self._unread):
            # Between two frames, not within one.
            if self._pong is not None and not (self._unread and isinstance(self._unread[0], memoryview)):
                pong, self._pong = self._pong, None
                self.transport.write(pong)
                continue
            data = self._unread.popleft()
            self._unread_bytes -= len(data)
            self._write(data)
        if self.writable:
            self._apart = 0
            self._guarded(self.drained)
        elif not self._paused and self._finishing:
            self.dropConnection()

    def stopProducing(self) -> None:
        """See ``IPushProducer``: the transport is gone; ``onClose`` follows."""

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        """See :class:`autobahn.websocket.protocol.WebSocketProtocol`, which closes by itself at a violation, too."""
        self._pong = None
        if self.failedByMe:
            self.factory.log.info(
                "{peer} is closed: {code} {reason}", peer=self.peer, code=code, reason=(reasonUtf8 or b"").decode()
            )
        if not isReply:
            self.factory.closed[str(code)] += 1
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self._is_open and self._closing is None:
            self._cut_soon()
            # Its answer is to be heard.
            self.release(Hold.USELESS | Hold.BUSY)

    def dropConnection(self, abort: bool = False) -> None:
        """See :class:`autobahn.websocket.protocol.WebSocketProtocol`; what was sent before is read before."""
        if self._is_open and not abort:
            self._finishing = self._paused
            if self._finishing:
                return
            # Over TLS, a connection with a producer stays.
            self.transport.unregisterProducer()
        elif not abort and self.state != self.STATE_CLOSED:
            # The handshake has failed. Over TLS, a peer that says no goodbye would stay.
            self._cut_soon()
        super().dropConnection(abort)

    def _cut_soon(self) -> None:
        self._closing = self.factory.clock.callLater(CLOSE_WITHIN, self.transport.abortConnection)

    # -- what comes in

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
        for timer in (self._closing, self._slowed):
            if timer is not None and timer.active():
                timer.cancel()
        if not self._is_open:
            return
        self._is_open = False
        self._forget_unread()
        self.data = b""
        self.factory.keepalive.remove(self)
        self.factory.turns.forget(self)
        self._guarded(self.lost)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``. A peer that breaks TLS is lost; Autobahn would log it as an error."""
        super().connectionLost(reason if reason.check(ConnectionClosed) else Failure(ConnectionLost()))

    def _guarded(self, function: Any, *args: Any) -> None:
        # An exception that leaves a callback drops the connection without a word.
        try:
            function(*args)
        except Exception:
            _log.failure("{function} failed for {peer}", function=function.__qualname__, peer=self.peer)

    def dataReceived(self, data: bytes) -> None:
        """Note that the peer lives."""
        self.factory.keepalive.heard(self)
        self._steps = STEPS
        super().dataReceived(data)

    def processData(self) -> bool:
        """See :class:`autobahn.websocket.protocol.WebSocketProtocol`: a step, unless others have their turn now."""
        if self._held:
            return False
        if not self._steps:
            self.hold(Hold.TURN)
            self.factory.turns.wait(self)
            return False
        self._steps -= 1
        return bool(super().processData())

    def go_on(self) -> None:
        """It is this peer's turn: take more of what it has sent."""
        self._steps = STEPS
        self._held &= ~Hold.TURN
        if self._held:
            return
        self._guarded(self.consumeData)
        if not self._held and self._is_open:
            self.transport.resumeProducing()

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

    def onMessageFrameData(self, payload: bytes) -> None:
        """See ``IWebSocketChannel``: a part of a frame."""
        if self.failedByMe or not self.frame_data or len(payload) >= DRIP:
            super().onMessageFrameData(payload)
        elif isinstance(self.frame_data[-1], bytearray):
            self.frame_data[-1] += payload
        else:
            self.frame_data.append(bytearray(payload))


class PeerFactory(WebSocketServerFactory):
    """Builds :class:`Peer` protocols.

    :ivar clock: monotonic.
    :ivar limits: the configuration's limits (§7).
    :ivar message_max: bytes of a message that is received.
    :ivar log: for what peers cause.
    :ivar closed: how many connections were ended from here, by close code, or as ``dropped``.
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
        self.log = SparingLog(clock, _log)
        self.closed: Counter[str] = Counter()
        self.keepalive = Keepalive(clock, self.log)
        self.turns = Turns(clock)
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
