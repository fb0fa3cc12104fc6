"""WebSockets for the load: as little work as possible, since the generator must not be what is measured.

What a connection gets is given to its ``received``, and what that returns is sent back.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable

from benchmarks.process import PATIENCE, Failed

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A

#: Takes a message, and returns what is to be sent back.
Received = Callable[[bytes], bytes | None]

# Always the same key: a server does the same work for any.
_KEY = b"\x37\xfa\x21\x3d"
_SEND_WITHIN = struct.pack("ll", int(PATIENCE), 0)


def masked(payload: bytes, first: int = TEXT) -> bytes:
    """Return ``payload`` as a frame of a client.

    :param first: the first byte: the opcode, and that it is the last frame of its message.
    """
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    key = (_KEY * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return head + _KEY + mixed.to_bytes(size, "little")


def frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the frames of a server that ``data`` has whole, as first byte and payload, and what is left of it.

    :raises Failed: a frame is masked.
    """
    found = []
    at, end = 0, len(data)
    while end - at >= 2:
        size = data[at + 1]
        start = at + 2
        if size >= 126:
            if size > 127:
                raise Failed("the server has masked a frame")
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : start], "big")
        if start + size > end:
            break
        found.append((data[at], data[start : start + size]))
        at = start + size
    return found, data[at:]


def unasked(payload: bytes) -> bytes | None:
    """A ``received`` for who expects nothing."""
    raise Failed(f"a message that nobody waits for: {payload[:300]!r}")


class Connection:
    """One WebSocket.

    :ivar received: what its messages are given to.
    """

    def __init__(self, sock: socket.socket, rest: bytes, received: Received) -> None:
        self.sock = sock
        self._rest = rest
        self.received = received

    @classmethod
    def open(cls, port: int, path: str, received: Received) -> Connection:
        """Connect to ``path`` at ``port`` of 127.0.0.1; blocks until the handshake is done.

        :raises Failed: the server does not take it.
        """
        sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        )
        sock.sendall("\r\n".join((*lines, "", "")).encode())
        head, end, rest = b"", b"", b""
        while not end:
            more = sock.recv(4096)
            head, end, rest = (head + more).partition(b"\r\n\r\n")
            if not more:
                break
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(f"no WebSocket at {path.rpartition('/')[0]}: {head.decode('latin-1').splitlines()[:1]}")
        # Blocking from now on, with the time bounded by the system, and without a look before each call.
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_WITHIN)
        return cls(sock, rest, received)

    def send(self, payload: bytes) -> None:
        """Send a text message."""
        self.sock.sendall(masked(payload))

    def read(self) -> None:
        """Take what has come, and send all that is to be sent back at once.

        :raises Failed: the server has closed the connection, or sent what it should not.
        """
        data = self.sock.recv(262144, socket.MSG_DONTWAIT)
        if not data:
            raise Failed("the server has dropped a connection")
        found, self._rest = frames(self._rest + data)
        out = []
        for first, payload in found:
            if first == TEXT:
                answer = self.received(payload)
                if answer is not None:
                    out.append(masked(answer))
            elif first == PING:
                out.append(masked(payload, PONG))
            elif first == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                raise Failed(f"the server has closed a connection: {code} {payload[2:].decode('utf-8', 'replace')}")
            else:
                raise Failed(f"the server has sent a frame that begins with {first:#x}")
        if out:
            self.sock.sendall(b"".join(out))


class Sockets:
    """All connections, looked after together: one that waits for nothing still gets its pings answered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._open: dict[int, Connection] = {}

    def add(self, connection: Connection) -> None:
        """Look after ``connection`` too."""
        descriptor = connection.sock.fileno()
        self._open[descriptor] = connection
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, connection: Connection) -> None:
        """Drop ``connection``."""
        self._epoll.unregister(connection.sock.fileno())
        del self._open[connection.sock.fileno()]
        connection.sock.close()

    def pump(self, within: float) -> None:
        """Read what has come, or what comes first ``within`` so many seconds."""
        for descriptor, _ in self._epoll.poll(within, 256):
            self._open[descriptor].read()

    def rest(self, seconds: float) -> None:
        """Do nothing for so long but look after the connections."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.pump(left)
