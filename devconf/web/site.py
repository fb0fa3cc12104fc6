"""Everything of ours over HTTP below one resource, which our own site, or that of a host, may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException

from devconf.errors import CommandFailed, Ecode
from devconf.web.answers import render

if TYPE_CHECKING:
    from klein import Klein

_log = Logger()


class Addresses(Protocol):
    """Something that answers requests."""

    def add_to(self, app: Klein) -> None:
        """Let ``app`` have its addresses."""


def make_app(parts: Iterable[Addresses], answered: Counter[int]) -> Klein:
    """Return an application with the addresses of ``parts``, in which whatever goes wrong is answered as §5 says.

    :param answered: counts what it refuses, by ``ecode``.
    """
    # Klein imports the reactor, and so installs one: not before the host has chosen its own.
    from klein import Klein

    def failed(request: Request, failure: Failure) -> bytes:
        error: Any = failure.value
        answered[error.ecode] += 1
        return render(request, error)

    app = Klein()
    for part in parts:
        part.add_to(app)
    for kind, handler in ((CommandFailed, failed), (HTTPException, _not_found), (Exception, _broken)):
        app.handle_errors(kind)(handler)  # type: ignore[arg-type]
    return app


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
