"""One connection: what a peer may send, keep-alive, closing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from devconf import sessions
from devconf.config import Limits
from devconf.websocket import MAX_FRAGMENTS, PeerFactory
from tests.websocket_bench import MESSAGE_MAX, Client, Connection, Server, Transport


@pytest.fixture
def connection() -> Connection:
    return Connection()


# -- messages


def test_messages_go_both_ways(connection: Connection) -> None:
    connection.server.send(b'"down"')
    connection.client.sendMessage(b'"up"')
    connection.client.sendMessage(b"")
    connection.move()
    assert connection.client.messages == [b'"down"']
    assert connection.server.events == [b'"up"', b""]
    assert connection.server.writable


def test_text_that_is_not_utf_8_is_a_message(connection: Connection) -> None:
    """Those who decode it answer it, and the connection stays."""
    connection.client.sendMessage(b"\xff\xfe")
    connection.move()
    assert connection.server.events == [b"\xff\xfe"]
    assert connection.alive


def test_an_exception_does_not_drop_the_connection(connection: Connection, logged_errors: Any) -> None:
    def fail(payload: bytes) -> None:
        raise KeyError(payload)

    connection.server.on_message = fail
    connection.client.sendMessage(b"one")
    connection.client.sendMessage(b"two")
    connection.move()
    assert [failure.value.args for failure in logged_errors.expect(KeyError)] == [(b"one",), (b"two",)]
    assert connection.alive
    connection.server.send(b"still here")
    connection.move()
    assert connection.client.messages == [b"still here"]


def test_a_message_of_the_largest_size_is_read(connection: Connection) -> None:
    connection.client.sendMessage(b"x" * MESSAGE_MAX)
    connection.frames(4, b"y" * (MESSAGE_MAX // 4))
    connection.move()
    assert connection.server.events == [b"x" * MESSAGE_MAX, b"y" * MESSAGE_MAX]
    assert connection.alive


TOO_LARGE = (1009, f"a message has at most {MESSAGE_MAX} bytes, in at most {MAX_FRAGMENTS} frames")


def test_a_message_that_is_too_large_closes_the_connection(connection: Connection) -> None:
    connection.client.sendMessage(b"x" * (MESSAGE_MAX + 1))
    connection.move()
    assert connection.client.close_frame == TOO_LARGE
    assert connection.server.events == ["lost"]
    assert connection.client.gone


def test_a_message_that_only_says_it_is_too_large_closes_the_connection(connection: Connection) -> None:
    connection.client.transport.write(b"\x81\xff" + (2**40).to_bytes(8, "big") + b"mask" + b"x")
    connection.move()
    assert connection.client.close_frame == TOO_LARGE
    connection.wait(5)  # the client's answer was a part of that message
    assert connection.server.events == ["lost"]


def test_a_message_that_is_too_large_in_all_closes_the_connection(connection: Connection) -> None:
    connection.frames(3, b"x" * (MESSAGE_MAX // 2), last=False)
    connection.move()
    assert connection.client.close_frame == TOO_LARGE
    assert connection.server.events == ["lost"]


def test_64_frames_are_a_message_and_65_close_the_connection(connection: Connection) -> None:
    connection.frames(MAX_FRAGMENTS, b"x")
    connection.client.sendPing()  # a frame, but of no message
    connection.frames(MAX_FRAGMENTS)
    connection.move()
    assert connection.server.events == [b"x" * MAX_FRAGMENTS, b""]
    assert connection.alive
    connection.server.events.clear()
    connection.frames(MAX_FRAGMENTS + 1)
    connection.move()
    assert connection.client.close_frame == TOO_LARGE
    assert connection.server.events == ["lost"]


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff"])
def test_a_binary_message_closes_the_connection(connection: Connection, payload: bytes) -> None:
    connection.client.sendMessage(payload, isBinary=True)
    connection.client.sendMessage(b"after it")
    connection.move()
    assert connection.client.close_frame == (1003, "send text messages, not binary ones")
    assert connection.server.events == ["lost"]
    assert connection.client.gone


def test_what_is_sent_may_be_larger_than_what_is_received(connection: Connection) -> None:
    large = b"x" * (50 * MESSAGE_MAX)
    connection.server.send(large)
    connection.move()
    assert connection.client.messages == [large]


# -- keep-alive


def test_a_silent_peer_is_pinged_after_30_seconds_and_dropped_10_later(connection: Connection) -> None:
    connection.client.answers_pings = False
    connection.wait(29.9)
    assert connection.client.pings == 0
    connection.wait(0.2)
    assert connection.client.pings == 1
    connection.wait(9.8)
    assert connection.alive
    connection.wait(0.2)
    assert connection.wire.aborted
    assert connection.server.events == ["lost"]
    assert connection.client.pings == 1
    assert connection.clock.getDelayedCalls() == []


def test_a_peer_that_answers_stays_and_is_pinged_again(connection: Connection) -> None:
    for count in range(1, 5):
        connection.wait(29)
        assert connection.client.pings == count - 1
        connection.wait(1)
        assert connection.client.pings == count
    assert connection.alive
    assert connection.server.events == []


@pytest.mark.parametrize("traffic", ["message", "part of a message", "ping", "pong"])
def test_any_traffic_counts(connection: Connection, traffic: str) -> None:
    connection.client.answers_pings = False
    connection.client.answers_close = False
    sends = {
        "message": lambda: connection.client.sendMessage(b"x"),
        "part of a message": lambda: connection.client.transport.write(b"\x81"),
        "ping": connection.client.sendPing,
        "pong": connection.client.sendPong,
    }
    connection.wait(20)
    sends[traffic]()
    connection.move()
    connection.wait(29)
    assert connection.client.pings == 0  # 49 s after the beginning, 29 s after the traffic
    connection.wait(1)
    assert connection.client.pings == 1
    connection.wait(9)
    assert connection.alive
    connection.wait(1)
    assert connection.wire.aborted


def test_traffic_after_the_ping_counts_as_its_answer(connection: Connection) -> None:
    connection.client.answers_pings = False
    connection.wait(30)
    connection.wait(9)
    connection.client.sendMessage(b"x")
    connection.move()
    connection.wait(29)
    assert (connection.alive, connection.client.pings) == (True, 1)
    connection.wait(1)
    assert (connection.alive, connection.client.pings) == (True, 2)
    connection.wait(10)
    assert connection.wire.aborted


def test_each_peer_has_its_own_time_and_all_have_one_timer() -> None:
    clock = Clock()
    first = Connection(clock=clock)
    clock.advance(5)
    second = Connection(clock=clock)
    second.server.factory = first.factory
    # As if both had been accepted by one factory.
    second.factory.keepalive.remove(second.server)
    first.factory.keepalive.add(second.server)
    first.client.answers_pings = second.client.answers_pings = False
    seen = []
    for _ in range(50):
        assert len(clock.getDelayedCalls()) == (first.alive or second.alive)
        clock.advance(1)
        first.move()
        second.move()
        seen.append((first.client.pings, second.client.pings, first.alive, second.alive))
    first_pinged, second_pinged = ([row[side] for row in seen].index(1) + 6 for side in (0, 1))
    first_dropped, second_dropped = ([row[side] for row in seen].index(False) + 6 for side in (2, 3))
    assert (first_pinged, first_dropped) == (30, 40)
    assert (second_pinged, second_dropped) == (35, 45)


def test_who_leaves_is_watched_no_longer(connection: Connection) -> None:
    connection.client.sendClose(1000)
    connection.move()
    assert connection.server.events == ["lost"]
    assert connection.clock.getDelayedCalls() == []


# -- closing


@pytest.mark.parametrize("code", [1001, 1003, 1008, 1009, 1013, 4001, 4003])
def test_any_code_closes(connection: Connection, code: int) -> None:
    connection.server.close(code, "because")
    connection.move()
    assert connection.client.close_frame == (code, "because")
    assert connection.server.events == ["lost"]
    assert connection.client.gone
    assert connection.clock.getDelayedCalls() == []


def test_a_reason_is_cut_between_characters(connection: Connection) -> None:
    connection.server.close(4001, "原因" * 100)
    connection.move()
    assert connection.client.close_frame is not None
    code, reason = connection.client.close_frame
    assert (code, reason) == (4001, ("原因" * 100)[: len(reason)])
    assert 118 <= len(reason.encode()) <= 123
    assert connection.server.events == ["lost"]


def never_answer(connection: Connection) -> None:
    connection.client.answers_close = False


def test_a_peer_that_does_not_answer_the_close_is_dropped_after_5_seconds(connection: Connection) -> None:
    never_answer(connection)
    connection.server.close(sessions.GOING_AWAY, "the server is stopping")
    connection.wait(4.9)
    assert connection.client.close_frame == (1001, "the server is stopping")
    assert connection.alive
    connection.wait(0.2)
    assert connection.wire.aborted
    assert connection.server.events == ["lost"]


@pytest.mark.parametrize(
    ("violation", "code"),
    [
        (lambda client: client.sendMessage(b"x" * (MESSAGE_MAX + 1)), 1009),
        (lambda client: client.sendMessage(b"x", isBinary=True), 1003),
        (lambda client: client.sendFrame(opcode=3), 1002),
    ],
)
def test_nor_can_a_peer_stay_that_was_closed_for_a_violation(
    connection: Connection, violation: Callable[[Client], None], code: int
) -> None:
    never_answer(connection)
    violation(connection.client)
    connection.move()
    assert connection.client.close_frame is not None
    assert connection.client.close_frame[0] == code
    for _ in range(5):
        assert connection.alive
        connection.client.sendMessage(b"go on")
        connection.move()
        connection.wait(1)
    assert connection.wire.aborted
    assert connection.server.events == ["lost"]  # and nothing of what it went on to say


@pytest.mark.parametrize(
    "violation",
    [
        lambda client: client.sendMessage(b"x" * (MESSAGE_MAX + 1)),
        lambda client: client.sendFrame(opcode=3),
        lambda client: client.sendClose(1000),
    ],
    ids=["too large", "a wrong frame", "its own close"],
)
def test_what_is_sent_after_a_close_is_thrown_away(connection: Connection, violation: Callable[[Client], None]) -> None:
    """An answer that is ready after the close frame and before the end must not raise."""
    never_answer(connection)
    violation(connection.client)
    connection.pump.pump()  # only once: the end of the connection has not come yet
    assert not connection.server.writable
    connection.server.send(b"an answer")
    connection.server.close(1001, "the server is stopping")
    connection.wait(5)
    assert connection.client.messages == []
    assert connection.server.events == ["lost"]
    connection.server.send(b"an answer")
    connection.server.close(1001, "the server is stopping")
    assert connection.clock.getDelayedCalls() == []


def test_closing_twice_closes_once(connection: Connection) -> None:
    connection.server.close(4001, "first")
    connection.server.close(1001, "second")
    connection.move()
    assert connection.client.close_frame == (4001, "first")
    assert connection.server.events == ["lost"]


def test_a_cut_connection_is_lost_once(connection: Connection) -> None:
    connection.client.transport.abortConnection()
    connection.move()
    assert connection.server.events == ["lost"]
    assert not connection.server.writable
    assert connection.clock.getDelayedCalls() == []


def test_a_handshake_that_fails_is_never_opened_nor_lost() -> None:
    clock = Clock()
    server = Server()
    server.factory = PeerFactory(clock, Limits(), MESSAGE_MAX)
    wire = Transport(server, True)
    server.makeConnection(wire)
    server.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    assert wire.getOutBuffer().startswith(b"HTTP/1.1 400 ")
    server.connectionLost(Failure(ConnectionDone()))
    assert server.events == []
    assert clock.getDelayedCalls() == []
