"""Commands over HTTP, by the same registry as over WebSocket (``docs/protocol.md`` §5), and the backup (§1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define
from msgspec import UNSET, UnsetType
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import Logger
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure
from twisted.web.server import Request

from devconf import wire
from devconf.auth import Auth
from devconf.commands.asker import Asker, Dropped
from devconf.commands.registry import Registry
from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity, Role
from devconf.pages import Pages
from devconf.sessions import Sessions
from devconf.web.answers import body_of, identified, render, to_its_end, when_read

if TYPE_CHECKING:
    from klein import Klein


@define
class Mirror:
    """The handlers.

    :ivar _ready: whether commands are taken.
    :ivar _body_max: bytes of a request's body.
    :ivar _copy: fires with the path of a new copy of the database, which is the caller's to remove.
    :ivar _pages: the answers that may be large.
    """

    _log = Logger()

    _auth: Auth
    _sessions: Sessions
    _registry: Registry
    _ready: Callable[[], bool]
    _body_max: int
    _copy: Callable[[], Deferred[Path]]
    _pages: Pages

    def add_to(self, app: Klein) -> None:
        """Let ``app`` have the addresses of §5."""
        app.route("/webapi/v1/backup", methods=["GET"])(self.backup)
        for method in ("GET", "POST", "PUT", "DELETE"):
            app.route("/webapi/v1/devconf_fx/<path:resource>", methods=[method])(self.command)

    def command(self, request: Request, resource: str) -> Deferred[bytes]:
        """Any command of §4."""
        asker, reader = Asker(), _Reader()

        def leave(_reason: Failure) -> None:
            reader.gone = True
            asker.leave()

        request.notifyFinish().addErrback(leave)
        return Deferred.fromCoroutine(self._command(request, resource, asker, reader)).addErrback(_nobody_is_there)

    async def _command(self, request: Request, resource: str, asker: Asker, reader: _Reader) -> bytes:
        identity = await self._identified(request)
        reader.account = identity.unid
        method = request.method.decode("ascii").lower()
        params = body_of(request, self._body_max, may_be_empty=True)
        asked = _query(request) if method in ("get", "delete") else {}
        asked_for = wire.Request(
            f"{method} {wire.PREFIX}{resource}", idempotency_key=_key(request), params={**asked, **params}
        )
        ended = made = False

        def end() -> None:
            nonlocal ended
            ended = True
            asker.leave()

        def make() -> Deferred[bytes]:
            nonlocal made
            if ended:  # before a list had its turn
                return fail(Dropped())
            again, made = made, True
            response = self._registry.handle(asked_for, identity, _no_progress, asker, text=bool(asked), again=again)
            return response.addCallback(partial(render, request))

        self._sessions.observe(identity, end)
        try:
            if method != "get":
                return await make()
            await self._pages.answer(reader, make, partial(self._hand, request, reader))
            return b""
        except Dropped:
            if not ended:
                raise
            raise _ended() from None
        finally:
            self._sessions.ignore(identity, end)

    def _hand(self, request: Request, reader: _Reader, answer: bytes) -> None:
        request.write(answer)
        reader.writable = False
        when_read(request).addCallback(lambda _: self._read(reader))

    def _read(self, reader: _Reader) -> None:
        reader.writable = True
        self._pages.taken(reader)

    async def _identified(self, request: Request) -> Identity:
        if not self._ready():
            raise CommandFailed(Ecode.STOPPING, "the server is starting or stopping; try again later")
        return await identified(self._auth, request)

    def backup(self, request: Request) -> Deferred[None]:
        """``GET /webapi/v1/backup``: a copy of the database."""
        gone: Deferred[None] = Deferred()
        request.notifyFinish().addErrback(lambda _: gone.callback(None))
        # Otherwise the copy would be left behind when the client goes away.
        return to_its_end(self._backup(request, gone))

    async def _backup(self, request: Request, gone: Deferred[None]) -> None:
        identity = await self._identified(request)
        if identity.role < Role.ADMIN:
            raise CommandFailed(Ecode.FORBIDDEN, f"this takes the role admin; yours is {identity.role.title}")
        ended = False

        def end() -> None:
            nonlocal ended
            ended = True

        self._sessions.observe(identity, end)
        try:
            path = await self._copy()
        finally:
            self._sessions.ignore(identity, end)
        if ended:
            path.unlink()
            raise _ended()
        try:
            size = path.stat().st_size
            self._log.info("{user} takes a backup of {size} bytes", user=identity.name, size=size)
            # Whole or not at all: what is asked for a second time is of another moment.
            request.setHeader(b"cache-control", b"no-store")
            request.setHeader(b"content-type", b"application/vnd.sqlite3")
            request.setHeader(b"content-length", b"%d" % size)
            with path.open("rb") as file:
                if not gone.called:
                    await FileSender().beginFileTransfer(file, request)
        except Exception as error:
            # A part has been sent: there is nothing to answer any more.
            self._log.info("the backup was not sent to its end: {error}", error=error)
            request.loseConnection()
            await gone
        finally:
            path.unlink()


@define(eq=False)
class _Reader:
    """Who waits for one answer: see :class:`devconf.pages.Reader`."""

    account: str = ""
    gone: bool = False
    writable: bool = True


def _no_progress(_done: int, _total: int) -> None:
    """There is none over HTTP."""


def _ended() -> CommandFailed:
    return CommandFailed(Ecode.BAD_TOKEN, "the account or its tokens ended while this request waited; log in again")


def _nobody_is_there(failure: Failure) -> Failure:
    """What was waiting is dropped because its client has gone: for Klein, which cancels the same, it is cancelled."""
    if failure.check(Dropped):
        raise CancelledError
    return failure


def _key(request: Request) -> str | UnsetType:
    """Return the header ``Idempotency-Key``."""
    values = request.requestHeaders.getRawHeaders(b"idempotency-key", [])
    if not values:
        return UNSET
    try:
        text = values[-1].decode("utf-8")
    except UnicodeDecodeError:
        raise CommandFailed(Ecode.BAD_FIELD, "the header Idempotency-Key is not UTF-8") from None
    return wire.convert(text, wire.IdempotencyKey, "the header Idempotency-Key")


def _query(request: Request) -> dict[str, str]:
    """Return the params in the query; of one that is repeated the last counts."""
    try:
        return {name.decode(): values[-1].decode() for name, values in (request.args or {}).items()}
    except UnicodeDecodeError:
        raise CommandFailed(Ecode.NOT_AN_OBJECT, "the query is not UTF-8") from None
