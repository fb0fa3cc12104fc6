"""How a program reaches the server: the ways in over HTTP, and the socket (``docs/protocol.md`` §1).

:mod:`devconf.client` and :mod:`devconf.device` are made of these. Autobahn's own timers run on the global reactor, so
they are switched off, and ours run on the reactor that was passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol
from urllib.parse import quote, urlsplit

import treq
from attrs import frozen
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IConsumer, IDelayedCall, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from devconf import wire
from devconf.errors import CommandFailed

#: Seconds until an answer over HTTP, and until the socket is open.
ANSWER_WITHIN = 30.0
OPEN_WITHIN = 30.0
#: Seconds: a server that is silent for so long is pinged, has so long to answer, and so long to close.
PING_EVERY = 30.0
PONG_WITHIN = 10.0
CLOSE_WITHIN = 5.0

_WEB = "/webapi/v1/"

_log = Logger()

Message = dict[str, Any]


class CannotConnect(Exception):
    """The server cannot be reached, or what answers is no devconf server; the text is one line that says why."""


class RequestFailed(Exception):
    """The server answered with an error.

    :ivar ecode: which one (§3); not 0.
    :ivar enote: what is wrong, for people.
    :ivar response: the whole answer.
    """

    def __init__(self, response: Message) -> None:
        super().__init__(response)
        self.ecode: int = response["ecode"]
        self.enote = str(response.get("enote", ""))
        self.response = response

    def __str__(self) -> str:
        return f"{self.ecode}: {self.enote}"


@frozen
class Login:
    """What logging in gives.

    :ivar unid: the ``user_unid``; of a device its ``dev_unid``.
    :ivar atoken: opens what the account may; for one hour.
    """

    unid: str
    atoken: str


class Server:
    """The ways in of one server.

    :ivar url: its address, without a slash at the end.
    :raises CannotConnect: ``url`` is no address.
    """

    def __init__(self, reactor: Any, url: str) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
            usable = usable and url.isascii() and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise CannotConnect(f"{url!r} is not the address of a server; write it like http://127.0.0.1:8080")
        self._reactor = reactor
        # Not treq's client, which takes no IPv6 address and has the global reactor write what it sends.
        self._agent = Agent(reactor, connectTimeout=ANSWER_WITHIN)
        self.url = url.rstrip("/")

    @property
    def socket_url(self) -> str:
        """The address of the socket for those who come with a token instead of a ticket."""
        return "ws" + self.url.removeprefix("http") + wire.PREFIX.rstrip("/")

    async def log_in(self, account: Message) -> Login:
        """Log in.

        :param account: the body of ``login``.
        :raises RequestFailed: the server says no: ``BAD_CREDENTIALS`` for a wrong name, password or key.
        :raises CannotConnect: no usable answer.
        """
        answer = await self._ask("POST", "login", account)
        return Login(self._text(answer, "user_unid"), self._text(answer, "atoken"))

    async def register(self, login: Login, device: Message) -> None:
        """Describe a device.

        :param device: the body of ``register``.
        :raises RequestFailed: ``BAD_TOKEN`` or ``TOKEN_EXPIRED``: log in again; and others.
        :raises CannotConnect: no usable answer.
        """
        await self._ask("POST", f"devconf_fx/devices/{quote(login.unid, safe='')}/register", device, login.atoken)

    async def ws_url(self, login: Login) -> str:
        """Return an address with a ticket: for one connection, within 60 s.

        :raises RequestFailed: as :meth:`register` does.
        :raises CannotConnect: no usable answer.
        """
        path = f"devconf_fx/users/{quote(login.unid, safe='')}/ws_url?type=devconf_fx"
        return self._text(await self._ask("GET", path, None, login.atoken), "ws_url")

    def _text(self, answer: Message, name: str) -> str:
        text = answer.get(name)
        if not isinstance(text, str) or not text:
            raise CannotConnect(f"{self.url} answered without {name}; is it a devconf server?")
        return text

    def _ask(self, method: str, path: str, body: Message | None, atoken: str = "") -> Deferred[Message]:
        def too_late(_result: Any, _timeout: float) -> NoReturn:
            raise CannotConnect(f"{self.url} did not answer within {ANSWER_WITHIN:g} s")

        asked = Deferred.fromCoroutine(self._exchange(method, self.url + _WEB + path, body, atoken))
        return asked.addTimeout(ANSWER_WITHIN, self._reactor, onTimeoutCancel=too_late)

    async def _exchange(self, method: str, url: str, body: Message | None, atoken: str) -> Message:
        headers = Headers({"authorization": [atoken]} if atoken else {})
        data = None
        if body is not None:
            headers.addRawHeader("content-type", "application/json")
            data = _Body(wire.encode(body))
        try:
            response: Any = await self._agent.request(method.encode(), url.encode(), headers, data)
            content = await treq.content(response)
        except CancelledError:
            raise
        except Exception as error:  # the agent, TLS and the resolver each have kinds of their own
            raise CannotConnect(f"{self.url} cannot be reached: {_reason(error)}") from None
        try:
            answer = wire.decode_object(content)
        except CommandFailed:
            raise CannotConnect(
                f"{self.url} answered with HTTP status {response.code} and no JSON object; is it a devconf server?"
            ) from None
        if answer.get("ecode", 0) != 0:
            raise RequestFailed(answer)
        return answer


def _reason(error: BaseException | None) -> str:
    """Return why ``error`` happened, as one line."""
    for inner in getattr(error, "reasons", ()):
        return _reason(inner.value)
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


@implementer(IBodyProducer)
class _Body:
    """The body of a request, at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class Receiver(Protocol):
    """What a socket gives its messages to."""

    def received(self, payload: bytes) -> None:
        """Take a message."""

    def lost(self, code: int, reason: str) -> None:
        """Note that the connection is gone; called once, if it was open.

        :param code: the close code; 1006 if it was cut.
        """


