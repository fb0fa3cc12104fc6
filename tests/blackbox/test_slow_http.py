"""HTTP that drips: every phase of a connection ends in its time, and others are answered meanwhile."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest
from kit import PATIENCE, World
from kit_flood import others_work_on

SERVER = {"limits": {"store_conf_max": 1000}}

SLOW: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "empty lines": (b"", b"\r\n"),
    "a head": (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "one long field": (b"GET / HTTP/1.1\r\na: ", b"b"),
    "a body": (b"POST /webapi/v1/login HTTP/1.1\r\nContent-Length: 100\r\n\r\n", b" "),
    "chunks": (b"POST /webapi/v1/login HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}
#: Seconds that the slowest of these may take: a body that does not say how long it is.
SLOWEST = 30 + 262_144 / 16384 + 10


@pytest.mark.timeout(300, method="signal")
def test_http_that_drips(world: World) -> None:
    """Every way to be slow ends in its time, whatever drips."""
    address = (world.http.host, world.http.port)
    began = time.monotonic()
    ended: dict[str, float] = {}
    with ExitStack() as stack:
        with others_work_on(world):
            sockets = {name: stack.enter_context(socket.create_connection(address, PATIENCE)) for name in SLOW}
            for name, (first, _) in SLOW.items():
                sockets[name].sendall(first)
                sockets[name].settimeout(0.01)
            while len(ended) < len(SLOW):
                assert time.monotonic() - began < 2 * SLOWEST, f"still there: {set(SLOW) - set(ended)}"
                time.sleep(1)
                for name in set(SLOW) - set(ended):
                    if over(sockets[name], SLOW[name][1]):
                        ended[name] = time.monotonic() - began
    assert max(ended[name] for name in ("nothing", "empty lines", "a head", "one long field")) < 15 + 15 + 10
    assert ended["a body"] < 30 + 10
    assert ended["chunks"] < SLOWEST


def over(sock: socket.socket, drip: bytes) -> bool:
    """Send some more; whether the server has ended the connection."""
    try:
        sock.sendall(drip)
        return sock.recv(4096) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
