"""A message in parts goes out piece by piece, and a device has it as one frame."""

from __future__ import annotations

import pytest

from devconf.websocket import PIECE
from tests.websocket_bench import BUFFER, Connection

COMMON = b"x" * (10 * PIECE)
MESSAGE = b"begins " + COMMON + b" ends"


@pytest.fixture
def connection() -> Connection:
    connection = Connection()
    connection.server.send(b"begins ", COMMON, b" ends")
    return connection


def step(connection: Connection) -> None:
    """Let the client read what its socket has."""
    connection.client.dataReceived(connection.wire.getOutBuffer())


def test_a_socket_is_handed_no_more_than_it_takes(connection: Connection) -> None:
    assert not connection.server.writable
    while not connection.client.messages:
        assert connection.wire.pending <= BUFFER + PIECE
        step(connection)
    assert connection.client.messages == [MESSAGE]
    assert connection.server.events == ["drained"]
    assert connection.server.writable


def test_a_small_one_is_one_message_too() -> None:
    connection = Connection()
    connection.server.send(b"one ", b"two ", b"three")
    connection.server.send(b"four")
    connection.move()
    assert connection.client.messages == [b"one two three", b"four"]


def test_what_is_sent_meanwhile_comes_after_it(connection: Connection) -> None:
    connection.server.send(b"second ", COMMON)
    step(connection)
    connection.server.send(b"third")
    connection.server.send(b"fourth ", COMMON, COMMON)
    connection.server.send(b"fifth")
    connection.move()
    assert connection.client.messages == [
        MESSAGE,
        b"second " + COMMON,
        b"third",
        b"fourth " + COMMON + COMMON,
        b"fifth",
    ]
    assert connection.alive


def test_a_close_comes_after_it(connection: Connection) -> None:
    step(connection)
    connection.server.close(1001, "the server is stopping")
    connection.server.send(b"too late ", COMMON)
    connection.move()
    assert connection.client.messages == [MESSAGE]
    assert connection.client.close_frame == (1001, "the server is stopping")
    assert connection.server.events == ["lost"]


def test_a_pong_does_not_come_into_the_middle_of_it(connection: Connection) -> None:
    for number in range(3):
        connection.client.sendPing(b"%d" % number)
    connection.server.dataReceived(connection.client.transport.getOutBuffer())
    connection.server.send(b"second ", COMMON)
    connection.move()
    assert connection.client.messages == [MESSAGE, b"second " + COMMON]
    assert connection.client.pongs == [b"2"]


def test_it_counts_as_a_whole() -> None:
    connection = Connection(unread_bytes=15 * PIECE)
    connection.server.send(b"begins ", COMMON)
    assert connection.alive
    connection.server.send(b"begins ", COMMON)
    assert connection.wire.aborted
