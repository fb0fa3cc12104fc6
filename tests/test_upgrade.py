"""From HTTP to WebSocket over real sockets: who is let in, what is left of HTTP, TLS."""

from __future__ import annotations

import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from treq.client import HTTPClient
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.task import deferLater
from twisted.web.client import Agent
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol
from twisted.web.http import Request as HTTPRequest
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from devconf import client
from devconf.config import Limits
from tests.certificates import certificate
from tests.running import Start, connections, raw

# -- what remains of HTTP


def alive() -> Counter[str]:
    """How many objects of the HTTP server there are."""
    gc.collect()
    kinds = (HTTPChannel, _GenericHTTPChannelProtocol, HTTPRequest)
    # By type(), since some objects pass for others.
    return Counter(type(each).__name__ for each in gc.get_objects() if issubclass(type(each), kinds))


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
    assert (await closed).args == (1001, "the server is stopping; retry after 5 s")


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
