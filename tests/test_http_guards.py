"""HTTP connections that are slow, or want too much: each ends, and none takes more than its share."""

from __future__ import annotations

import pytest

from devconf.web import channel
from devconf.web.channel import BODY_WITHIN, BYTES_A_SECOND, HEAD_WITHIN, IDLE, READ_WITHIN, neighbourhood
from devconf.web.listening import BACKLOG, with_backlog
from tests.fronts import BODY_MAX, GET, GET_LARGE, LARGE, World, lasts, opened


@pytest.fixture
def world() -> World:
    return World()


def test_who_asks_nothing_is_closed(world: World) -> None:
    _, wire = opened(world)
    assert lasts(world, wire) == IDLE


@pytest.mark.parametrize("drip", [b"G", b"\r\n", b"GET / HTTP/1.1\r\n", b"a: b\r\n"])
def test_a_head_that_never_ends_has_its_time_in_all(world: World, drip: bytes) -> None:
    protocol, wire = opened(world)
    world.clock.advance(10)
    protocol.dataReceived(b"GET / HTTP/1.1\r\n")
    assert lasts(world, wire, lambda: protocol.dataReceived(drip)) <= 10 + HEAD_WITHIN


@pytest.mark.parametrize("how", [b"Content-Length: 90000", b"Transfer-Encoding: chunked"])
def test_a_body_that_drips_has_its_time_in_all(world: World, how: bytes) -> None:
    protocol, wire = opened(world)
    protocol.dataReceived(b"POST /small HTTP/1.1\r\nHost: x\r\n" + how + b"\r\n\r\n")
    drip = b"1\r\nx\r\n" if b"chunked" in how else b"x"
    assert lasts(world, wire, lambda: protocol.dataReceived(drip)) <= BODY_WITHIN + BODY_MAX / BYTES_A_SECOND + 1
    assert world.pages.asked == []
    world.end(protocol)


