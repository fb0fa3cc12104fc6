"""Where the tests of ``devconf.testing`` take place: in memory, and over sockets, with the same names for both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater

from devconf import wire
from devconf.clock import Random
from devconf.config import Config, Limits
from devconf.model import Role
from devconf.passwords import PlainPasswords
from devconf.service import DevconfService, Seams
from devconf.store.writer import ThreadRunner
from devconf.testing import MemoryClient, MemoryDevice, MemoryServer, prepared_database

LIMITS = Limits(store_conf_max=1000)


class InMemory:
    """Where the tests take place: in memory."""

    def __init__(self, folder: Path, device_timeout: float) -> None:
        self.server = MemoryServer(folder, config=Config(device_timeout=device_timeout, limits=LIMITS))

    async def start(self) -> None:
        """It runs already."""

    async def client(self, name: str = "alice", role: Role = Role.ADMIN) -> Any:
        return self.server.client(name, role)

    async def device(self, dev_refid: str) -> Any:
        device = self.server.enrol(dev_refid)
        device.connect()
        return device

    def twin(self, device: MemoryDevice) -> Any:
        return MemoryDevice(self.server, device.dev_unid, device.dev_refid, dev_key=device.dev_key)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until it is so."""
        self.server.finish()
        end = self.server.clock.seconds() + 30
        while not condition():
            assert self.server.clock.seconds() < end, "it never was so"
            self.server.advance(0.05)

    async def stop(self) -> None:
        self.server.stop()


class OverSockets:
    """Where the tests take place: on the reactor of the tests, over TCP."""

    def __init__(self, folder: Path, device_timeout: float) -> None:
        from twisted.internet import reactor as installed

        reactor: Any = installed
        self.reactor = reactor
        path = prepared_database(folder / "devconf.sqlite")
        config = Config(
            listen=("tcp:0:interface=127.0.0.1",),
            database=f"sqlite:///{path}",
            device_timeout=device_timeout,
            limits=LIMITS,
        )
        seams = Seams(
            reactor, time.time, Random(), ThreadRunner(reactor), PlainPasswords(), maybeDeferred, maybeDeferred
        )
        self.service = DevconfService(reactor, config, seams)

    async def start(self) -> None:
        self.service.startService()
        await self.service.when_ready()
        self.port = self.service._ports[0].getHost().port  # type: ignore[attr-defined]

    async def client(self, name: str = "alice", role: Role = Role.ADMIN) -> Any:
        account = {"user_name": name, "role": role.title, "password": "secret"}
        assert (await self.service.request("post users", account))["ecode"] == 0
        client = SocketClient(self, name, "secret")
        client.connect()
        await self.until(lambda: client._socket is not None)
        return client

    async def device(self, dev_refid: str) -> Any:
        made = await self.service.request("post devices", {"dev_refid": dev_refid})
        device = SocketDevice(self, made["dev_unid"], dev_refid, dev_key=made["dev_key"])
        device.connect()
        await self.until(lambda: made["dev_unid"] in self.service.hub)
        return device

    def twin(self, device: MemoryDevice) -> Any:
        return SocketDevice(self, device.dev_unid, device.dev_refid, dev_key=device.dev_key)

    def open(self, tokens: dict[str, Any], socket: Any) -> None:
        url = f"ws://127.0.0.1:{self.port}{wire.PREFIX.rstrip('/')}"
        factory: Any = WebSocketClientFactory(url, headers={"authorization": tokens["atoken"]}, reactor=self.reactor)
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0)
        factory.buildProtocol = lambda _address: socket
        socket.factory = factory
        factory.noisy = False
        self.reactor.connectTCP("127.0.0.1", self.port, factory)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the reactor turn until it is so."""
        while not condition():
            await deferLater(self.reactor, 0.001)

    def run(self) -> None:
        """It runs by itself."""

    async def stop(self) -> None:
        await self.service.stopService()


class Socket(WebSocketClientProtocol):
    """A real socket that stands for a client or a device in memory."""

    def __init__(self, opened: Any, received: Any, lost: Any) -> None:
        super().__init__()
        self._opened, self._received, self._lost = opened, received, lost

    def onOpen(self) -> None:
        self._opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: ARG002
        self._received(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._lost(code, reason if wasClean else self.wasNotCleanReason)


class SocketClient(MemoryClient):
    """A client that looks like one in memory, but has a socket."""

    def connect(self) -> None:
        self.closed = None

        async def run() -> None:
            tokens = await self.server.service.auth.login_user(self.user_name, self.password)
            self.server.open(tokens, Socket(self.opened, self.received, self.lost))

        Deferred.fromCoroutine(run())


class SocketDevice(MemoryDevice):
    """A device that looks like one in memory, but has a socket."""

    socket: Any = None

    def connect(self) -> None:
        self.closed = None
        self.inbox.clear()

        async def run() -> None:
            tokens = await self.server.service.auth.login_device(self.dev_refid, self.dev_key, "127.0.0.1")
            self.server.open(tokens, Socket(self.opened, self.send, self.ended))

        Deferred.fromCoroutine(run())

    def opened(self, socket: Any) -> None:
        self.socket = socket

    def ended(self, code: int, reason: str) -> None:
        self.socket = None
        if code != 1006:
            self.closed = (code, reason)

    def lose(self) -> None:
        self.inbox.clear()
        self.socket.transport.abortConnection()

    def say(self, message: dict[str, Any] | bytes) -> None:
        self.socket.sendMessage(message if isinstance(message, bytes) else wire.encode(message))


Place = InMemory | OverSockets
