"""A service on a port of its own, on the reactor of the tests, with passwords that cost no time."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest_twisted  # type: ignore[import-untyped]
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.tcp import Server as ServerTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from devconf.clock import Random
from devconf.config import Config
from devconf.model import Role
from devconf.passwords import PlainPasswords
from devconf.service import DevconfService, Seams
from devconf.store import accounts, opening
from devconf.store.writer import ThreadRunner
from devconf.testing import prepared_database

PASSWORD = "correct horse"


class Running:
    """A service that listens on a port of its own.

    :ivar url: where.
    """

    def __init__(self, reactor: Any, folder: Path, *, scheme: str = "tcp", **settings: Any) -> None:
        self.reactor = reactor
        path = prepared_database(folder / "devconf.sqlite")
        connection = opening.connect(f"sqlite:///{path}")
        with connection.begin():
            accounts.insert_user(connection, 0.0, "u1", "alice", Role.OPERATOR, f"plain {PASSWORD}")
        opening.close(connection)
        listen = (f"{scheme}:0:interface=127.0.0.1",) if scheme == "tcp" else (scheme,)
        config = Config(listen=listen, database=f"sqlite:///{path}", **settings)
        seams = Seams(
            reactor, time.time, Random(), ThreadRunner(reactor), PlainPasswords(), deferToThread, deferToThread
        )
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


def starting(folder: Path) -> Iterator[Start]:
    """Yield what starts a service with settings in ``folder``; then stop what was started."""
    from twisted.internet import reactor

    started: list[Running] = []

    async def run(**settings: Any) -> Running:
        started.append(Running(reactor, folder, **settings))
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


async def raw(server: Running, port: int = 0) -> Any:
    return await connectProtocol(TCP4ClientEndpoint(server.reactor, "127.0.0.1", port or server.port), Raw())


def connections(server: Running) -> list[ServerTransport]:
    """The connections to a server that the reactor reads or writes."""
    watched = [*server.reactor.getReaders(), *server.reactor.getWriters()]
    return [each for each in watched if isinstance(each, ServerTransport)]