def test_a_body_that_comes_in_time_is_read(world: World) -> None:
    protocol, wire = opened(world)
    protocol.dataReceived(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n")
    for _ in range(20):
        world.clock.advance(1)
        protocol.dataReceived(b"x")
    assert wire.read().endswith(b"small")
    assert not wire.ended


def test_between_requests_it_may_rest_and_each_head_has_its_time(world: World) -> None:
    protocol, wire = opened(world)
    for _ in range(5):
        world.clock.advance(IDLE - 1)
        protocol.dataReceived(GET[:10])
        world.clock.advance(HEAD_WITHIN - 1)
        protocol.dataReceived(GET[10:])
        assert wire.read().endswith(b"small")
    assert lasts(world, wire) == 5 * (IDLE + HEAD_WITHIN - 2) + IDLE


def test_an_answer_that_takes_long_is_waited_for(world: World) -> None:
    protocol, wire = opened(world)
    protocol.dataReceived(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    world.clock.advance(500)
    assert not wire.ended
    world.pages.waiting[0].finish()
    assert lasts(world, wire) == 500 + IDLE


def closing(request: bytes) -> bytes:
    return request.replace(b"Host: x", b"Host: x\r\nConnection: close")


@pytest.mark.parametrize("request_head", [GET_LARGE, closing(GET_LARGE)])
def test_an_answer_that_is_not_read_has_its_time(world: World, request_head: bytes) -> None:
    protocol, wire = opened(world)
    wire.reads = False
    protocol.dataReceived(request_head)
    end = READ_WITHIN + len(LARGE) / BYTES_A_SECOND
    world.clock.advance(end - 1)
    assert not wire.aborted
    world.clock.advance(2)
    assert wire.aborted


def test_one_that_reads_it_slowly_goes_on_with_the_next(world: World) -> None:
    protocol, wire = opened(world)
    wire.reads = False
    protocol.dataReceived(GET_LARGE)
    world.clock.advance(READ_WITHIN)
    assert not wire.ended
    assert wire.read().endswith(LARGE)
    world.clock.advance(IDLE - 1)
    protocol.dataReceived(GET)
    assert wire.read().endswith(b"small")
    assert lasts(world, wire) == READ_WITHIN + 2 * IDLE - 1


def test_it_is_told_when_an_answer_has_been_read(world: World) -> None:
    told: list[str] = []
    protocol, wire = opened(world)
    protocol.when_read().addCallback(lambda _: told.append("nothing to read"))
    wire.reads = False
    protocol.dataReceived(GET_LARGE)
    protocol.when_read().addCallback(lambda _: told.append("read"))
    world.clock.advance(10)
    assert told == ["nothing to read"]
    wire.read()
    assert told == ["nothing to read", "read"]
    wire.reads = False
    world.turn()
    protocol.dataReceived(GET_LARGE)
    protocol.when_read().addCallback(lambda _: told.append("gone"))
    assert len(told) == 2
    world.end(protocol)
    assert told[2:] == ["gone"]


def test_one_that_closes_nothing_is_cut(world: World) -> None:
    protocol, wire = opened(world)
    assert lasts(world, wire) == IDLE
    assert [wire.aborted] == [False]
    world.clock.advance(channel.CLOSE_WITHIN)
    assert wire.aborted
    world.end(protocol)
    assert world.clock.getDelayedCalls() == []


def test_a_site_that_finishes_closes_what_is_idle_and_the_others_after_their_answers(world: World) -> None:
    idle, half, asked, unread = (opened(world) for _ in range(4))
    idle[0].dataReceived(GET)
    half[0].dataReceived(GET[:10])
    asked[0].dataReceived(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    unread[1].reads = False
    world.turn()
    unread[0].dataReceived(GET_LARGE)
    world.turn()
    world.site.finish()
    assert [wire.ended for _, wire in (idle, half, asked, unread)] == [True, True, False, True]
    world.pages.waiting[0].finish()
    assert asked[1].ended
    for protocol, wire in (idle, half, asked):
        assert not wire.aborted
        world.end(protocol)
    world.site.cut()
    assert unread[1].aborted
    world.end(unread[0])
    world.turn()
    assert world.site.connections == set()
    assert world.clock.getDelayedCalls() == []
    assert world.pages.asked == ["/small", "/wait", "/large"]


def test_of_requests_that_come_together_each_turn_takes_one(world: World) -> None:
    protocol, wire = opened(world)
    protocol.dataReceived(GET * 4)
    for count in range(1, 5):
        assert len(world.pages.asked) == count
        assert wire.is_read == (count == 4)
        world.turn()
    assert wire.read().count(b"small") == 4
    assert not wire.ended


def test_no_more_answers_are_made_while_they_are_not_read(world: World) -> None:
    """Else one small packet of requests would make megabytes of answers."""
    protocol, wire = opened(world)
    wire.reads = False
    protocol.dataReceived(GET_LARGE * 500)
    for _ in range(50):
        world.turn()
    assert world.pages.asked == ["/large"]
    assert not wire.is_read
    for count in range(2, 6):
        wire.read()
        wire.reads = False
        world.turn()
        assert count <= len(world.pages.asked) <= 2 * count
    world.end(protocol)
    world.turn()
    assert world.clock.getDelayedCalls() == []


def test_of_all_that_ask_at_once_one_is_taken_in_each_turn(world: World) -> None:
    """A fleet that comes back leaves room for others in between; who is gone is not answered."""
    fleet = [opened(world) for _ in range(5)]
    for number, (protocol, _) in enumerate(fleet):
        protocol.dataReceived(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    world.end(fleet[3][0])
    for count in (1, 2, 3, 3, 4):
        assert len(world.pages.asked) == count
        world.turn()
    assert world.pages.asked == ["/0", "/1", "/2", "/4"]
    assert [b"small" in wire.read() for _, wire in fleet] == [True, True, True, False, True]


def test_the_same_behind_an_answer_that_takes_long(world: World) -> None:
    protocol, wire = opened(world)
    wire.reads = False
    protocol.dataReceived(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + GET_LARGE * 10)
    world.pages.waiting[0].write(LARGE)
    world.pages.waiting[0].finish()
    for _ in range(50):
        world.turn()
    assert world.pages.asked == ["/wait"]
    wire.read()
    for _ in range(50):
        world.turn()
    assert world.pages.asked == ["/wait"] + ["/large"] * 10


def test_a_form_is_not_even_looked_at(world: World) -> None:
    """A million fields would take seconds; nothing of ours is a form."""
    protocol, wire = opened(world)
    body = b"a&" * 40_000
    head = b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    protocol.dataReceived(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert wire.read().endswith(b"small")
    assert world.pages.args == [{}]


def test_connections_in_all_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "CONNECTIONS", 3)
    there = [world.open(f"192.0.2.{number}") for number in range(3)]
    assert world.open("192.0.2.9") is None
    assert there[0] is not None
    world.end(there[0][0])
    assert world.open("192.0.2.9") is not None


def test_ipv6_addresses_of_one_network_count_together() -> None:
    world = World(strangers=2)
    assert world.open("2001:db8::1") is not None
    assert world.open("2001:db8::2") is not None
    assert world.open("2001:db8::3") is None
    assert world.open("2001:db8:0:1::1") is not None
    assert world.open("192.0.2.1") is not None


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
        ("localhost", "localhost"),
    ],
)
def test_what_an_address_counts_as(address: str, counted: str) -> None:
    assert neighbourhood(address) == counted


@pytest.mark.parametrize(
    "description",
    [
        "tcp:80",
        "tcp6:80",
        "ssl:443:privateKey=k:certKey=c",
        "tls:/etc/certs",
        "unix:/run/x:mode=660",
        "haproxy:tcp:80",
        "haproxy:unix:/run/x",
    ],
)
def test_every_way_to_listen_stands_a_storm(description: str) -> None:
    assert with_backlog(description) == f"{description}:backlog={BACKLOG}"
    assert with_backlog(f"{description}:backlog=7") == f"{description}:backlog=7"


def test_a_socket_of_systemd_listens_already() -> None:
    assert with_backlog("systemd:domain=INET:index=0") == "systemd:domain=INET:index=0"
