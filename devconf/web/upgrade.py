"""From HTTP to WebSocket: who comes is known before the protocol is built (``docs/protocol.md`` §1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from devconf.auth import Auth
from devconf.devices.protocol import DeviceFactory
from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity, Role
from devconf.operators.protocol import OperatorFactory
from devconf.web.answers import bearer, let_in, peer_address, respond

_log = Logger()


class Upgrade(Resource):
    """``/wsapi/v1/devconf_fx`` and ``/wsapi/v1/devconf_fx/<connect_unid>``."""

    isLeaf = True

    def __init__(
        self,
        auth: Auth,
        operators: OperatorFactory,
        devices: DeviceFactory,
        trusted_proxies: tuple[Any, ...],
        may_connect: Callable[[], None],
    ) -> None:
        """Take the factories of both sides.

        :param may_connect: raises ``CommandFailed`` if there is no room for another connection.
        """
        super().__init__()
        self._auth = auth
        self._operators = operators
        self._devices = devices
        self._trusted_proxies = trusted_proxies
        self._may_connect = may_connect

    def render(self, request: Request) -> int:
        """See ``IResource``."""
        lost: list[Failure] = []
        request.notifyFinish().addErrback(lost.append)
        Deferred.fromCoroutine(self._upgrade(request, lost)).addErrback(self._fail, request, lost)
        return NOT_DONE_YET

    async def _upgrade(self, request: Request, lost: list[Failure]) -> None:
        path = [part.decode("latin-1") for part in request.postpath or []]
        if path[:2] != ["v1", "devconf_fx"]:
            raise CommandFailed(Ecode.UNKNOWN_COMMAND, "there is nothing here; see /wsapi/v1/devconf_fx")
        # The site of a host may speak HTTP/2, whose streams cannot be handed over.
        if not isinstance(request.channel, HTTPChannel):
            raise CommandFailed(Ecode.UNKNOWN_COMMAND, "a WebSocket begins with HTTP/1.1; connect with that")
        self._may_connect()
        ticket = [part for part in path[2:] if part]
        if len(ticket) == 1:
            identity = await self._auth.redeem(ticket[0])
        elif not ticket:
            identity = await self._auth.identify(bearer(request))
        else:
            raise CommandFailed(Ecode.BAD_TOKEN, "this address is not valid; ask for one at ws_url")
        # While the store was asked the server may have begun to stop: nobody would close a connection opened now.
        self._may_connect()
        if not lost:
            hand_over(request, self._build(request, identity))

    def _build(self, request: Request, identity: Identity) -> Any:
        if identity.role is Role.DEVICE:
            return self._devices.build(identity, peer_address(request, self._trusted_proxies))
        return self._operators.build(identity)

    def _fail(self, failure: Failure, request: Request, lost: list[Failure]) -> None:
        if not failure.check(CommandFailed):
            _log.failure("an upgrade to WebSocket failed", failure)
        if not lost:
            if isinstance(failure.value, CommandFailed):
                self._operators.registry.answered[failure.value.ecode] += 1
            respond(request, failure.value)


def hand_over(request: Request, protocol: Any) -> None:
    """Give the connection of ``request`` to ``protocol``, and let the HTTP channel go."""
    channel = request.channel
    let_in(request)
    left = getattr(channel, "left", None)
    if left is not None:
        left()
    transport: Any = channel.transport
    channel.transport = None
    # The channel is the transport's producer until now; the protocol is to be.
    transport.unregisterProducer()
    if isinstance(transport, ProtocolWrapper):  # TLS
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
    head = [b"%s %s HTTP/1.1" % (request.method, request.uri)]
    for name, values in request.requestHeaders.getAllRawHeaders():
        head.append(name + b": " + b",".join(values))
    channel.requests.clear()
    protocol.makeConnection(transport)
    transport.resumeProducing()
    protocol.dataReceived(b"\r\n".join([*head, b"", b""]))
