"""What is stored, and the only way to it.

A method of the store is one transaction, written as a plain function of a connection in the module of its subject
(:mod:`~devconf.store.tasks`, :mod:`~devconf.store.orders` and so on) and run by :meth:`Store.run`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf.store import migrations
from devconf.store.opening import close, connect
from devconf.store.writer import IRunner, Job

P = ParamSpec("P")
T = TypeVar("T")


@define
class Store:
    """The database of one server.

    :ivar url: its SQLAlchemy URL.
    """

    _log = Logger()

    url: str
    _runner: IRunner
    _broken: Deferred[None] = field(factory=Deferred, init=False)

    def open(self) -> Deferred[None]:
        """Open the database and bring its schema up to date.

        :returns: fires when it is open; fails with ``StartupError``.
        """
        return self._runner.start(self._connect, self._on_broken)

    def _connect(self) -> Connection:
        connection = connect(self.url)
        try:
            migrations.upgrade(connection)
        except BaseException:
            close(connection)
            raise
        return connection

    def _on_broken(self, failure: Failure) -> None:
        self._log.critical("the database failed: {error}", error=failure.getErrorMessage())
        self._broken.errback(failure)

    def when_broken(self) -> Deferred[None]:
        """Return what fails once the database can no longer be trusted (I/O error, corruption)."""
        return self._broken

    def run(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run ``function(connection, *args)`` as one transaction.

        :returns: fires with its result once it is committed; fails as it failed, and then nothing of it is stored.
        """
        if kwargs:
            raise TypeError("the store's functions take positional arguments only")
        job = Job(function, args)
        self._runner.submit(job)
        return job.outcome

    def scrub(self) -> None:
        """Let what has been replaced or deleted vanish from the disk, its log included."""
        self._runner.checkpoint()

    def close(self) -> Deferred[None]:
        """Close the database after what has been asked of it; fires when it is closed."""
        return self._runner.stop()
