"""``devconf backup``: a copy of the database of a running server."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from attrs import define, field

from devconf.cli.credentials import Account
from devconf.cli.database import Unsound, inspect
from devconf.cli.loop import run
from devconf.cli.output import Output, Progress
from devconf.cli.private import NewFile
from devconf.cli.session import logging_in, option_json, options_login
from devconf.cli.status import Failed, Status, status_of

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from devconf.ways_in import Login

T = TypeVar("T")

#: Seconds without a byte after which the server counts as gone. It makes the copy before it sends anything of it.
SILENT = 300.0
#: Bytes of an answer that is no backup.
ERROR_MAX = 65536


@click.command()
@click.argument("file")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@option_json
@options_login
def backup(account: Account, file: str, force: bool, as_json: bool) -> None:
    """Write a copy of a running server's database to FILE.

    It takes the role admin. Only you may read FILE, which appears once it is complete and was checked. Nothing waits
    for it.
    """
    out = Output(as_json)
    with NewFile(Path(file), replace=force) as new:
        run(lambda reactor: _download(reactor, account, out, new))
        new.file.flush()
        try:
            found = inspect(new.temporary)
        except Unsound as error:
            raise Failed(f"what the server sent is not a backup: {error}; {file} was not made") from None
        size = new.file.tell()
        new.publish()
    out.result(
        {"file": file, "size": size, "schema": found.revision},
        f"{file} is a backup of {account.url}: {size} bytes, schema {found.revision}",
    )


async def _download(reactor: Any, account: Account, out: Output, new: NewFile) -> None:
    from devconf.ways_in import CannotConnect, RequestFailed, Server

    try:
        server = Server(reactor, account.url)
    except CannotConnect as error:
        raise Failed(error, Status.NOT_CONNECTED) from None
    login = await logging_in(
        account, server.log_in({"user_type": "user", "user_name": account.user, "password": account.password})
    )
    try:
        with out.progress("bytes") as tell:
            await _fetch(reactor, server.url, login, new, tell)
    except RequestFailed as failure:
        if out.as_json:
            out.document(failure.response)
        raise Failed(failure, status_of(failure.response)) from None
    finally:
        with contextlib.suppress(CannotConnect, RequestFailed):
            await server.log_out(login)


async def _fetch(reactor: Any, url: str, login: Login, new: NewFile, tell: Progress) -> None:
    import treq
    from twisted.internet.defer import CancelledError
    from twisted.web.client import Agent
    from twisted.web.http_headers import Headers

    from devconf.ways_in import reason

    agent = Agent(reactor, connectTimeout=SILENT)
    headers = Headers({"authorization": [login.atoken]})
    silence = Silence(reactor)
    try:
        response: Any = await silence.ends(
            treq.get(f"{url}/webapi/v1/backup", headers=headers, agent=agent, unbuffered=True)
        )
        body = Body(new, response, silence, tell)
        await silence.ends(treq.collect(response, body.take))
    except CancelledError:
        if not silence.passed:
            raise  # by Ctrl-C
        raise Failed(f"{url} has sent nothing for {SILENT:g} s", Status.NOT_CONNECTED) from None
    except Exception as error:  # the agent, TLS and the resolver each have kinds of their own
        raise Failed(f"the backup from {url} broke off: {reason(error)}", Status.NOT_CONNECTED) from None
    finally:
        silence.over()
    body.check(url)


class Silence:
    """Cancels what is waited for when nothing is heard for too long.

    :ivar passed: whether it has.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiting: Any = None
        self.passed = False
        self._timer = reactor.callLater(SILENT, self._too_long)

    def ends(self, waiting: Deferred[T]) -> Deferred[T]:
        """Return ``waiting``, to be cancelled."""
        self._waiting = waiting
        return waiting

    def heard(self) -> None:
        """Begin anew."""
        if self._timer.active():
            self._timer.reset(SILENT)

    def over(self) -> None:
        """Leave it at that."""
        if self._timer.active():
            self._timer.cancel()

    def _too_long(self) -> None:
        self.passed = True
        self._waiting.cancel()


@define
class Body:
    """What comes: a backup, or an answer that says why there is none."""

    _new: NewFile
    _response: Any
    _silence: Silence
    _tell: Progress
    _received: int = 0
    _answer: bytearray = field(factory=bytearray)
    _failure: OSError | None = None

    def take(self, chunk: bytes) -> None:
        """Keep the next bytes."""
        self._silence.heard()
        self._received += len(chunk)
        if self._response.code != 200:
            self._answer += chunk[: max(0, ERROR_MAX - len(self._answer))]
        elif self._failure is None:
            try:
                self._new.file.write(chunk)
            except OSError as failure:
                self._failure = failure  # raised here it would only break the connection
            length = self._response.length
            self._tell(self._received, length if isinstance(length, int) else self._received)

    def check(self, url: str) -> None:
        """Make sure that it was a backup, and is in the file.

        :raises Failed: it cannot be written, or is none.
        :raises RequestFailed: the server says why there is none.
        """
        from devconf import wire
        from devconf.errors import CommandFailed
        from devconf.ways_in import RequestFailed

        if self._failure is not None:
            raise Failed(f"the backup cannot be written: {self._failure.strerror}")
        if self._response.code == 200:
            return
        try:
            answer = wire.decode_object(bytes(self._answer))
        except CommandFailed:
            answer = {}
        if answer.get("ecode"):
            raise RequestFailed(answer)
        raise Failed(f"{url} answered with HTTP status {self._response.code}, and no backup")
