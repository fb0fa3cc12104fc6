"""How a program dials a server: the socket (``docs/protocol.md`` §1 and §6).

Autobahn's own timers run on the global reactor, so they are switched off, and ours run on the reactor that was passed
in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger

from devconf import hints
from devconf.ways_in import CannotConnect, reason

#: Seconds until the socket is open.
OPEN_WITHIN = 30.0
#: Seconds: a server that is silent for so long is pinged, has so long to answer, and so long to close.
PING_EVERY = 30.0
PONG_WITHIN = 10.0
CLOSE_WITHIN = 5.0
#: Bytes of a message: one that is larger closes the connection.
MESSAGE_MAX = 2**26

_log = Logger()


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
        return fail(CannotConnect(f"{ws_url!r} is not the address of a socket: {reason(error)}"))
    # Not the whole address: a ticket is in it.
    host = f"{factory.host}:{factory.port}"

    async def dial() -> Socket:
        try:
            socket: Any = await factory.endpoint().connect(factory)
        except CancelledError:
            raise
        except Exception as error:  # TLS and the resolver each have kinds of their own
            raise CannotConnect(f"{host} cannot be reached: {reason(error)}") from None
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
            headers = getattr(self, "http_headers", {})
            why = f"the server did not open the socket: {self.wasNotCleanReason}"
            self.opened.errback(CannotConnect(why, hints.in_headers(headers.get)))

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
            maxMessagePayloadSize=MESSAGE_MAX,
            serverConnectionDropTimeout=0,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            autoPingTimeout=0,
        )

    def endpoint(self) -> IStreamClientEndpoint:
        endpoint = HostnameEndpoint(self.reactor, self.host, self.port, timeout=OPEN_WITHIN)
        return wrapClientTLS(optionsForClientTLS(self.host), endpoint) if self.isSecure else endpoint
