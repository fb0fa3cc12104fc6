"""A WebSocket by hand, for frames that no library would send."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from kit_wire import PATIENCE, WS_PATH, Http


class RawSocket:
    """A WebSocket by hand, for frames that no library would send."""

    def __init__(self, http: Http, atoken: str, *, room: int | None = None) -> None:
        """`room`: bytes that our side takes without being read; the server's side has some besides."""
        self.sock = socket.socket()
        if room is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.sock.settimeout(PATIENCE)
        self.sock.connect((http.host, http.port))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {WS_PATH} HTTP/1.1",
            f"Host: {http.host}:{http.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            f"Authorization: {atoken}",
        )
        self.sock.sendall("\r\n".join((*lines, "", "")).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.sock.recv(4096)
            assert more, f"the server closed in the handshake: {head!r}"
            head += more
        assert head.startswith(b"HTTP/1.1 101"), head
        self.rest = head.split(b"\r\n\r\n", 1)[1]

    @staticmethod
    def frame(payload: bytes, first: int = 0x81, *, masked: bool = True, claim: int | None = None) -> bytes:
        """One frame; `first` is FIN, reserved bits and opcode, `claim` a length that is not the true one."""
        size = len(payload) if claim is None else claim
        bit = 0x80 if masked else 0
        if size < 126:
            head = struct.pack("!BB", first, bit | size)
        elif size < 65536:
            head = struct.pack("!BBH", first, bit | 126, size)
        else:
            head = struct.pack("!BBQ", first, bit | 127, size)
        if not masked:
            return head + payload
        return head + bytes(4) + payload  # a mask of zeros leaves the payload as it is

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(opcode, payload) of each frame that the server sends, until it ends the connection."""
        data = self.rest
        while True:
            while (parsed := self._parse(data)) is not None:
                opcode, payload, data = parsed
                yield opcode, payload
            try:
                more = self.sock.recv(65536)
            except ConnectionResetError:
                return
            if not more:
                return
            data += more

    @staticmethod
    def _parse(data: bytes) -> tuple[int, bytes, bytes] | None:
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        if size == 126:
            if len(data) < 4:
                return None
            size, at = struct.unpack("!H", data[2:4])[0], 4
        elif size == 127:
            if len(data) < 10:
                return None
            size, at = struct.unpack("!Q", data[2:10])[0], 10
        if len(data) < at + size:
            return None
        return data[0] & 0x0F, data[at : at + size], data[at + size :]

    def close_code(self) -> int | None:
        """Read to the end: the code of the server's close frame, None if it just cut the connection."""
        for opcode, payload in self.frames():
            if opcode == 8:
                return int(struct.unpack("!H", payload[:2])[0]) if len(payload) >= 2 else None
        return None

    def close(self) -> None:
        self.sock.close()


@contextmanager
def raw_socket(http: Http, atoken: str, *, room: int | None = None) -> Iterator[RawSocket]:
    raw = RawSocket(http, atoken, room=room)
    try:
        yield raw
    finally:
        raw.close()
