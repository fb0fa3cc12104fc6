"""Peers that connect and do not get as far as a request: to TLS, or to where a proxy says for whom it connects.

Each ends by itself, those beyond the limit at once, and none of them has a line in the log.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from kit import World
from kit_flood import others_work_on

from tests.certificates import certificate

BEFORE_LOGIN = 5
#: Seconds: none of these peers lasts as long as that. Nothing is measured with it.
LAST = 60.0
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.77 192.0.2.80 4000 80\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 77, 192, 0, 2, 80, 0x0F, 0xA0, 0, 80])


@dataclass
class Ports:
    """Where it is listened besides."""

    tls: int
    proxied: int
    client: ssl.SSLContext

    def hello(self) -> bytes:
        """What a client of TLS says first."""
        says = ssl.MemoryBIO()
        with suppress(ssl.SSLWantReadError):
            self.client.wrap_bio(ssl.MemoryBIO(), says, server_hostname="localhost").do_handshake()
        return says.read()

    def is_answered(self, port: int, source: str) -> bool:
        """Is somebody who knows how to ask answered there?"""
        with dial(port, source) as sock:
            if port == self.proxied:
                sock.sendall(V1 + GET)
                return sock.recv(100).startswith(b"HTTP/1.1 200 ")
            with self.client.wrap_socket(sock, server_hostname="localhost") as secured:
                secured.sendall(GET)
                return secured.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("server")
    key, trusted = certificate(folder)
    listen = [
        f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={trusted}",
        "haproxy:tcp:0:interface=127.0.0.1",
    ]
    world = World(folder, listen=listen, limits={"connections_per_address_before_login": BEFORE_LOGIN})
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def ports(world: World) -> Ports:
    tls, proxied = world.server.further_ports
    trusted: Path = world.server.folder / "certificate.pem"
    return Ports(tls, proxied, ssl.create_default_context(cafile=str(trusted)))


def dial(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), LAST, (source, 0))


def until_closed(sock: socket.socket) -> bytes:
    """What the server says until it closes the connection, which we do not."""
    heard = b""
    with suppress(ConnectionError):
        while more := sock.recv(4096):
            heard += more
    return heard


def is_open(sock: socket.socket) -> bool:
    return select.select([sock], [], [], 0) == ([], [], [])


def test_they_end_by_themselves(world: World, ports: Ports) -> None:
    """And others are answered meanwhile, there and elsewhere."""
    silent = {
        ports.tls: (b"", ports.hello()[:6], ports.hello()[:-1], ports.hello()),
        ports.proxied: (b"", V1[:20], V2[:20], V2[:14] + b"\xff\xff", V2),
    }
    with ExitStack() as stack, others_work_on(world):
        sockets = []
        for port, beginnings in silent.items():
            for number, beginning in enumerate(beginnings):
                sockets.append(stack.enter_context(dial(port, f"127.0.1.{number + 1}")))
                sockets[-1].sendall(beginning)
        secured = stack.enter_context(
            ports.client.wrap_socket(dial(ports.tls, "127.0.1.10"), server_hostname="localhost")
        )
        for port in silent:
            assert ports.is_answered(port, "127.0.1.20")
        for sock in sockets:
            until_closed(sock)
        assert until_closed(secured) == b""
        for port in silent:
            assert ports.is_answered(port, "127.0.1.1")


def test_they_count_and_more_of_them_are_closed_at_once(world: World, ports: Ports) -> None:
    before = world.server.log()
    for port, source, beginning in (
        (ports.tls, "127.0.2.1", ports.hello()[:100]),
        (ports.proxied, "127.0.2.2", V1[:20]),
    ):
        with ExitStack() as stack:
            those = [stack.enter_context(dial(port, source)) for _ in range(BEFORE_LOGIN)]
            those[0].sendall(beginning)
            for _ in range(50):
                # It may be over before we know that it began.
                with suppress(ConnectionError), dial(port, source) as further:
                    further.sendall(beginning)
                    assert until_closed(further) == b""
            assert all(is_open(sock) for sock in those)
            assert ports.is_answered(port, "127.0.2.3")
    assert world.server.log() == before


def test_garbage_has_no_line_in_the_log(world: World, ports: Ports) -> None:
    before = world.server.log()
    garbage = {
        ports.tls: (GET, b"\x16\x03\x01\xff\xff" + b"x" * 1000, V1 + GET),
        ports.proxied: (
            GET,
            ports.hello(),
            b"PROXY TCP4 192.0.2.77 192.0.2.80 four 80\r\n" + GET,
            b"PROXY TCP4 \xff\xff 192.0.2.80 4000 80\r\n" + GET,
            b"PROXY " + b"x" * 1_000_000,
        ),
    }
    for port, kinds in garbage.items():
        for kind in kinds * 10:
            with dial(port, "127.0.3.1") as sock:
                with suppress(ConnectionError):
                    sock.sendall(kind)
                assert b"HTTP" not in until_closed(sock)
    for port in garbage:
        assert ports.is_answered(port, "127.0.3.1")
    assert world.server.log() == before