def open_socket(reactor: Any, ws_url: str, receiver: Receiver, atoken: str = "") -> Deferred[Socket]:
    """Open a socket.

    :param receiver: gets what comes, from when the Deferred has fired.
    :param atoken: for an address without a ticket.
    :returns: fires with the socket once messages can be sent; fails with :class:`CannotConnect`.
    """

    try:
        factory = _SocketFactory(reactor, ws_url, {"authorization": atoken} if atoken else {}, receiver)
    except Exception as error:  # Autobahn raises a bare one
        return fail(CannotConnect(f"{ws_url!r} is not the address of a socket: {_reason(error)}"))
    # Not the whole address: a ticket is in it.
    host = f"{factory.host}:{factory.port}"

    async def dial() -> Socket:
        try:
            socket: Any = await factory.endpoint().connect(factory)
        except CancelledError:
            raise
        except Exception as error:  # TLS and the resolver each have kinds of their own
            raise CannotConnect(f"{host} cannot be reached: {_reason(error)}") from None
        opened: Socket = await socket.opened
        return opened

    def too_late(_result: Any, _timeout: float) -> NoReturn:
        raise CannotConnect(f"{host} did not open the socket within {OPEN_WITHIN:g} s")

    return Deferred.fromCoroutine(dial()).addTimeout(OPEN_WITHIN, reactor, onTimeoutCancel=too_late)


class Socket(WebSocketClientProtocol):
    """One connection: bytes to messages and back, keep-alive, closing.

    :ivar opened: fires with the socket when the handshake is done, fails with :class:`CannotConnect`.
    """

    factory: _SocketFactory
    transport: Any
    _heard_at = 0.0
    _timer: IDelayedCall | None = None

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[Socket] = Deferred(lambda _opened: self.transport.abortConnection())
        self._was_open = False

    def send(self, payload: bytes) -> None:
        """Send a message; it is dropped if the connection is not open."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(payload)

    def hang_up(self) -> None:
        """Close the connection; a server that does not answer this is dropped after a few seconds."""
        if self.state == self.STATE_OPEN:
            self.sendClose(1000)
        if self.state != self.STATE_CLOSED:
            self._after(CLOSE_WITHIN, self.transport.abortConnection)

    def onOpen(self) -> None:
        """See ``IWebSocketChannel``."""
        self._was_open = True
        self._after(PING_EVERY, self._check)
        self.opened.callback(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: ARG002
        """See ``IWebSocketChannel``."""
        # An exception that leaves a callback drops the connection without a word.
        try:
            self.factory.receiver.received(payload)
        except Exception:
            _log.failure("a message of the server could not be taken")

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """See ``IWebSocketChannel``."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._was_open:
            # Of one that was cut, Autobahn's reason says twice that it was.
            why = reason if wasClean else self.wasNotCleanReason
            self.factory.receiver.lost(1005 if code is None else code, why or "")
        elif not self.opened.called:
            self.opened.errback(CannotConnect(f"the server did not open the socket: {self.wasNotCleanReason}"))

    def dataReceived(self, data: bytes) -> None:
        """Note that the server lives."""
        self._heard_at = self.factory.reactor.seconds()
        super().dataReceived(data)

    def _after(self, seconds: float, function: Callable[[], None]) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self.factory.reactor.callLater(seconds, function)

    def _check(self) -> None:
        silent = self.factory.reactor.seconds() - self._heard_at
        if silent < PING_EVERY:
            self._after(PING_EVERY - silent, self._check)
        elif silent < PING_EVERY + PONG_WITHIN:
            self.sendPing()
            self._after(PING_EVERY + PONG_WITHIN - silent, self._check)
        else:
            self.transport.abortConnection()


class _SocketFactory(WebSocketClientFactory):
    protocol: Any = Socket
    noisy = False

    def __init__(self, reactor: Any, ws_url: str, headers: dict[str, str], receiver: Receiver) -> None:
        # Given a reactor, Autobahn leaves the global one alone.
        super().__init__(ws_url, headers=headers, useragent=None, reactor=reactor)
        self.receiver = receiver
        self.setProtocolOptions(
            utf8validateIncoming=False,  # the decoder of the messages does
            failByDrop=False,
            serverConnectionDropTimeout=0,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            autoPingTimeout=0,
        )

    def endpoint(self) -> IStreamClientEndpoint:
        endpoint = HostnameEndpoint(self.reactor, self.host, self.port, timeout=OPEN_WITHIN)
        return wrapClientTLS(optionsForClientTLS(self.host), endpoint) if self.isSecure else endpoint
