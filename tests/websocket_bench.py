"""Both ends of one connection in memory. The client is Autobahn's.

Nothing moves and no time passes but where a test says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.task import Clock
from twisted.test.iosim import FakeTransport, IOPump, connect

from devconf.config import Limits
from devconf.websocket import Peer, PeerFactory

#: Bytes that a transport keeps before it tells its producer to pause, as Twisted's own do.
BUFFER = 65536
MESSAGE_MAX = 1000

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


class Transport(FakeTransport):
    """A transport of iosim that tells its producer to pause while it is full, and that can be aborted."""

    def __init__(self, protocol: Any, isServer: bool) -> None:
        super().__init__(protocol, isServer)
        self.aborted = False

    @property
    def pending(self) -> int:
        return sum(len(data) for data in self.stream)

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.producer and self.pending > BUFFER:
            self.producer.pauseProducing()

    def getOutBuffer(self) -> Any:
        was_full = self.pending > BUFFER
        data = super().getOutBuffer()
        if self.producer and was_full:
            self.producer.resumeProducing()
        return data

    def abortConnection(self) -> None:
        self.aborted = True
        self.stream.clear()
        super().abortConnection()


class Server(Peer):
    """The server's end, and what has happened to it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.on_message: Callable[[bytes], None] = self.events.append

    def opened(self) -> None:
        self.events.append("opened")

    def received(self, payload: bytes) -> None:
        self.on_message(payload)

    def drained(self) -> None:
        self.events.append("drained")

    def lost(self) -> None:
        self.events.append("lost")


class Client(WebSocketClientProtocol):
    """The client's end, and what has come to it."""

    transport: Any
    answers_pings = True
    answers_close = True

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []
        self.pings = 0
        self.pongs: list[bytes] = []
        self.close_frame: tuple[int, str] | None = None
        self.gone = False

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert not isBinary
        self.messages.append(payload)

    def onPing(self, payload: bytes) -> None:
        self.pings += 1
        if self.answers_pings:
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        self.pongs.append(payload)

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> bool | None:
        self.close_frame = (code, (reasonRaw or b"").decode())
        return super().onCloseFrame(code, reasonRaw) if self.answers_close else None

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: ARG002
        self.gone = True


class Connection:
    """One connection, open."""

    def __init__(self, *, message_max: int = MESSAGE_MAX, clock: Clock | None = None, **limits: int) -> None:
        self.clock = clock or Clock()
        self.factory = PeerFactory(self.clock, Limits(**limits), message_max)
        self.server = Server()
        self.server.factory = self.factory
        clients = WebSocketClientFactory("ws://server/wsapi/v1/devconf_fx", reactor=self.clock)
        clients.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0)
        self.client = Client()
        self.client.factory = clients
        self.wire = Transport(self.server, True)
        self.pump: IOPump = connect(
            self.server, self.wire, self.client, Transport(self.client, False), clock=self.clock
        )
        assert self.server.events == ["opened"]
        self.server.events.clear()

    def move(self) -> None:
        """Move all that was sent, both ways."""
        self.pump.flush()

    def wait(self, seconds: float) -> None:
        """Let time pass, in which what is sent arrives."""
        self.clock.advance(seconds)
        self.move()

    @property
    def alive(self) -> bool:
        return not self.wire.disconnecting

    def frames(self, count: int, payload: bytes = b"", *, last: bool = True) -> None:
        """Send one message in that many frames."""
        for number in range(count):
            self.client.sendFrame(opcode=0 if number else TEXT, payload=payload, fin=last and number == count - 1)


def fill(connection: Connection) -> int:
    """Send until the peer's buffers are full; how many messages that took."""
    count = 0
    while connection.server.writable:
        connection.server.send(b"%04d " % count + b"x" * 1000)
        count += 1
    return count
