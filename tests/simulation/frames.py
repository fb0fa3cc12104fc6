"""The peer's end of a WebSocket: an implementation of its own, of as much of RFC 6455 as a peer needs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha1
from random import Random
from typing import Protocol

from tests.simulation.network import Connection
from tests.simulation.pipe import Mark

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class IOwner(Protocol):
    """Who speaks through a socket."""

    def opened(self, socket: Socket) -> None:
        """The server has agreed."""

    def heard(self, socket: Socket, payload: bytes, written: Mark) -> None:
        """A text message has come; ``written``: when the server wrote it."""

    def closed(self, socket: Socket) -> None:
        """It is over, or has never begun."""


def frame(opcode: int, payload: bytes, mask: bytes, final: bool = True) -> bytes:
    """Return one frame of a client."""
    head = bytes([opcode | (0x80 if final else 0)])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    pad = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big") if size else b""
    return head + mask + masked


class Socket:
    """One WebSocket, on one connection.

    :ivar is_open: the server has agreed, and nobody has closed it yet.
    :ivar answers: it answers pings and closing, as a living peer does.
    :ivar agreed: when the server agreed; :ivar code: with which the server has closed it, 0: it has not.
    :ivar received_at: when something last came, in seconds.
    """

    def __init__(self, owner: IOwner, ticket: str, random: Random) -> None:
        self.is_open = False
        self.answers = True
        self.received_at = 0.0
        self.connection: Connection
        self.agreed: Mark
        self._owner = owner
        self._ticket = ticket.encode()
        self._random = random
        self._key = b64encode(random.randbytes(16))
        self._data = bytearray()
        self._position = 0
        self._message = b""
        self._shaken = False
        self._over = False
        self.code = 0

    def begin(self, connection: Connection) -> None:
        """Shake hands on ``connection``."""
        self.connection = connection
        connection.send(
            b"GET /wsapi/v1/devconf_fx/%s HTTP/1.1\r\nHost: devconf\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (self._ticket, self._key)
        )

    # -- sending

    def send(self, payload: bytes, opcode: int = TEXT) -> None:
        """Send a message, sometimes in several frames."""
        if not self.is_open:
            return
        cut = self._random.randrange(len(payload)) if payload and self._random.random() < 0.1 else 0
        if cut and opcode == TEXT:
            self._send(opcode, payload[:cut], final=False)
            self._send(0, payload[cut:])
        else:
            self._send(opcode, payload)

    def _send(self, opcode: int, payload: bytes, final: bool = True) -> None:
        self.connection.send(frame(opcode, payload, self._random.randbytes(4), final))

    def close(self, code: int = 1000) -> None:
        """Close as a peer does that goes away: with a close frame, and then the connection."""
        if self.is_open:
            self._send(CLOSE, code.to_bytes(2, "big"))
        if self.connection.peer_open:
            self.connection.close()
        self._end()

    # -- from the connection: IEnd

    def received(self, data: bytes) -> None:
        """Bytes have come."""
        self.received_at = self.connection.timeline.now
        self._data += data
        if not self._shaken and not self._shake():
            return
        while not self._over and self._frame():
            pass

    def lost(self) -> None:
        """The connection is gone."""
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over, self.is_open = True, False
            self._owner.closed(self)

    def _shake(self) -> bool:
        head, found, rest = bytes(self._data).partition(b"\r\n\r\n")
        if not found:
            return False
        accept = b64encode(sha1(self._key + _GUID).digest())
        if not head.startswith(b"HTTP/1.1 101 ") or accept not in head:
            self.close()
            return False
        self._shaken = self.is_open = True
        self._take(len(self._data) - len(rest))
        self.agreed = self.connection.down.written_at(self._position)
        self._owner.opened(self)
        return True

    def _take(self, size: int) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[:size]
        self._position += size
        return taken

    def _frame(self) -> bool:
        data = self._data
        if len(data) < 2:
            return False
        size, start = data[1] & 127, 2
        if size >= 126:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return False
        opcode, final = data[0] & 15, bool(data[0] & 128)
        payload = self._take(start + size)[start:]
        self._KINDS.get(opcode, Socket._text)(self, payload, final)
        return True

    def _text(self, payload: bytes, final: bool) -> None:
        self._message += payload
        if final:
            message, self._message = self._message, b""
            self._owner.heard(self, message, self.connection.down.written_at(self._position))

    def _ping(self, payload: bytes, _final: bool) -> None:
        if self.answers and self.is_open:
            self._send(PONG, payload)

    def _pong(self, _payload: bytes, _final: bool) -> None:
        """It is alive."""

    def _close(self, payload: bytes, _final: bool) -> None:
        self.code = int.from_bytes(payload[:2], "big")
        if self.answers and self.is_open:
            self._send(CLOSE, payload[:2])
            self.is_open = False

    _KINDS: dict[int, Callable[[Socket, bytes, bool], None]] = {CLOSE: _close, PING: _ping, PONG: _pong}
