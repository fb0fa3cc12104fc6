"""The ways in over real sockets: what is left of HTTP after an upgrade, bodies, addresses, proxies.

The service runs on the reactor of the tests, with passwords that cost no time.
"""

from __future__ import annotations

import gc
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.exc import OperationalError
from treq.client import HTTPClient
from twisted.internet import ssl
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.tcp import Server as ServerTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel
from zope.interface import implementer

from devconf import client
from devconf.clock import Random
from devconf.config import Config, Limits
from devconf.model import Role
from devconf.passwords import PlainPasswords
from devconf.service import DevconfService, Seams
from devconf.store import accounts, devices, writer
from devconf.store.writer import ThreadRunner
from devconf.testing import prepared_database
from devconf.web.answers import peer_address

PASSWORD = "correct horse"


class Running:
    """A service that listens on a port of its own.

    :ivar url: where.
    """

    def __init__(self, reactor: Any, folder: Path, *, scheme: str = "tcp", **settings: Any) -> None:
        self.reactor = reactor
        path = prepared_database(folder / "devconf.sqlite")
        connection = writer.connect(f"sqlite:///{path}")
        with connection.begin():
            accounts.insert_user(connection, 0.0, "u1", "alice", Role.OPERATOR, f"plain {PASSWORD}")
        writer.close(connection)
        listen = (f"{scheme}:0:interface=127.0.0.1",) if scheme == "tcp" else (scheme,)
        config = Config(listen=listen, database=f"sqlite:///{path}", **settings)
        seams = Seams(reactor, time.time, Random(), ThreadRunner(reactor), PlainPasswords(), deferToThread)
        self.service = DevconfService(reactor, config, seams)
        self.http = HTTPClient(Agent(reactor))
        self.stopped = False

    async def start(self) -> None:
        self.service.startService()
        await self.service.when_ready()
        self.port = self.service._ports[0].getHost().port  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            await self.service.stopService()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and body of the answer: as JSON where it says that it is."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
        response = await self.http.request(method, self.url + path, data=data, headers=sent)
        text = await response.text("utf-8")
        is_json = response.headers.getRawHeaders("content-type") == ["application/json"]
        return response.code, json.loads(text) if is_json else text

    async def log_in(self) -> str:
        """The atoken of an operator."""
        status, answer = await self.ask(
            "POST", "/webapi/v1/login", {"user_type": "user", "user_name": "alice", "password": PASSWORD}
        )
        assert status == 200
        return str(answer["atoken"])

    @property
    def peers(self) -> list[Any]:
        """The server's ends of the sockets that are open."""
        return [
            close.__self__  # type: ignore[attr-defined]
            for sockets in self.service.sessions._open.values()
            for close in sockets
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor turn until it is so."""
        while not condition():
            await deferLater(self.reactor, 0, lambda: None)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a service with settings, which is stopped after the test."""
    from twisted.internet import reactor

    started: list[Running] = []

    async def run(**settings: Any) -> Running:
        started.append(Running(reactor, tmp_path, **settings))
        await started[-1].start()
        return started[-1]

    yield run
    for running in started:
        pytest_twisted.blockon(Deferred.fromCoroutine(running.stop()))


class Raw(Protocol):
    """A connection of bytes.

    :ivar heard: what has come.
    :ivar ended: fires when it is over.
    """

    def __init__(self) -> None:
        self.heard = b""
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: ARG002, B008
        self.ended.callback(None)


async def raw(server: Running) -> Any:
    return await connectProtocol(TCP4ClientEndpoint(server.reactor, "127.0.0.1", server.port), Raw())


# -- what remains of HTTP


def alive() -> Counter[str]:
    """How many objects of the HTTP server there are."""
    gc.collect()
    kinds = (HTTPChannel, _GenericHTTPChannelProtocol, HTTPRequest)
    # By type(), since some objects pass for others.
    return Counter(type(each).__name__ for each in gc.get_objects() if issubclass(type(each), kinds))


def connections(server: Running) -> list[ServerTransport]:
    """The connections to a server that the reactor reads or writes."""
    watched = [*server.reactor.getReaders(), *server.reactor.getWriters()]
    return [each for each in watched if isinstance(each, ServerTransport)]


async def test_nothing_remains_of_http_after_an_upgrade(start: Start) -> None:
    server = await start()
    atoken = await server.log_in()
    await server.until(lambda: connections(server) == [])
    before = alive()
    timers = len(server.reactor.getDelayedCalls())
    clients = [await client.connect_with_token(server.reactor, server.url, atoken) for _ in range(20)]
    assert len(server.peers) == 20
    assert alive() == before  # while they are open already
    for peer in server.peers:
        assert peer.transport.protocol is peer
        assert peer.transport.producer is peer
        assert peer.transport.streamingProducer
    assert set(connections(server)) == {peer.transport for peer in server.peers}
    # None of HTTP's timers either: one for each client, and the one keep-alive of the server.
    assert len(server.reactor.getDelayedCalls()) == timers + 20 + 1
    answers = [await each.request("get tasks") for each in clients]
    assert [answer["tasks"] for answer in answers] == [[]] * 20
    for each in clients:
        await each.close()
    await server.until(lambda: server.peers == [])
    assert alive() == before
    assert connections(server) == []
    assert len(server.reactor.getDelayedCalls()) == timers


async def test_nothing_remains_of_upgrades_that_are_refused_or_given_up(start: Start) -> None:
    server = await start()
    atoken = await server.log_in()
    await server.until(lambda: connections(server) == [])
    before = alive()
    for _ in range(5):
        with pytest.raises(client.CannotConnect):
            await client.connect_with_token(server.reactor, server.url, "wrong")
        connection = await raw(server)
        connection.transport.write(
            b"GET /wsapi/v1/devconf_fx HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n" % atoken.encode()
        )
        connection.transport.loseConnection()  # while the store is being asked
        await connection.ended
    await server.until(lambda: connections(server) == [])
    # The store answers those that are gone, too.
    await server.service.store.run(lambda _connection: None)
    assert alive() == before
    assert server.peers == []


async def test_a_plain_request_for_the_socket_is_told_to_upgrade(start: Start) -> None:
    server = await start()
    atoken = await server.log_in()
    connection = await raw(server)
    connection.transport.write(
        b"GET /wsapi/v1/devconf_fx HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n" % atoken.encode()
    )
    await connection.ended
    assert connection.heard.startswith(b"HTTP/1.1 426 ")
    assert b"Autobahn" not in connection.heard
    assert server.peers == []


@pytest.mark.parametrize(
    ("path", "status", "ecode", "enote"),
    [
        (
            "/wsapi/v1/devconf_fx",
            401,
            1004010001,
            "the `authorization` header is missing; send the atoken of a login in it",
        ),
        ("/wsapi/v1/devconf_fx/a/b", 401, 1004010001, "this address is not valid; ask for one at ws_url"),
        ("/wsapi/v1", 400, 1004000003, "there is nothing here; see /wsapi/v1/devconf_fx"),
        ("/wsapi/v1/other/x", 400, 1004000003, "there is nothing here; see /wsapi/v1/devconf_fx"),
    ],
)
async def test_a_refused_upgrade_says_why(start: Start, path: str, status: int, ecode: int, enote: str) -> None:
    server = await start()
    assert await server.ask("GET", path) == (status, {"ecode": ecode, "enote": enote})


async def test_a_socket_ends_when_the_service_stops(start: Start) -> None:
    server = await start()
    connected = await client.connect_with_token(server.reactor, server.url, await server.log_in())
    closed = connected.when_closed()
    await server.stop()
    assert (await closed).args == (1001, "the server is stopping")


async def test_a_peer_that_does_not_read_is_dropped(start: Start) -> None:
    server = await start(limits=Limits(unread_bytes=100_000))
    connected: Any = await client.connect_with_token(server.reactor, server.url, await server.log_in())
    other = await client.connect_with_token(server.reactor, server.url, await server.log_in())
    (peer, _) = server.peers
    connected._socket.transport.pauseProducing()
    sent = 0
    while peer in server.peers:
        for _ in range(10):
            peer.send(b'"' + b"x" * 65536 + b'"')
            sent += 65538
        assert sent < 100_000_000, "the operating system takes all that is sent"
        await deferLater(server.reactor, 0, lambda: None)
    assert (await other.request("get tasks"))["tasks"] == []
    connected._socket.transport.abortConnection()
    await connected.when_closed()
    await other.close()


# -- TLS


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_file, certificate_file = folder / "key.pem", folder / "certificate.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return key_file, certificate_file


class TLSClient(WebSocketClientProtocol):
    """Waits for one message."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[None] = Deferred()
        self.answer: Deferred[bytes] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: ARG002
        self.answer.callback(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: ARG002
        self.ended.callback(None)


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # by Twisted itself
async def test_over_tls_it_is_the_same(start: Start, tmp_path: Path) -> None:
    key_file, certificate_file = certificate(tmp_path)
    server = await start(scheme=f"ssl:0:interface=127.0.0.1:privateKey={key_file}:certKey={certificate_file}")
    server.url = f"https://localhost:{server.port}"
    trusted = ssl.Certificate.loadPEM(certificate_file.read_bytes())
    options = ssl.optionsForClientTLS("localhost", trustRoot=trusted)

    @implementer(IPolicyForHTTPS)
    class Policy:
        def creatorForNetloc(self, hostname: Any, port: Any) -> Any:  # noqa: ARG002
            return options

    before = alive()
    server.http = HTTPClient(Agent(server.reactor, Policy()))
    headers = {"authorization": f"Bearer {await server.log_in()}"}
    factory = WebSocketClientFactory(
        f"wss://localhost:{server.port}/wsapi/v1/devconf_fx", headers=headers, reactor=server.reactor
    )
    factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0)
    factory.protocol = TLSClient
    endpoint = wrapClientTLS(options, TCP4ClientEndpoint(server.reactor, "127.0.0.1", server.port))
    connection: Any = await endpoint.connect(factory)
    await connection.opened
    connection.sendMessage(b'{"command": "get /wsapi/v1/devconf_fx/tasks"}')
    assert json.loads(await connection.answer)["tasks"] == []
    (peer,) = server.peers
    assert peer.transport.wrappedProtocol is peer
    assert peer.transport._producer._producer is peer  # TLS paces it, and stands in between
    await server.until(lambda: len(connections(server)) == 1)
    assert alive() == before
    connection.sendClose(1000)
    await connection.ended
    await server.until(lambda: connections(server) == [])
    assert server.peers == []


# -- bodies

#: With contents of one byte, this is the largest body.
LIMIT = Limits(store_conf_max=1).operator_message_max
TOO_LARGE = {"ecode": 1004130001, "enote": f"the body is larger than {LIMIT} bytes"}


def post(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join(
        [b"POST /webapi/v1/login HTTP/1.1", b"Host: localhost", b"Connection: close", *headers, b"", body]
    )


def whole(body: bytes) -> bytes:
    return post(body, b"Content-Length: %d" % len(body))


def chunked(body: bytes) -> bytes:
    chunks = [body[at : at + 8000] for at in range(0, len(body), 8000)]
    parts = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""]]
    return post(b"".join(parts), b"Transfer-Encoding: chunked")


@pytest.mark.parametrize("how", [whole, chunked])
async def test_a_body_over_the_limit(start: Start, how: Callable[[bytes], bytes]) -> None:
    server = await start(limits=Limits(store_conf_max=1))
    connection = await raw(server)
    connection.transport.write(how(b" " * (LIMIT + 1)))
    await connection.ended
    head, _, body = connection.heard.partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"HTTP/1.1 413 Request Entity Too Large"
    assert json.loads(body) == TOO_LARGE


@pytest.mark.parametrize("how", [whole, chunked])
async def test_a_body_at_the_limit_is_read(start: Start, how: Callable[[bytes], bytes]) -> None:
    """``login`` has a limit of its own, and says so."""
    server = await start(limits=Limits(store_conf_max=1))
    connection = await raw(server)
    connection.transport.write(how(b" " * LIMIT))
    await connection.ended
    body = connection.heard.partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {"ecode": 1004130001, "enote": "the body is larger than 4096 bytes"}


@pytest.mark.parametrize("how", [whole, chunked])
async def test_a_body_without_end_is_cut_off(start: Start, how: Callable[[bytes], bytes]) -> None:
    server = await start(limits=Limits(store_conf_max=1))
    connection = await raw(server)
    connection.transport.write(how(b" " * (LIMIT * 40))[: LIMIT * 30])
    await connection.ended
    assert connection.heard == b""
    await server.until(lambda: connections(server) == [])


async def test_a_body_over_the_limit_on_any_address(start: Start) -> None:
    server = await start(limits=Limits(store_conf_max=1))
    for path in ("/", "/nowhere", "/webapi/v1/devconf_fx/devices/d/register", "/wsapi/v1/devconf_fx"):
        assert await server.ask("POST", path, b"x" * (LIMIT + 1)) == (413, TOO_LARGE)


# -- pages


async def test_the_pages(start: Start) -> None:
    server = await start()
    assert await server.ask("GET", "/healthz") == (200, "ok\n")
    assert await server.ask("GET", "/readyz") == (200, "ok\n")
    status, page = await server.ask("GET", "/")
    assert (status, page.partition(":")[0].partition(" ")[0]) == (200, "devconf")
    assert await server.ask("GET", "/nowhere") == (404, "There is nothing here.\n")
    nothing = {"ecode": 1004000003, "enote": "there is no such address or method here"}
    assert await server.ask("GET", "/webapi/v1/nowhere") == (400, nothing)
    assert await server.ask("GET", "/webapi/v1/login") == (400, nothing)


async def test_a_handler_that_breaks_says_nothing_of_why(start: Start, logged_errors: Any) -> None:
    server = await start()

    await server.service.store.run(lambda connection: connection.exec_driver_sql("DROP TABLE users").close())
    assert await server.ask("POST", "/webapi/v1/login", {"user_type": "user", "user_name": "a", "password": "b"}) == (
        500,
        {"ecode": 1005000001, "enote": "internal error; the server's log tells more"},
    )
    logged_errors.expect(OperationalError)


# -- the address of a socket


@pytest.mark.parametrize(
    ("settings", "host", "address"),
    [
        ({}, "127.0.0.1:8080", "ws://127.0.0.1:8080"),
        ({}, "192.0.2.7", "ws://192.0.2.7"),
        ({}, "[::1]:8080", "ws://[::1]:8080"),
        ({}, "[2001:db8::7]", "ws://[2001:db8::7]"),
        ({}, "localhost", "ws://localhost"),
        ({}, "LocalHost:80", "ws://LocalHost:80"),
        ({"allowed_hosts": ("devconf.example.com",)}, "devconf.example.com:81", "ws://devconf.example.com:81"),
        ({"allowed_hosts": ("devconf.example.com",)}, "DevConf.Example.com", "ws://DevConf.Example.com"),
        ({"public_url": "http://devconf.example.com:81"}, "evil.example", "ws://devconf.example.com:81"),
        ({"public_url": "https://devconf.example.com"}, "127.0.0.1", "wss://devconf.example.com"),
    ],
)
async def test_where_to_connect(start: Start, settings: dict[str, Any], host: str, address: str) -> None:
    server = await start(**settings)
    atoken = await server.log_in()
    status, answer = await server.ask(
        "GET", "/webapi/v1/devconf_fx/users/u1/ws_url?type=devconf_fx", authorization=atoken, host=host
    )
    assert (status, set(answer), answer["ecode"], answer["enote"]) == (200, {"ecode", "enote", "ws_url"}, 0, "ok")
    assert re.fullmatch(re.escape(address) + "/wsapi/v1/devconf_fx/[0-9a-f]{32}", answer["ws_url"])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "devconf.example.com.evil.example",
        "localhost@evil.example",
        "fe80::1%@evil.example",
        "[fe80::1%@evil.example]",
        "[fe80::1%25eth0]",
        "::1",
        "[127.0.0.1]",
        "[::1]evil.example",
        "[::1",
        "127.1",
        "127.0.0.1:",
        "127.0.0.1:port",
        "127.0.0.1:123456",
        "127.0.0.1/x",
        "127.0.0.1?x",
        "127.0.0.1#x",
        "local host",
        "localhost,evil.example",
        "localhost.",
        "",
    ],
)
async def test_no_address_is_made_from_a_host_that_is_not_known(start: Start, host: str) -> None:
    server = await start(allowed_hosts=("devconf.example.com",))
    atoken = (await server.log_in()).encode()
    connection = await raw(server)
    connection.transport.write(
        b"GET /webapi/v1/devconf_fx/users/u1/ws_url?type=devconf_fx HTTP/1.1\r\n"
        b"Host: %s\r\nAuthorization: %s\r\nConnection: close\r\n\r\n" % (host.encode(), atoken)
    )
    await connection.ended
    head, _, body = connection.heard.partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"HTTP/1.1 400 Bad Request"
    assert json.loads(body) == {
        "ecode": 1004000002,
        "enote": f"the Host header {host!r} is not known here; add it to allowed_hosts, or set public_url",
    }


# -- who is behind a proxy

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def request_from(peer: Any, *forwarded: bytes) -> Request:
    """A request of the TCP peer with these headers ``X-Forwarded-For``."""
    request = Request(DummyChannel(), False)
    request.client = peer if not isinstance(peer, str) else address_of(peer)
    request.requestHeaders.setRawHeaders(b"x-forwarded-for", forwarded)
    return request


def address_of(peer: str) -> IPv4Address | IPv6Address:
    kind = IPv4Address if ip_address(peer).version == 4 else IPv6Address
    return kind("TCP", peer, 50000)


@pytest.mark.parametrize("forwarded", [(), (b"192.0.2.7",), (b"10.0.0.2, 192.0.2.7",)])
def test_without_trusted_proxies_it_is_the_peer(forwarded: tuple[bytes, ...]) -> None:
    assert peer_address(request_from("198.51.100.1", *forwarded), ()) == "198.51.100.1"
    assert peer_address(request_from("10.0.0.1", *forwarded), ()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        # What one who is no proxy says of itself does not count.
        ("198.51.100.1", [b"192.0.2.7"], "198.51.100.1"),
        ("fe80::1", [b"192.0.2.7"], "fe80::1"),
        # A proxy adds who it heard from: the last that is no proxy is who it was.
        ("10.0.0.1", [b"192.0.2.7"], "192.0.2.7"),
        ("fd00::1", [b"2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", [b"192.0.2.7, 10.0.0.2, 10.0.0.3"], "192.0.2.7"),
        ("10.0.0.1", [b"192.0.2.7,10.0.0.2"], "192.0.2.7"),
        ("10.0.0.1", [b"192.0.2.7", b"10.0.0.2"], "192.0.2.7"),
        # What stands further left is the client's own invention.
        ("10.0.0.1", [b"192.168.0.1, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", [b"192.168.0.1", b"192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        ("10.0.0.1", [b"10.9.9.9, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        # From a proxy itself, or from proxies only.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        # What is no address is nobody's.
        ("10.0.0.1", [b"unknown"], "unknown"),
        ("10.0.0.1", [b"192.0.2.7, unknown"], "unknown"),
        ("10.0.0.1", [b"192.0.2.7, "], ""),
        ("10.0.0.1", [b"\xff"], "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_behind_trusted_proxies(peer: str, forwarded: list[bytes], address: str) -> None:
    assert peer_address(request_from(peer, *forwarded), PROXIES) == address


def test_a_peer_without_an_address_is_nobody() -> None:
    assert peer_address(request_from(UNIXAddress("/run/devconf.sock"), b"192.0.2.7"), PROXIES) == ""
    assert peer_address(request_from(None, b"192.0.2.7"), PROXIES) == ""


@pytest.mark.parametrize(
    ("proxies", "forwarded", "status"),
    [
        ((), "10.1.2.3", 401),
        (("127.0.0.0/8",), "10.1.2.3", 200),
        (("127.0.0.0/8",), "10.1.2.3, 192.0.2.7", 401),
        (("127.0.0.0/8",), "192.0.2.7, 10.1.2.3", 200),
        (("127.0.0.0/8",), "10.1.2.3, ", 401),
    ],
)
async def test_an_old_device_comes_without_a_key_from_its_network_only(
    start: Start, proxies: tuple[str, ...], forwarded: str, status: int
) -> None:
    server = await start(
        trusted_proxies=tuple(map(ip_network, proxies)), legacy_device_networks=(ip_network("10.0.0.0/8"),)
    )
    await server.service.store.run(
        lambda connection: devices.insert_device(
            connection,
            0.0,
            dev_unid="d1",
            dev_refid="old-1",
            dev_name="an old device",
            named_by_operator=True,
            dev_type="box",
            key_required=False,
            key_hash=accounts.hashed("never used"),
        )
    )
    found, answer = await server.ask(
        "POST", "/webapi/v1/login", {"user_type": "dev", "dev_refid": "old-1"}, x_forwarded_for=forwarded
    )
    assert found == status
    if status == 200:
        assert (answer["user_unid"], answer["user_type"]) == ("d1", "dev")
    else:
        assert answer == {"ecode": 1004010003, "enote": "this device has to log in with its dev_key"}
