"""The HTTP server: everything of ours below one resource, and our own site, which bounds what comes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from werkzeug.exceptions import HTTPException

from devconf.config import Network, is_among
from devconf.errors import CommandFailed, Ecode
from devconf.web.answers import render

if TYPE_CHECKING:
    from klein import Klein

_log = Logger()


class Addresses(Protocol):
    """Something that answers requests."""

    def add_to(self, app: Klein) -> None:
        """Let ``app`` have its addresses."""


def make_app(parts: Iterable[Addresses]) -> Klein:
    """Return an application with the addresses of ``parts``, in which whatever goes wrong is answered as §5 says."""
    # Klein imports the reactor, and so installs one: not before the host has chosen its own.
    from klein import Klein

    app = Klein()
    for part in parts:
        part.add_to(app)
    for kind, handler in ((CommandFailed, _failed), (HTTPException, _not_found), (Exception, _broken)):
        app.handle_errors(kind)(handler)  # type: ignore[arg-type]
    return app


def _failed(request: Request, failure: Failure) -> bytes:
    return render(request, failure.value)


def _not_found(request: Request, _failure: Failure) -> bytes:
    # Not by the whole path: in the site of a host it begins with where the host has put us.
    if (request.postpath or [b""])[0] in (b"webapi", b"wsapi"):
        return render(request, CommandFailed(Ecode.UNKNOWN_COMMAND, "there is no such address or method here"))
    request.setResponseCode(404)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return b"There is nothing here.\n"


def _broken(request: Request, failure: Failure) -> bytes:
    _log.failure("{method} {path} failed", failure, method=request.method, path=request.path[:200])
    return render(request, None)


class Root(Resource):
    """Everything of ours below one resource, which an existing site may hold."""

    def __init__(self, app: Klein, upgrade: IResource, ready: Callable[[], bool]) -> None:
        """Take what is below.

        :param ready: whether commands are taken. The site of a host is there also while we are not.
        """
        super().__init__()
        self._rest = app.resource()
        self._ready = ready
        self.putChild(b"wsapi", upgrade)

    def getChild(self, path: bytes, request: Request) -> IResource:
        """See ``IResource``."""
        if path == b"webapi" and not self._ready():
            return _NotReady()
        # What the site has taken from the path is put back: Klein's routes name the whole of it.
        request.prepath, request.postpath = (request.prepath or [])[:-1], [path, *(request.postpath or [])]
        return self._rest

    def render(self, request: Request) -> Any:
        """See ``IResource``: our own address without a slash at its end."""
        request.postpath = [b""]
        return self._rest.render(request)


class _NotReady(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        enote = "the server is starting or stopping; try again later"
        return render(request, CommandFailed(Ecode.STOPPING, enote))


class BoundedRequest(Request):
    """A request whose body is read no further than the site allows: the rest is thrown away."""

    channel: Any
    _read = 0

    def handleContentChunk(self, data: bytes) -> None:
        """See ``twisted.web.http.Request``."""
        self._read += len(data)
        limit = self.channel.site.body_max
        if self._read <= limit:
            super().handleContentChunk(data)
        elif self._read > 16 * limit:
            self.channel.loseConnection()

    def process(self) -> None:
        """See ``twisted.web.http.Request``."""
        limit = self.channel.site.body_max
        if self._read > limit:
            self.write(render(self, CommandFailed(Ecode.TOO_LARGE, f"the body is larger than {limit} bytes")))
            self.finish()
        else:
            super().process()


class Channel(HTTPChannel):
    """An HTTP connection, counted by its address until it has shown a ticket or token.

    :ivar stranger: the address it is counted under.
    """

    site: Any
    stranger: str | None = None

    def known(self) -> None:
        """Count it no longer."""
        if self.stranger is not None:
            self.site.forget(self.stranger)
            self.stranger = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``."""
        self.known()
        super().connectionLost(reason)


class BoundedSite(Site):
    """Our own site: bounded in the size of bodies, in idle time, and in connections from one address.

    :ivar body_max: bytes.
    """

    requestFactory = BoundedRequest
    protocol: Any = Channel

    def __init__(
        self, root: IResource, reactor: Any, body_max: int, strangers_max: int, proxies: tuple[Network, ...]
    ) -> None:
        """Take the root.

        :param strangers_max: connections from one address that have not shown a ticket or token.
        :param proxies: networks that are not counted: whoever comes through them has another address.
        """
        super().__init__(root, reactor=reactor, timeout=15)
        self.body_max = body_max
        self.displayTracebacks = False
        self.noisy = False
        self._strangers_max = strangers_max
        self._proxies = proxies
        self._strangers: Counter[str] = Counter()

    def buildProtocol(self, addr: Any) -> Any:
        """See ``IProtocolFactory``; None closes the connection."""
        host: str | None = getattr(addr, "host", None)
        if host is None or is_among(host, self._proxies):
            return super().buildProtocol(addr)
        if self._strangers[host] >= self._strangers_max:
            return None
        channel: Any = super().buildProtocol(addr)
        channel.stranger = host
        self._strangers[host] += 1
        return channel

    def forget(self, address: str) -> None:
        """Note that one of the connections from ``address`` is counted no longer."""
        self._strangers[address] -= 1
        if not self._strangers[address]:
            del self._strangers[address]

    def log(self, request: Any) -> None:
        """Write no access log: probes and logins of thousands of devices would drown the rest."""
