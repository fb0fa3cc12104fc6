"""A WebSocket over TLS: it ends though the peer says no goodbye in TLS, and a peer that breaks TLS is just lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from devconf.config import Limits
from devconf.testing import MemoryServer
from devconf.websocket import CLOSE_WITHIN
from tests.certificates import certificate
from tests.fronts import Visitor, Wire, World, opened

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # by Twisted itself

CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


@define
class Line:
    """A connection of an operator who is logged in, over TLS."""

    server: MemoryServer
    world: World
    visitor: Visitor
    protocol: Any
    wire: Wire
    atoken: str = ""
    timers: int = 0

    def ask(self, message: bytes) -> bytes:
        """What is answered at once."""
        self.visitor.tell(self.protocol, message)
        self.server.finish()
        return self.visitor.hear(self.world, self.wire)

    def log_in(self) -> None:
        account = {"user_name": "alice", "password": "correct horse"}
        self.server.ask("post users", {**account, "role": "operator"})
        body = json.dumps({"user_type": "user", **account}).encode()
        head = b"POST /webapi/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        self.atoken = json.loads(self.ask(head % len(body) + body).partition(b"\r\n\r\n")[2])["atoken"]
        self.timers = len(self.server.clock.getDelayedCalls())

    def upgrade(self, version: int) -> bytes:
        """The first line of the answer."""
        lines = (
            "GET /wsapi/v1/devconf_fx HTTP/1.1",
            "Host: x",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Sec-WebSocket-Version: {version}",
            f"Authorization: {self.atoken}",
        )
        return self.ask("\r\n".join((*lines, "", "")).encode()).partition(b"\r\n")[0]


@pytest.fixture
def line(server: MemoryServer, tmp_path: Path) -> Line:
    key, trusted = certificate(tmp_path)
    world = World(listen=f"ssl:443:privateKey={key}:certKey={trusted}", root=server.service.resource)
    line = Line(server, world, Visitor(trusted), *opened(world))
    line.visitor.shake_hands(line.protocol, line.wire)
    line.log_in()
    return line


def is_gone(line: Line) -> bool:
    """End it, as the reactor does; whether nothing of it is left then."""
    line.world.end(line.protocol)
    timers = len(line.server.clock.getDelayedCalls()) - line.timers
    return (line.world.clock.getDelayedCalls(), timers, len(line.server.service.sessions)) == ([], 0, 0)


@pytest.mark.parametrize("closing", ["a handshake that fails", "a close frame"])
def test_it_ends_without_a_goodbye(line: Line, closing: str) -> None:
    if closing == "a close frame":
        assert line.upgrade(13) == b"HTTP/1.1 101 Switching Protocols"
        assert line.ask(CLOSE)[:1] == b"\x88"
    else:
        assert line.upgrade(99).startswith(b"HTTP/1.1 400 ")
    assert not line.wire.ended
    line.server.advance(CLOSE_WITHIN)
    assert line.wire.aborted
    assert is_gone(line)


@pytest.mark.parametrize("version", [13, 99])
def test_no_timer_is_left_of_one_that_goes_by_itself(line: Line, version: int) -> None:
    line.upgrade(version)
    assert is_gone(line)


def test_who_breaks_tls_is_lost(line: Line) -> None:
    """And the log does not call it an error."""
    line.upgrade(13)
    assert len(line.server.service.sessions) == 1
    line.protocol.dataReceived(b"this is no TLS")
    assert line.wire.ended
    assert is_gone(line)


def test_who_does_not_read_costs_its_bound(line: Line) -> None:
    """What TLS holds is told to wait as what TCP holds is."""
    line.upgrade(13)
    peer = line.protocol.wrappedProtocol
    line.wire.reads = False
    message = b'"' + b"x" * 65536 + b'"'
    for _ in range(Limits().unread_bytes // len(message)):
        peer.send(message)
        line.world.clock.advance(0)
    assert len(line.server.service.sessions) == 1
    assert len(line.wire.value()) < 4 * len(message)
    peer.send(message)
    peer.send(message)
    assert line.wire.aborted
    assert is_gone(line)
