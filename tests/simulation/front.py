"""HTTP as far as a WebSocket needs it: the server's own upgrade, with tickets that need no login.

A ticket says who comes: ``device-<dev_refid>`` or ``client-<name>``. Everything after that is the server's own.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection as Database
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers

from devconf.auth import Auth
from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity, Role

_END = b"\r\n\r\n"


def redeem(auth: Auth, ticket: str) -> Deferred[Identity]:
    """Say who comes with ``ticket``, in place of :meth:`devconf.auth.Auth.redeem`."""
    kind, _, name = ticket.partition("-")
    return auth._store.run(_device if kind == "device" else _client, name)


def enabled(database: Database, dev_refid: str) -> str | None:
    """Return the ``dev_unid`` of a device that may log in."""
    found = "SELECT dev_unid FROM devices WHERE dev_refid = ? AND enabled"
    dev_unid: str | None = database.exec_driver_sql(found, (dev_refid,)).scalar()
    return dev_unid


def _device(database: Database, name: str) -> Identity:
    dev_unid = enabled(database, name)
    if dev_unid is None:
        raise CommandFailed(Ecode.BAD_TOKEN, "there is no such device")
    return Identity(dev_unid, name, Role.DEVICE)


def _client(_database: Database, name: str) -> Identity:
    return Identity(name.rjust(32, "0"), name, Role.ADMIN)


class Front(Protocol):
    """A connection until it is a WebSocket."""

    transport: Any

    def __init__(self, upgrade: Any) -> None:
        self._upgrade = upgrade
        self._data = b""
        self._request: Asked | None = None

    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        self._data += data
        if _END in self._data and self._request is None:
            # As an HTTP channel does while a request is being answered.
            self.transport.pauseProducing()
            self._request = Asked(self.transport, self._data.partition(_END)[0])
            self._upgrade.render(self._request)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``."""
        if self._request is not None:
            self._request.finished.errback(reason)


class Asked:
    """A request, as far as the upgrade looks at it."""

    def __init__(self, transport: Any, head: bytes) -> None:
        line, *fields = head.split(b"\r\n")
        self.method, self.uri, _ = line.split(b" ")
        self.path = self.uri
        # The site has taken the first part, by which it has found the upgrade.
        self.postpath = self.uri.split(b"/")[2:]
        self.requestHeaders = Headers()
        for field in fields:
            name, _, value = field.partition(b": ")
            self.requestHeaders.addRawHeader(name, value)
        self.finished: Deferred[None] = Deferred()
        self.channel = HTTPChannel()
        self.channel.transport = transport
        self._transport = transport
        self._status = 200

    def notifyFinish(self) -> Deferred[None]:
        """See ``twisted.web.server.Request``."""
        return self.finished

    def getClientAddress(self) -> IPv4Address:
        """See ``twisted.web.server.Request``."""
        address: IPv4Address = self._transport.getPeer()
        return address

    def setResponseCode(self, code: int) -> None:
        """See ``twisted.web.server.Request``."""
        self._status = code

    def setHeader(self, name: bytes, value: bytes) -> None:
        """See ``twisted.web.server.Request``."""

    def write(self, body: bytes) -> None:
        """See ``twisted.web.server.Request``."""
        self._transport.write(b"HTTP/1.1 %d No\r\n\r\n" % self._status + body)

    def finish(self) -> None:
        """See ``twisted.web.server.Request``."""
        self._transport.loseConnection()
