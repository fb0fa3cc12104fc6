"""What is stored, and the only way to it.

A method of the store is one transaction, written as a plain function of a connection in the module of its subject
(:mod:`~devconf.store.tasks`, :mod:`~devconf.store.orders` and so on) and run by :meth:`Store.run`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf.errors import Ecode, StoreFailed
from devconf.store import migrations
from devconf.store.opening import close, connect, note_made, sqlite_path
from devconf.store.writer import IRunner, Job

P = ParamSpec("P")
T = TypeVar("T")


@define
class Store:
    """The database of one server.

    :ivar url: its SQLAlchemy URL.
    :ivar full: whether the disk is full, so that changes are refused.
    :ivar waiting: transactions whose commit is awaited.
    """

    _log = Logger()

    url: str
    _runner: IRunner
    full: bool = field(default=False, init=False)
    waiting: int = field(default=0, init=False)
    _broken: Deferred[None] = field(factory=Deferred, init=False)
    _closed: bool = field(default=False, init=False)

    def open(self) -> Deferred[None]:
        """Open the database and bring its schema up to date.

        :returns: fires when it is open; fails with ``StartupError``.
        """
        return self._runner.start(self._connect, self._on_broken)

    def _connect(self) -> Connection:
        connection = connect(self.url)
        try:
            migrations.upgrade(connection)
            note_made(connection)
        except BaseException:
            close(connection)
            raise
        return connection

    def _on_broken(self, failure: Failure) -> None:
        error = getattr(failure.value, "orig", failure.value)
        self._broken.errback(
            StoreFailed(
                Ecode.STOPPING,
                f"the database {sqlite_path(self.url)} failed ({error}); look at the disk and at the system's log, and "
                "start again, with a backup (devconf restore) if it is damaged",
            )
        )

    def when_broken(self) -> Deferred[None]:
        """Return what fails with ``StoreFailed`` once the database can no longer be trusted (I/O error, corruption)."""
        return self._broken

    def run(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run ``function(connection, *args)`` as one transaction.

        :returns: fires with its result once it is committed; fails as it failed, and then nothing of it is stored. It
            fails with ``StoreFailed`` if there is no room, if the database has failed (of that commit nobody knows), or
            if it was asked after :meth:`close`.
        """
        if kwargs:
            raise TypeError("the store's functions take positional arguments only")
        if self._closed:
            return fail(
                StoreFailed(Ecode.STOPPING, "the server has stopped, and nothing was done; ask it when it runs")
            )
        job = Job(_noting, (function, *args)) if self.full else Job(function, args)
        self.waiting += 1
        self._runner.submit(job)
        return job.outcome.addCallbacks(self._done, self._failed, callbackArgs=(self.full,))

    def _done(self, result: Any, noted: bool) -> Any:
        self.waiting -= 1
        if not noted:
            return result
        result, wrote = result
        if wrote and self.full:
            self.full = False
            self._log.info("there is room on the disk again: changes are taken")
        return result

    def _failed(self, failure: Failure) -> Failure:
        self.waiting -= 1
        error = failure.value
        if isinstance(error, StoreFailed) and error.ecode is Ecode.DISK_FULL and not self.full:
            self.full = True
            self._log.critical(
                "the disk is full: changes are refused until there is room for {path}", path=sqlite_path(self.url)
            )
        return failure

    def scrub(self) -> None:
        """Let what has been replaced or deleted vanish from the disk, its log included."""
        self._runner.checkpoint()

    def close(self) -> Deferred[None]:
        """Close the database after what has been asked of it; fires when it is closed."""
        self._closed = True
        return self._runner.stop()


def _noting(connection: Connection, function: Callable[..., Any], *args: Any) -> tuple[Any, bool]:
    """Run ``function``; return its result, and whether it has written anything."""
    sqlite: Any = connection.connection.driver_connection
    before = sqlite.total_changes
    result = function(connection, *args)
    return result, sqlite.total_changes != before


def complain(log: Logger, failure: Failure, what: str) -> None:
    """Log ``failure`` as ``what``, unless it is one that the store has told of once for all (``StoreFailed``)."""
    if not failure.check(StoreFailed):
        log.failure(what, failure)
