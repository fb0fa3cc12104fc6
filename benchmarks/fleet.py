"""Thousands of devices in one process: they log in, connect, answer every order, and come back when they are cut off.

Each has an address of its own out of 127.0.0.0/8, as devices in the field have. What they are sent is counted and
thrown away, so that a large content costs them nothing.
"""

from __future__ import annotations

import errno
import heapq
import json
import re
import select
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from itertools import count
from random import Random

from attrs import define, field, frozen

from benchmarks.process import Failed
from benchmarks.sockets import CLOSE, PING, PONG, TEXT, masked

#: Seconds: what is drawn from after the first attempt that failed, twice as long each time, and the most of it.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Bytes of a message that are looked at: its ``req_id`` is among them.
HEAD = 512
_REQ_ID = re.compile(rb'"req_id":"([^"]*)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)

#: A step of the way in: yields what is sent, and is given the answer's status and body.
_Way = Generator[bytes, tuple[int, bytes], str]


@frozen
class Enrolled:
    """What a device has to know of itself."""

    dev_refid: str
    dev_unid: str
    dev_key: str


class _Cut(Exception):
    """The connection is gone, or the server would not have us: try again."""


@define(eq=False)
class Box:
    """One device.

    :ivar connected: it has a WebSocket.
    """

    enrolled: Enrolled
    address: str
    connected: bool = False
    sock: socket.socket | None = None
    attempts: int = 0
    way: _Way | None = None
    path: str = ""
    out: bytes = b""
    rest: bytes = b""
    head: bytes = b""
    kind: int = 0
    left: int = 0


@define(eq=False)
class Fleet:
    """All of them.

    :ivar connected: how many have a WebSocket, :ivar answered: orders in all, :ivar received: bytes in all.
    :ivar failures: attempts to come in that the server did not take, or cut.
    """

    _port: int
    _enrolled: Sequence[Enrolled]
    connected: int = field(default=0, init=False)
    answered: int = field(default=0, init=False)
    received: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    boxes: list[Box] = field(init=False)
    _open: dict[int, Box] = field(factory=dict, init=False)
    _epoll: select.epoll = field(factory=select.epoll, init=False)
    _later: list[tuple[float, int, Box]] = field(factory=list, init=False)
    _numbers: count[int] = field(factory=count, init=False)
    _random: Random = field(factory=lambda: Random(1), init=False)
    _buffer: memoryview = field(factory=lambda: memoryview(bytearray(1 << 18)), init=False)

    def __attrs_post_init__(self) -> None:
        self.boxes = [
            Box(each, f"127.{1 + place // 62500}.{place // 250 % 250}.{1 + place % 250}")
            for place, each in enumerate(self._enrolled)
        ]

    # -- coming and going

    def come(self) -> None:
        """Let all that are away come in, at once."""
        for box in self.boxes:
            if box.sock is None:
                self._dial(box)

    def deafen(self, count: int) -> None:
        """Let so many read nothing any longer; their connections stay."""
        for box in self.boxes[:count]:
            assert box.sock is not None
            self._epoll.unregister(box.sock.fileno())

    def vanish(self) -> None:
        """Cut all connections at once, as a power cut does."""
        for box in self.boxes:
            self._drop(box)
        self._later.clear()

    def close(self) -> None:
        """Let go of everything."""
        self.vanish()
        self._epoll.close()

    def pump(self, within: float) -> None:
        """Do what there is to do, or what comes first ``within`` so many seconds."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._dial(heapq.heappop(self._later)[2])
        for descriptor, events in self._epoll.poll(within, 256):
            box = self._open.get(descriptor)
            if box is not None:
                try:
                    self._on(box, events)
                except (_Cut, OSError):
                    self._again(box)

    def until(self, condition: Callable[[], bool], seconds: float, what: str, meanwhile: Callable[[], None]) -> float:
        """Pump until ``condition`` holds, and return how long that took.

        :param meanwhile: called each time around.
        :raises Failed: it took more than ``seconds``.
        """
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > seconds:
                raise Failed(f"{what} took more than {seconds:g} s")
            self.pump(0.002)
            meanwhile()
        return time.monotonic() - start

    def _dial(self, box: Box) -> None:
        box.way = self._way(box)
        box.out = next(box.way)
        self._connect(box)

    def _connect(self, box: Box) -> None:
        sock = box.sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        box.rest = box.head = b""
        box.left = 0
        sock.bind((box.address, 0))
        self._open[sock.fileno()] = box
        self._epoll.register(sock.fileno(), select.EPOLLOUT)
        if sock.connect_ex(("127.0.0.1", self._port)) not in (0, errno.EINPROGRESS):
            self._again(box)

    def _drop(self, box: Box) -> None:
        if box.sock is not None:
            with suppress(FileNotFoundError):  # a deaf one is not looked at
                self._epoll.unregister(box.sock.fileno())
            del self._open[box.sock.fileno()]
            # At once, and with a reset.
            box.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            box.sock.close()
            box.sock = None
        self.connected -= box.connected
        box.connected = False

    def _again(self, box: Box) -> None:
        self.failures += 1
        self._drop(box)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**box.attempts)
        box.attempts += 1
        heapq.heappush(self._later, (time.monotonic() + self._random.uniform(0, pause), next(self._numbers), box))

    # -- the way in (§1)

    def _way(self, box: Box) -> _Way:
        """Do what a device does before it connects: login, register, ws_url."""
        me = box.enrolled
        login = {"user_type": "dev", "dev_refid": me.dev_refid, "dev_key": me.dev_key}
        account = _answer((yield self._http("POST", "/webapi/v1/login", login)))
        about = {"dev_refid": me.dev_refid, "dev_type": "box", "dev_name": f"the box {me.dev_refid}"}
        path = f"/webapi/v1/devconf_fx/devices/{me.dev_unid}/register"
        _answer((yield self._http("POST", path, about, account["atoken"])))
        path = f"/webapi/v1/devconf_fx/users/{me.dev_unid}/ws_url?type=devconf_fx"
        address = _answer((yield self._http("GET", path, None, account["atoken"])))["ws_url"]
        return "/" + address.split("/", 3)[3]

    def _http(self, method: str, path: str, body: dict[str, str] | None, atoken: str = "") -> bytes:
        sent = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self._port}", f"Content-Length: {len(sent)}"]
        if atoken:
            lines.append(f"Authorization: {atoken}")
        return "\r\n".join((*lines, "", "")).encode() + sent

    def _upgrade(self, box: Box) -> bytes:
        lines = (
            f"GET {box.path} HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {b64encode(bytes(16)).decode()}",
            "Sec-WebSocket-Version: 13",
        )
        return "\r\n".join((*lines, "", "")).encode()

    # -- what comes

    def _on(self, box: Box, events: int) -> None:
        sock = box.sock
        assert sock is not None
        if events & select.EPOLLOUT:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise _Cut
            sock.sendall(box.out)  # a request, and the socket is new
            self._epoll.modify(sock.fileno(), select.EPOLLIN)
        if events & ~select.EPOLLOUT:
            size = sock.recv_into(self._buffer)
            if not size:
                raise _Cut
            if box.connected:
                self._messages(box, size)
            else:
                self._answers(box, size)

    def _answers(self, box: Box, size: int) -> None:
        box.rest += self._buffer[:size]
        head, end, body = box.rest.partition(b"\r\n\r\n")
        if not end:
            return
        status = int(head[9:12])
        if box.way is None:
            if status != 101:
                raise _Cut
            self._opened(box, body)
            return
        length = _LENGTH.search(head)
        if len(body) < int(length[1] if length else 0):
            return
        box.rest = b""
        try:
            out = box.way.send((status, body))
        except StopIteration as done:
            # The WebSocket is a connection of its own.
            attempts, box.path, box.way = box.attempts, done.value, None
            self._drop(box)
            box.attempts, box.out = attempts, self._upgrade(box)
            self._connect(box)
        else:
            assert box.sock is not None
            box.sock.sendall(out)

    def _opened(self, box: Box, rest: bytes) -> None:
        box.connected, box.attempts, box.rest = True, 0, b""
        self.connected += 1
        if rest:
            self._buffer[: len(rest)] = rest
            self._messages(box, len(rest))

    def _messages(self, box: Box, size: int) -> None:
        self.received += size
        at = 0
        while at < size:
            if box.left:
                taken = min(box.left, size - at)
                if len(box.head) < HEAD:
                    box.head += self._buffer[at : at + min(taken, HEAD - len(box.head))]
                at, box.left = at + taken, box.left - taken
            else:
                box.rest += self._buffer[at : at + 1]
                at += 1
                if not _begun(box):
                    continue
            if not box.left:
                self._message(box)

    def _message(self, box: Box) -> None:
        assert box.sock is not None
        head, box.head = box.head, b""
        if box.kind == PING:
            box.sock.sendall(masked(head, PONG))
        elif box.kind == CLOSE:
            raise _Cut
        elif box.kind != TEXT:
            raise Failed(f"the server has sent a frame that begins with {box.kind:#x}")
        elif (found := _REQ_ID.search(head)) is None:
            raise Failed(f"the server has sent a device {head!r}")
        else:
            self.answered += 1
            box.sock.sendall(masked(b'{"req_id":"%s","ecode":0,"enote":"ok"}' % found[1]))


def _begun(box: Box) -> bool:
    """Take the header of a frame, once it is there as a whole."""
    header = box.rest
    if len(header) < 2 or len(header) < (length := {126: 4, 127: 10}.get(header[1], 2)):
        return False
    box.kind, box.rest = header[0], b""
    box.left = header[1] if length == 2 else int.from_bytes(header[2:], "big")
    return True


def _answer(answer: tuple[int, bytes]) -> dict[str, str]:
    status, body = answer
    if status in (429, 503):
        raise _Cut
    if status != 200:
        raise Failed(f"a device was answered {status} {body[:300]!r}")
    parsed: dict[str, str] = json.loads(body)
    return parsed
