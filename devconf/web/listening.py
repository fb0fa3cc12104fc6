"""Where a server listens: an endpoint of Twisted, and what of it is ours."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.protocols.policies import WrappingFactory

#: Connections that may wait to be accepted: a whole fleet comes back at once.
BACKLOG = 4096

_PROXY = "haproxy:"


class ProxyHeader(HAProxyProtocolWrapper):
    """A connection that begins with a PROXY header; a broken one ends it, without a line in the log."""

    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        try:
            super().dataReceived(data)
        except ValueError:
            # Twisted lets out what is wrong with an address or a port. What comes behind the header is not meant here.
            if self._proxyInfo is not None:
                raise
            self.loseConnection()


class Proxied(WrappingFactory[ProxyHeader]):
    """Makes protocols that another factory's are wrapped in, if a proxy is to say for whom it connects."""

    protocol = ProxyHeader


async def listen(reactor: Any, description: str, site: IProtocolFactory) -> IListeningPort:
    """Serve ``site`` at the endpoint ``description``, and return the port; whatever is wrong with it is raised."""
    described = with_backlog(description)
    if described.startswith(_PROXY):
        described, site = described.removeprefix(_PROXY), Proxied(site)
    port: IListeningPort = await serverFromString(reactor, described).listen(site)
    return port


def with_backlog(description: str) -> str:
    """Return the endpoint ``description`` with room for many connections to wait, unless it says how many."""
    kind = description.removeprefix(_PROXY).partition(":")[0]
    if kind in ("tcp", "tcp6", "ssl", "tls", "unix") and ":backlog=" not in description:
        return f"{description}:backlog={BACKLOG}"
    return description
