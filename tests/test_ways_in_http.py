"""The ways in over real sockets: bodies, pages, addresses, proxies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel

from devconf.config import Limits
from devconf.store import accounts, devices
from devconf.web.answers import peer_address
from devconf.web.ways_in import REGISTER_MAX
from tests.running import Start, connections, raw

# -- bodies

#: With contents of one byte, this is the largest body: a device's description of itself may always have that.
LIMIT = REGISTER_MAX
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
