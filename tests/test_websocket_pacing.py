"""One connection whose peer sends more than it should: others have their turn."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from devconf.pacing import USELESS_BURST, Hold
from devconf.websocket import STEPS
from tests.websocket_bench import TEXT, Connection

#: The least that can be sent. It takes two steps.
EMPTY = b"\x81\x80mask"
MANY = STEPS // 2
TURN = [b""] * MANY


@pytest.fixture
def connection() -> Connection:
    return Connection()


def feed(connection: Connection, data: bytes) -> None:
    """Bytes arrive, as long as the server reads."""
    connection.server.dataReceived(data)


def stuck(connection: Connection) -> bool:
    return connection.server.held


def next_turn(clock: Clock) -> None:
    """Call what is due, but not what that asks for: so does a reactor."""
    for call in [call for call in clock.calls if call.getTime() <= clock.seconds()]:
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)


def turn(connection: Connection) -> list[object]:
    """What the server has taken in the next turn of the reactor."""
    connection.server.events.clear()
    next_turn(connection.clock)
    return list(connection.server.events)


def test_one_that_sends_much_at_once_has_its_turns(connection: Connection) -> None:
    feed(connection, EMPTY * (2 * MANY + 10))
    assert connection.server.events == TURN
    assert stuck(connection)
    assert turn(connection) == TURN
    assert turn(connection) == TURN[:10]
    assert not stuck(connection)
    assert turn(connection) == []
    assert len(connection.clock.getDelayedCalls()) == 1  # the keep-alive


def test_what_comes_meanwhile_waits(connection: Connection) -> None:
    """A transport that has been told to pause may still have something."""
    feed(connection, EMPTY * (MANY + 1))
    feed(connection, EMPTY * 5)
    assert connection.server.events == TURN
    assert turn(connection) == TURN[:6]


def test_many_of_them_share_one_turn() -> None:
    clock = Clock()
    flooding = [Connection(clock=clock) for _ in range(3)]
    for each in flooding[1:]:
        each.server.factory = flooding[0].factory
    for each in flooding:
        feed(each, EMPTY * 3 * MANY)
        each.server.events.clear()
        assert each.alive
    seen = []
    for _ in range(6):
        next_turn(clock)
        seen.append([len(each.server.events) // MANY for each in flooding])
    assert seen == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 2]]


def test_one_that_goes_away_has_no_turn(connection: Connection) -> None:
    feed(connection, EMPTY * 3 * MANY)
    connection.client.transport.abortConnection()
    connection.move()
    assert turn(connection) == []
    assert connection.clock.getDelayedCalls() == []


def test_one_that_is_being_closed_is_heard_until_it_answers(connection: Connection) -> None:
    feed(connection, EMPTY * 3 * MANY)
    connection.server.close(4001, "replaced")
    connection.move()
    for _ in range(5):
        connection.wait(0)
    assert connection.client.close_frame == (4001, "replaced")
    assert connection.server.events[-1] == "lost"


def test_a_thousand_messages_for_nothing_may_come_and_then_a_hundred_a_second(connection: Connection) -> None:
    connection.server.on_message = lambda _payload: connection.server.useless()
    for _ in range(USELESS_BURST):
        feed(connection, EMPTY)
    assert not stuck(connection)
    feed(connection, EMPTY * 50)
    assert stuck(connection)
    connection.server.on_message = connection.server.events.append
    assert turn(connection) == []
    connection.clock.advance(0.9)
    assert connection.server.events == []
    connection.clock.advance(0.1)
    assert connection.server.events == [b""] * 49
    assert not stuck(connection)


def test_one_that_is_not_read_is_not_taken_for_silent(connection: Connection) -> None:
    """It is pinged all the same: of one that is gone, the system says so then."""
    connection.server.hold(Hold.BUSY)
    for count in range(1, 6):
        connection.wait(30)
        assert connection.client.pings == count
    assert connection.alive
    connection.wait(15)
    connection.server.release(Hold.BUSY)
    connection.client.answers_pings = False
    connection.wait(30)
    assert connection.alive
    connection.wait(10)
    assert connection.wire.aborted


def test_all_reasons_have_to_end(connection: Connection) -> None:
    connection.server.hold(Hold.BUSY)
    connection.server.hold(Hold.USELESS)
    feed(connection, EMPTY)
    connection.server.release(Hold.BUSY)
    assert turn(connection) == []
    connection.server.release(Hold.BUSY)
    assert turn(connection) == []
    connection.server.release(Hold.USELESS)
    assert connection.server.events == []
    assert turn(connection) == [b""]


def test_a_message_that_comes_in_drips_takes_no_more_than_its_size(connection: Connection) -> None:
    """As one object for each drip it would take twenty times as much."""
    feed(connection, bytes((TEXT | 0x80, 0xFE, 1000 // 256, 1000 % 256)) + bytes(4))
    for _ in range(499):
        feed(connection, b"xy")
    assert len(connection.server.frame_data) == 2
    feed(connection, b"xy")
    assert connection.server.events == [b"xy" * 500]
