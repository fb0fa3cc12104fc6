"""One connection whose peer does not read, or reads slowly."""

from __future__ import annotations

from typing import Any

import pytest

from devconf.websocket import PIECE
from tests.websocket_bench import BUFFER, Connection, fill


@pytest.fixture
def connection() -> Connection:
    return Connection()


def test_what_a_slow_peer_has_not_read_waits_and_comes_in_order(connection: Connection) -> None:
    count = fill(connection)
    for number in range(count, count + 100):
        connection.server.send(b"%04d " % number + b"x" * 1000)
    kept = connection.wire.pending
    assert kept < BUFFER + 2000
    connection.move()
    assert [int(message[:4]) for message in connection.client.messages] == list(range(count + 100))
    assert connection.server.events == ["drained"]
    assert connection.server.writable


def test_too_many_unread_messages_drop_the_connection() -> None:
    connection = Connection(unread_messages=10)
    fill(connection)
    for _ in range(10):
        connection.server.send(b"x")
    assert connection.alive
    connection.server.send(b"x")
    assert connection.wire.aborted
    connection.move()
    assert connection.server.events == ["lost"]
    assert connection.client.messages == []


def test_too_many_unread_bytes_drop_the_connection() -> None:
    connection = Connection(unread_bytes=10_008)  # each of these frames has a head of four bytes
    fill(connection)
    connection.server.send(b"x" * 9_000)
    connection.server.send(b"x" * 1_000)
    assert connection.alive
    connection.server.send(b"x")
    assert connection.wire.aborted
    connection.move()
    assert connection.server.events == ["lost"]


def test_what_has_been_read_counts_no_longer() -> None:
    connection = Connection(unread_bytes=10_040, unread_messages=10)
    for _ in range(5):
        fill(connection)
        for _ in range(10):
            connection.server.send(b"x" * 1000)
        connection.move()
    assert connection.alive


def test_pings_are_answered(connection: Connection) -> None:
    connection.client.sendPing(b"payload")
    connection.move()
    assert connection.client.pongs == [b"payload"]


def test_a_peer_that_floods_with_pings_and_does_not_read_the_answers_is_dropped() -> None:
    connection = Connection(unread_messages=100)
    sent = 0
    while connection.alive:
        connection.client.sendPing(b"x" * 125)
        # Up only: what comes down is not read.
        connection.server.dataReceived(connection.client.transport.getOutBuffer())
        sent += 1
        assert sent < 1000
    assert connection.wire.aborted
    assert sent > BUFFER // 127
    connection.move()
    assert connection.server.events == ["lost"]
    assert connection.client.pongs == []


def test_a_peer_that_does_not_read_the_close_is_dropped_too(connection: Connection) -> None:
    fill(connection)
    connection.server.send(b"waits")
    connection.server.close(1001, "the server is stopping")
    connection.clock.advance(5)
    assert connection.wire.aborted
    connection.move()
    assert connection.server.events == ["lost"]


def test_a_large_message_waits_here_and_not_in_the_transport(connection: Connection) -> None:
    """What a transport is given counts nowhere."""
    connection.server.send(b"x" * 1_000_000)
    connection.server.send(b"after it")
    assert connection.wire.pending <= BUFFER + PIECE
    connection.move()
    assert connection.client.messages == [b"x" * 1_000_000, b"after it"]
    assert connection.server.events == ["drained"]


def test_one_message_may_be_larger_than_all_that_may_wait() -> None:
    connection = Connection(unread_bytes=10_000)
    for _ in range(2):
        connection.server.send(b"x" * 1_000_000)
        assert connection.alive
        connection.move()
    connection.server.send(b"x" * 1_000_000)
    connection.server.send(b"x")
    assert connection.wire.aborted


def test_nothing_is_kept_of_what_is_sent_to_one_that_was_dropped() -> None:
    connection = Connection(unread_messages=1)
    fill(connection)
    for _ in range(5):
        connection.server.send(b"x")
    assert connection.wire.aborted
    assert not connection.server._unread
    assert connection.wire.pending == 0


def up(connection: Connection) -> None:
    """What the client has sent arrives; what comes down is not read."""
    connection.server.dataReceived(connection.client.transport.getOutBuffer())


def test_of_the_pings_of_one_that_does_not_read_the_last_is_answered(connection: Connection) -> None:
    """Between two messages, not within one, and before what else waits: it asks whether we are there."""
    connection.server.send(b"x" * 500_000)
    connection.server.send(b"y" * 500_000)
    for number in range(5):
        connection.client.sendPing(b"%d" % number)
    up(connection)
    order: list[str] = []
    client: Any = connection.client
    client.onPong = lambda payload: order.append(payload.decode())
    client.onMessage = lambda payload, isBinary: order.append(payload[:1].decode())  # noqa: ARG005
    connection.move()
    assert order == ["x", "4", "y"]


def test_a_ping_while_only_the_transport_is_full_is_answered_too(connection: Connection) -> None:
    fill(connection)
    connection.client.sendPing(b"there?")
    up(connection)
    connection.move()
    assert connection.client.pongs == [b"there?"]


def test_nothing_is_said_after_the_close(connection: Connection) -> None:
    fill(connection)
    connection.client.sendPing(b"there?")
    up(connection)
    connection.server.close(4001, "replaced")
    connection.move()
    assert connection.client.close_frame == (4001, "replaced")
    assert connection.client.pongs == []
    assert connection.server.events[-1] == "lost"


def test_one_that_sends_but_reads_nothing_for_a_minute_is_dropped(connection: Connection) -> None:
    fill(connection)
    for _ in range(11):
        connection.clock.advance(5)
        connection.client.sendMessage(b"still here")
        up(connection)
    assert connection.alive
    connection.clock.advance(5)
    assert connection.wire.aborted


def test_one_that_reads_slowly_stays_for_as_long_as_it_takes(connection: Connection) -> None:
    """It cannot answer pings that stand behind what it reads: that it reads is a sign of life."""
    connection.client.answers_pings = False
    connection.server.send(b"x" * 1_500_000)
    rounds = 0
    while not connection.client.messages:
        connection.clock.advance(25)
        assert connection.alive
        data = connection.wire.getOutBuffer()
        connection.client.dataReceived(data)
        rounds += 1
    assert rounds > 5
    assert connection.client.pings == 0
    connection.wait(30)
    assert connection.client.pings == 1
    connection.wait(10)
    assert connection.wire.aborted


def test_what_waits_goes_out_before_the_connection_ends(connection: Connection) -> None:
    """The client closes; what it was sent before is still its own."""
    connection.server.send(b"x" * 500_000)
    connection.client.sendClose(1000)
    connection.move()
    assert connection.client.messages == [b"x" * 500_000]
    assert connection.server.events == ["lost"]
    assert connection.client.gone
