"""An operator's connection without a socket: requests and responses, progress, events."""

from __future__ import annotations

import json
import random
from itertools import count
from typing import Any

from attrs import define, field
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred

from devconf import wire

Message = dict[str, Any]


@define(eq=False)
class MemoryClient:
    """An operator's client. All that a real one does on its socket is done here, but in memory and in still time.

    :ivar user_name: whose it is.
    :ivar password: what other programs log in with, as the same user.
    :ivar heard: all messages it was ever sent.
    :ivar closed: code and reason, once its connection has ended; 1006 if it was cut.
    """

    server: Any  # MemoryServer
    user_name: str
    password: str
    heard: list[Message] = field(factory=list, init=False)
    closed: tuple[int, str] | None = field(default=None, init=False)
    _socket: Any = field(default=None, init=False)
    _waiting: dict[str, Deferred[Message]] = field(factory=dict, init=False)
    _numbers: count[int] = field(factory=lambda: count(1), init=False)

    # -- coming and going

    def connect(self) -> None:
        """Log in and open a connection.

        :raises AssertionError: it was not opened.
        """
        if not self.server.running:
            raise AssertionError("the connection was not opened: the server does not run")
        self.closed = None
        login = Deferred.fromCoroutine(self.server.service.auth.login_user(self.user_name, self.password))
        self.server.finish()
        token = self.server.result(login)["atoken"]
        factory = _Factory(self.server, token, self)
        self.server.reactor.connectTCP(factory.host, factory.port, factory)
        self.server.finish()
        if self._socket is None:
            raise AssertionError(f"the connection was not opened: {self.closed}")

    def close(self) -> None:
        """Close the connection."""
        self._socket.sendClose(1000)
        self.server.run()

    def lose(self) -> None:
        """Lose the connection."""
        self._socket.transport.abortConnection()
        self.server.run()

    # -- asking

    def call(
        self, command: str, params: Message | None = None, *, progress: bool = False, **envelope: Any
    ) -> Deferred[Message]:
        """Send a request.

        :param command: ``<method> <resource>``.
        :param progress: ask for progress frames.
        :param envelope: further fields of the message, or others: ``req_id``, ``src_page``.
        :returns: fires with the whole response, whatever its ``ecode`` is; never, if the connection ends before.
        """
        method, _, resource = command.partition(" ")
        message = {"command": f"{method} {wire.PREFIX}{resource}", "req_id": str(next(self._numbers)), **envelope}
        if params is not None:
            message["params"] = params
        if progress:
            message["progress"] = True
        response = self._waiting[message["req_id"]] = Deferred()
        self.say(message)
        return response

    def ask(self, command: str, params: Message | None = None, **envelope: Any) -> Message:
        """Return the whole response to a request that needs no device to answer."""
        response = self.call(command, params, **envelope)
        self.server.finish()
        return dict(self.server.result(response))

    def say(self, message: Message | bytes) -> None:
        """Send anything."""
        self._socket.sendMessage(message if isinstance(message, bytes) else json.dumps(message).encode())
        self.server.run()

    # -- what has come

    @property
    def events(self) -> list[Message]:
        """The events of what was subscribed to, oldest first."""
        return [message for message in self.heard if "event" in message]

    @property
    def progress(self) -> list[Message]:
        """The progress frames, oldest first."""
        return [message for message in self.heard if "progress" in message]

    # -- from the socket

    def opened(self, socket: Any) -> None:
        """The connection can be used."""
        self._socket = socket

    def received(self, payload: bytes) -> None:
        """A message has come."""
        message = json.loads(payload)
        self.heard.append(message)
        if "ecode" in message and message.get("req_id") in self._waiting:
            self._waiting.pop(message["req_id"]).callback(message)

    def lost(self, code: int, reason: str) -> None:
        """The connection has ended, or was not opened."""
        self._socket = None
        self._waiting.clear()
        self.closed = (code, reason)


class _Socket(WebSocketClientProtocol):
    factory: _Factory

    def onOpen(self) -> None:
        self.factory.client.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: ARG002
        self.factory.client.received(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # Of one that was cut, Autobahn's reason says twice that it was.
        why = reason if wasClean else self.wasNotCleanReason
        self.factory.client.lost(1005 if code is None else code, why or "")


class _Factory(WebSocketClientFactory):
    protocol: Any = _Socket
    noisy = False

    def __init__(self, server: Any, atoken: str, client: MemoryClient) -> None:
        url = "ws" + server.url.removeprefix("http") + wire.PREFIX.rstrip("/")
        # Autobahn seeds the random numbers of the process, which the test may have seeded itself.
        state = random.getstate()
        super().__init__(url, headers={"authorization": atoken}, useragent=None, reactor=server.reactor)
        random.setstate(state)
        self.client = client
        self.setProtocolOptions(
            failByDrop=False, openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0
        )
