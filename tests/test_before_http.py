"""What comes before HTTP, a TLS handshake and a PROXY header: it ends in its time, and counts while it lasts."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogEvent, formatEvent

from devconf.web import channel, listening
from devconf.web.channel import CLOSE_WITHIN, IDLE
from tests.certificates import certificate
from tests.fronts import GET, Visitor, World, lasts, opened

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # by Twisted itself

V1 = b"PROXY TCP4 192.0.2.77 192.0.2.80 4000 80\r\n"
V2_BEGIN = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11"
V2 = V2_BEGIN + b"\x00\x0c" + bytes([192, 0, 2, 77, 192, 0, 2, 80, 0x0F, 0xA0, 0, 80])
V2_LARGEST = V2_BEGIN + b"\xff\xff"


@define
class Front:
    """An endpoint at which something comes before HTTP.

    :ivar listen: its description.
    :ivar trusted: the certificate of those that speak TLS.
    """

    listen: str
    trusted: Path
    tls: bool

    def begin(self) -> bytes:
        """The first that an honest peer sends."""
        return Visitor(self.trusted).hello() if self.tls else V1

    def is_answered(self, world: World, address: str = "192.0.2.50") -> bool:
        """Whether somebody else gets a page; it takes its leave then."""
        found = world.open(address)
        if found is None:
            return False
        protocol, wire = found
        if self.tls:
            visitor = Visitor(self.trusted)
            visitor.shake_hands(protocol, wire)
            visitor.tell(protocol, GET)
            heard = visitor.hear(world, wire)
        else:
            protocol.dataReceived(V1 + GET)
            heard = wire.read()
        world.end(protocol)
        world.clock.advance(0)
        return heard.endswith(b"small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    key, trusted = certificate(folder)
    (folder / "names").mkdir()
    (folder / "names" / "localhost.pem").write_bytes(key.read_bytes() + trusted.read_bytes())
    return folder


@pytest.fixture(params=["ssl", "tls", "haproxy"])
def front(request: pytest.FixtureRequest, folder: Path) -> Front:
    return front_of(request.param, folder)


def front_of(kind: str, folder: Path) -> Front:
    key, trusted = folder / "key.pem", folder / "certificate.pem"
    listen = {
        "ssl": f"ssl:443:privateKey={key}:certKey={trusted}",
        "tls": f"tls:{folder / 'names'}",
        "haproxy": "haproxy:tcp:80",
    }[kind]
    return Front(listen, trusted, kind != "haproxy")


@pytest.fixture(autouse=True)
def nothing_is_logged(logged: list[LogEvent]) -> Iterator[None]:
    """Whoever tries any of this could fill the log with it."""
    yield
    assert [formatEvent(event) for event in logged] == []


def nothing_is_left(world: World) -> bool:
    return (world.site.connections, world.factory.protocols, world.clock.getDelayedCalls()) == (set(), {}, [])


# -- it ends


@pytest.mark.parametrize("sent", [0, 16, -1], ids=["nothing", "a part", "all but the end"])
def test_what_never_comes_or_stops_halfway(front: Front, sent: int) -> None:
    world = World(listen=front.listen)
    protocol, wire = opened(world)
    if sent:
        protocol.dataReceived(front.begin()[:sent])
    assert lasts(world, wire) == IDLE
    world.end(protocol)
    assert nothing_is_left(world)


def test_what_drips_has_its_time_in_all(front: Front) -> None:
    world = World(listen=front.listen)
    protocol, wire = opened(world)
    begin = front.begin()
    protocol.dataReceived(begin[:16])
    drops = (bytes([each]) for each in begin[16:])
    assert lasts(world, wire, lambda: protocol.dataReceived(next(drops))) == IDLE
    world.end(protocol)
    assert nothing_is_left(world)


def test_the_longest_header_has_no_more_time() -> None:
    """The second version says how long it is, at most 64 KiB."""
    world = World(listen="haproxy:tcp:80")
    protocol, wire = opened(world)
    protocol.dataReceived(V2_LARGEST)
    assert lasts(world, wire, lambda: protocol.dataReceived(b"x" * 1000)) == IDLE
    world.end(protocol)
    assert nothing_is_left(world)


def test_who_comes_through_and_asks_nothing(front: Front) -> None:
    world = World(listen=front.listen)
    protocol, wire = opened(world)
    if front.tls:
        Visitor(front.trusted).shake_hands(protocol, wire)
        # It does not say goodbye either.
        assert lasts(world, wire) == IDLE + CLOSE_WITHIN
        assert wire.aborted
    else:
        protocol.dataReceived(V1)
        assert lasts(world, wire) == IDLE
    world.end(protocol)
    assert nothing_is_left(world)


# -- it counts


def test_connections_of_an_address(front: Front) -> None:
    """A further one is closed at once, and not left open without a time or a count."""
    world = World(strangers=2, listen=front.listen)
    (first, _), (second, _) = opened(world), opened(world)
    second.dataReceived(front.begin()[:16])
    assert world.open() is None
    assert len(world.factory.protocols) == 2
    assert front.is_answered(world)
    world.end(first)
    assert front.is_answered(world, "192.0.2.1")
    world.end(second)
    assert nothing_is_left(world)


def test_connections_in_all(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "CONNECTIONS", 2)
    world = World(listen=front.listen)
    (first, _), (second, _) = opened(world), opened(world)
    second.dataReceived(front.begin()[:16])
    assert not front.is_answered(world)
    world.end(first)
    assert front.is_answered(world)
    world.end(second)
    assert nothing_is_left(world)


def test_a_proxy_is_counted_itself_unless_it_is_trusted() -> None:
    """Before its header is there, nobody knows for whom it comes."""
    proxy = ip_network("192.0.2.1/32")
    for proxies, room in (((), False), ((proxy,), True)):
        world = World(strangers=1, listen="haproxy:tcp:80", proxies=proxies)
        protocol, _ = opened(world)
        protocol.dataReceived(V1)
        assert (world.open() is not None) == room


# -- it is something else


@pytest.mark.parametrize(
    "begin",
    [
        GET,
        b"PROXY TCP4 192.0.2.77 192.0.2.80 four 80\r\n",
        b"PROXY TCP4 192.0.2.77 192.0.2.80 4000\r\n",
        b"PROXY TCP4 \xff\xff 192.0.2.80 4000 80\r\n",
        b"PROXY SCTP 192.0.2.77 192.0.2.80 4000 80\r\n",
        b"PROXY TCP4 " + b"1" * 1_000_000 + b"\r\n",
        b"PROXY TCP4 " + b"1" * 1_000_000,
        V2_BEGIN + b"\x00\x02\x00\x00",
        V2_BEGIN[:-1] + b"\x51\x00\x02\x00\x00",
        V2_BEGIN[:-1] + b"\x1f\x00\x02\x00\x00",
        V2_BEGIN[:-2] + b"\x2f\x11\x00\x02\x00\x00",
    ],
    ids=lambda begin: repr(begin[:40]),
)
def test_no_header_of_a_proxy(begin: bytes) -> None:
    world = World(listen="haproxy:tcp:80")
    protocol, wire = opened(world)
    protocol.dataReceived(begin + GET)
    assert wire.ended
    assert wire.heard == b""
    assert world.pages.asked == []
    world.end(protocol)
    assert nothing_is_left(world)


@pytest.mark.parametrize("begin", [V1, V2, V1[:20], V2[:20]], ids=["v1", "v2", "half v1", "half v2"])
def test_a_header_that_comes_in_two_parts_is_one(begin: bytes) -> None:
    whole = next(each for each in (V1, V2) if each.startswith(begin))
    world = World(listen="haproxy:tcp:80")
    protocol, wire = opened(world)
    protocol.dataReceived(begin)
    protocol.dataReceived(whole[len(begin) :] + GET)
    assert wire.read().endswith(b"small")


@pytest.mark.parametrize(
    "begin", [GET, b"\x16\x03\x01\xff\xff" + b"x" * 1000, b"\x00" * 100_000], ids=["HTTP", "long", "zeros"]
)
def test_no_handshake(folder: Path, begin: bytes) -> None:
    front = front_of("ssl", folder)
    world = World(listen=front.listen)
    protocol, wire = opened(world)
    protocol.dataReceived(begin)
    assert wire.ended
    assert world.pages.asked == []
    world.end(protocol)
    assert nothing_is_left(world)


def test_who_breaks_tls_after_the_handshake(folder: Path) -> None:
    front = front_of("ssl", folder)
    world = World(listen=front.listen)
    protocol, wire = opened(world)
    Visitor(front.trusted).shake_hands(protocol, wire)
    protocol.dataReceived(GET)
    assert wire.ended
    world.end(protocol)
    assert nothing_is_left(world)


def test_only_what_is_spoken_here_is_agreed_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twisted would agree to HTTP/2 where it finds what it needs for it."""
    monkeypatch.setattr("twisted.web.http.H2_ENABLED", True)
    front = front_of("ssl", folder)
    world = World(listen=front.listen)
    protocol, wire = opened(world)
    visitor = Visitor(front.trusted, "h2", "http/1.1")
    visitor.shake_hands(protocol, wire)
    visitor.tell(protocol, GET)
    assert visitor.hear(world, wire).endswith(b"small")
    assert visitor.tls.selected_alpn_protocol() == "http/1.1"


def test_what_is_wrong_behind_a_header_is_not_taken_for_one() -> None:
    class Wrong(Protocol):
        def dataReceived(self, data: bytes) -> None:
            raise ValueError(data)

    reactor: Any = MemoryReactorClock()
    Deferred.fromCoroutine(listening.listen(reactor, "haproxy:tcp:80", Factory.forProtocol(Wrong)))
    protocol = reactor.tcpServers[0][1].buildProtocol(None)
    protocol.makeConnection(StringTransport())
    for data in (V1 + b"x", b"x"):
        with pytest.raises(ValueError, match="b'x'"):
            protocol.dataReceived(data)
