"""A server for tests of the programs that talk to one: real HTTP and real Autobahn, connected in memory.

Nothing happens by itself: :meth:`FakeServer.flush` moves what was sent, and ``reactor.advance`` the time.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test.iosim import IOPump, connect, makeFakeClient, makeFakeServer
from twisted.web.resource import Resource
from twisted.web.server import Site

Json = dict[str, Any]

URL = "http://127.0.0.1:8080"
TASKS = "/wsapi/v1/devconf_fx/tasks"
OK = {"ecode": 0, "enote": "ok"}

HTTP_PORT, SOCKET_PORT = 8080, 8081

_NOBODY: Any = None


class Socket(WebSocketServerProtocol):
    """One connection, on the server's side."""

    factory: _SocketFactory
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Json] = []
        self.pings = 0
        self.answers_pings = True
        self.answers_close = True
        self.ended: tuple[int | None, str | None] | None = None

    def onConnect(self, request: Any) -> None:
        server = self.factory.server_side
        if server.full:
            raise ConnectionDeny(503, "full")
        token = request.headers.get("authorization")
        path = request.path.rpartition("/")[2]
        if path not in server.tickets and token not in server.tokens:
            raise ConnectionDeny(401, "wrong ticket")
        server.tickets.discard(path)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:  # noqa: ARG002
        super().failHandshake(reason, code, self.factory.server_side.headers.get("socket", {}).items())

    def onOpen(self) -> None:
        self.factory.server_side.sockets.append(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert not isBinary
        self.messages.append(json.loads(payload))

    def onPing(self, payload: bytes) -> None:
        self.pings += 1
        if self.answers_pings:
            super().onPing(payload)

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> bool | None:
        return super().onCloseFrame(code, reasonRaw) if self.answers_close else None

    def drop(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection."""
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode())
        self.factory.server_side.flush()
        self.transport.loseConnection()
        self.factory.server_side.flush()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: ARG002
        self.ended = code, reason

    def tell(self, message: Json | bytes) -> None:
        """Send a message."""
        self.sendMessage(message if isinstance(message, bytes) else json.dumps(message).encode())

    def heard(self) -> list[Json]:
        """Return the messages that came since the last call."""
        self.factory.server_side.flush()
        messages, self.messages = self.messages, []
        return messages


class _SocketFactory(WebSocketServerFactory):
    protocol: Any = Socket

    def __init__(self, server_side: FakeServer) -> None:
        super().__init__(reactor=server_side.reactor)
        self.server_side = server_side
        self.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)


class _Pages(Resource):
    isLeaf = True

    def __init__(self, server: FakeServer) -> None:
        super().__init__()
        self._server = server

    def render(self, request: Any) -> bytes:
        path = request.uri.decode()
        text = request.content.read()
        authorization = request.getHeader("authorization")
        self._server.asked.append((request.method.decode(), path, authorization, json.loads(text) if text else None))
        name = urlsplit(path).path.rpartition("/")[2]
        answer = self._server.answer(name)
        for header, value in self._server.headers.pop(name, {}).items():
            request.setHeader(header, value)
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


class FakeServer:
    """The server, and the network to it.

    :ivar reactor: for the program under test.
    :ivar asked: method, address, ``authorization`` and body of what came over HTTP.
    :ivar answers: what ``login``, ``token``, ``logout``, ``register`` and ``ws_url`` answer instead of what is usual,
        each once, in order.
    :ivar headers: further headers of the next of these answers, and of a ``socket`` that is refused.
    :ivar full: refuses sockets with 503.
    :ivar tokens: the tokens that open a socket, and :ivar tickets: those that do so once.
    :ivar sockets: all connections, the newest last.
    :ivar up: whether it accepts connections.
    """

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.asked: list[tuple[str, str, str | None, Json | None]] = []
        self.answers: dict[str, list[Json | bytes]] = {
            name: [] for name in ("login", "token", "logout", "register", "ws_url")
        }
        self.headers: dict[str, dict[str, str]] = {}
        self.full = False
        self.tokens: set[str] = set()
        self.tickets: set[str] = set()
        self.sockets: list[Socket] = []
        self.up = True
        self._pumps: list[IOPump] = []
        self._factories: dict[int, Any] = {
            HTTP_PORT: Site(_Pages(self), reactor=self.reactor),
            SOCKET_PORT: _SocketFactory(self),
        }

    def answer(self, name: str) -> Json | bytes:
        if self.answers[name]:
            return self.answers[name].pop(0)
        number = len(self.asked)
        if name in ("login", "token"):
            atoken, rtoken = f"token-{number}", f"rtoken-{number}"
            self.tokens.add(atoken)
            return {**OK, "user_unid": "u/1", "user_type": "user", "atoken": atoken, "rtoken": rtoken}
        if name == "ws_url":
            self.tickets.add(f"ticket-{number}")
            return {**OK, "ws_url": f"ws://127.0.0.1:{SOCKET_PORT}/wsapi/v1/devconf_fx/ticket-{number}"}
        return OK

    def flush(self) -> None:
        """Make the connections that are asked for, and move all that was sent."""
        moved = True
        while moved:
            moved = False
            while self.reactor.tcpClients:
                moved = True
                port, factory = self.reactor.tcpClients.pop(0)[1:3]
                connector: Any = self.reactor.connectors.pop(0)
                if connector.stoppedConnecting:
                    continue
                if self.up:
                    self._pumps.append(self._connect(port, factory))
                else:
                    factory.clientConnectionFailed(_NOBODY, Failure(error.ConnectionRefusedError()))
            for pump in self._pumps:
                moved = pump.flush() or moved

    def _connect(self, port: int, factory: Any) -> IOPump:
        client = factory.buildProtocol(None)
        server = self._factories[port].buildProtocol(None)
        pump: IOPump = connect(
            server, makeFakeServer(server), client, makeFakeClient(client), greet=False, clock=self.reactor
        )
        return pump

    def run(self, deferred: Deferred[Any]) -> Any:
        """Return what ``deferred`` fires with; the network moves, time does not."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.flush()
        assert results, "it has not fired"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def advance(self, seconds: float) -> None:
        """Let time pass, and move what is sent then."""
        self.reactor.advance(seconds)
        self.flush()
