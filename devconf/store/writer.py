"""The one connection to the database, and the thread that owns it.

Functions of a connection that wait together run in one transaction, each in a savepoint of its own, and are
committed at once (*group commit*): one ``fsync`` for all of them. A Deferred fires after the commit.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from attrs import define, field, frozen
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from devconf.store.opening import BUSY_TIMEOUT, close

#: At most so many functions share a commit, so that the first of them does not wait for ever.
BATCH = 512


@frozen
class Job:
    """A function of a connection that waits for its turn, and the Deferred its outcome goes to."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    outcome: Deferred[Any] = field(factory=Deferred)


def run_batch(connection: Connection, jobs: Sequence[Job]) -> list[Any]:
    """Run ``jobs`` in one transaction and commit it.

    :returns: for each job its result, or the ``Failure`` it ended with; a failing commit fails all of them.
    """
    sqlite: Any = connection.connection.driver_connection
    try:
        with connection.begin():
            return [_run_job(connection, sqlite, job) for job in jobs]
    except BaseException:
        failure = Failure()
        # After a commit that failed the transaction is still there, and no other could begin.
        with contextlib.suppress(sqlite3.Error):
            sqlite.rollback()
        return [failure] * len(jobs)


def _run_job(connection: Connection, sqlite: Any, job: Job) -> Any:
    # Past SQLAlchemy, which compiles these anew each time: that takes longer than most of what is between them.
    sqlite.execute("SAVEPOINT job").close()
    try:
        result = job.function(connection, *job.args)
        sqlite.execute("RELEASE job").close()
    except BaseException:
        if not sqlite.in_transaction:
            # SQLite has given up the whole of it, as it does when the disk is full: what the others did is lost too,
            # and what came next would be committed piece by piece.
            raise
        failure = Failure()
        sqlite.execute("ROLLBACK TO job").close()
        sqlite.execute("RELEASE job").close()
        return failure
    return result


_FATAL = ("disk i/o error", "malformed", "not a database", "corrupt", "readonly database")


def is_fatal(result: Any) -> bool:
    """Tell whether ``result`` says that the database can no longer be trusted: an I/O error, or corruption."""
    error = result.value if isinstance(result, Failure) else None
    text = str(error.orig if isinstance(error, DatabaseError) else error).lower()
    return isinstance(error, (DatabaseError, sqlite3.Error)) and any(word in text for word in _FATAL)


class IRunner(Interface):
    """How the store runs its functions: a seam (``docs/design.md``)."""

    def start(connect: Callable[[], Connection], broken: Callable[[Failure], None]) -> Deferred[None]:
        """Open the connection where functions will run.

        :param broken: called in the reactor, once, when the database can no longer be trusted.
        :returns: fires when it is open, or fails as ``connect`` did.
        """

    def submit(job: Job) -> None:
        """Run ``job`` in its turn."""

    def checkpoint() -> None:
        """Move the log into the database and empty it, after what has been submitted."""

    def stop() -> Deferred[None]:
        """Close the connection after what has been submitted; fires when it is closed."""


@implementer(IRunner)
@define
class ThreadRunner:
    """Runs the store's functions in a thread of their own; answers go back by one call per batch."""

    _reactor: IReactorFromThreads
    _queue: SimpleQueue[Job | None] = field(factory=SimpleQueue, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _broken: Callable[[Failure], None] | None = field(default=None, init=False)
    _checkpoint: bool = field(default=False, init=False)

    def start(self, connect: Callable[[], Connection], broken: Callable[[Failure], None]) -> Deferred[None]:
        """See :meth:`IRunner.start`."""
        opened: Deferred[None] = Deferred()
        self._broken = broken
        self._thread = threading.Thread(target=self._run, args=(connect, opened), name="devconf store", daemon=True)
        self._thread.start()
        return opened

    def submit(self, job: Job) -> None:
        """See :meth:`IRunner.submit`."""
        self._queue.put(job)

    def checkpoint(self) -> None:
        """See :meth:`IRunner.checkpoint`."""
        self._checkpoint = True
        self.submit(Job(lambda _connection: None, ()))

    def stop(self) -> Deferred[None]:
        """See :meth:`IRunner.stop`."""
        stopped: Deferred[None] = Deferred()
        thread, self._thread = self._thread, None
        if thread is None:
            stopped.callback(None)
            return stopped
        self._queue.put(None)

        def join() -> None:
            thread.join()
            self._reactor.callFromThread(stopped.callback, None)

        threading.Thread(target=join, daemon=True).start()
        return stopped

    def _run(self, connect: Callable[[], Connection], opened: Deferred[None]) -> None:
        try:
            connection = connect()
        except BaseException:
            self._reactor.callFromThread(opened.errback, Failure())
            return
        self._reactor.callFromThread(opened.callback, None)
        more = True
        while more:
            jobs, more = self._take()
            if jobs:
                results = run_batch(connection, jobs)
                self._reactor.callFromThread(self._deliver, jobs, results)
            if self._checkpoint:
                self._checkpoint = False
                if not checkpoint(connection):
                    self._checkpoint = True
        close(connection)

    def _take(self) -> tuple[list[Job], bool]:
        jobs: list[Job] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == BATCH:
                return jobs, True
            try:
                job = self._queue.get_nowait()
            except Empty:
                return jobs, True
        return jobs, False

    def _deliver(self, jobs: list[Job], results: list[Any]) -> None:
        self._broken = deliver(jobs, results, self._broken)


@implementer(IRunner)
@define
class InlineRunner:
    """Runs the store's functions in the caller's thread; the ``clock`` forms the batches. For tests and simulations.

    :ivar latency: seconds from running a batch to its answers, which come in another step, as they do from a thread.
    """

    _clock: IReactorTime
    latency: float = 0.0
    _waiting: list[Job] = field(factory=list, init=False)
    _delivering: deque[tuple[list[Job], list[Any]]] = field(factory=deque, init=False)
    _killed: bool = field(default=False, init=False)
    _connection: Connection | None = field(default=None, init=False)
    _broken: Callable[[Failure], None] | None = field(default=None, init=False)
    _checkpoint: bool = field(default=False, init=False)

    def start(self, connect: Callable[[], Connection], broken: Callable[[Failure], None]) -> Deferred[None]:
        """See :meth:`IRunner.start`."""
        opened: Deferred[None] = Deferred()
        self._broken = broken
        try:
            self._connection = connect()
        except Exception:
            opened.errback(Failure())
        else:
            opened.callback(None)
        return opened

    def submit(self, job: Job) -> None:
        """See :meth:`IRunner.submit`."""
        if not self._waiting and not self._killed:
            self._clock.callLater(0, self.flush)
        self._waiting.append(job)

    def checkpoint(self) -> None:
        """See :meth:`IRunner.checkpoint`."""
        self._checkpoint = True
        self.submit(Job(lambda _connection: None, ()))

    def kill(self) -> None:
        """End as a killed process would: what waits is never run, nor what is submitted later."""
        self._killed = True
        if self._connection is not None:
            close(self._connection)
            self._connection = None

    def flush(self) -> None:
        """Run what waits, as one batch."""
        jobs, self._waiting = self._waiting, []
        if jobs and self._connection is not None:
            results = run_batch(self._connection, jobs)
            if self._checkpoint:
                self._checkpoint = not checkpoint(self._connection)
            self._delivering.append((jobs, results))
            self._clock.callLater(self.latency, self._deliver)

    def _deliver(self) -> None:
        if self._delivering and not self._killed:
            jobs, results = self._delivering.popleft()
            self._broken = deliver(jobs, results, self._broken)

    def stop(self) -> Deferred[None]:
        """See :meth:`IRunner.stop`."""
        while self._waiting or self._delivering:
            self.flush()
            self._deliver()
        if self._connection is not None:
            close(self._connection)
            self._connection = None
        stopped: Deferred[None] = Deferred()
        stopped.callback(None)
        return stopped


def checkpoint(connection: Connection) -> bool:
    """Move the log into the database and empty it.

    :returns: whether it is empty now. While another program reads, it cannot be: try again later.
    """
    # Past SQLAlchemy, which would begin a transaction first, and in one there is no checkpoint.
    sqlite: Any = connection.connection.driver_connection
    try:
        sqlite.execute("PRAGMA busy_timeout = 0").close()  # nobody is to wait for that program
        busy, _, _ = sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error:
        return False  # a database that is broken fails the next commit, which says so
    finally:
        sqlite.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}").close()
    return not busy


def deliver(
    jobs: list[Job], results: list[Any], broken: Callable[[Failure], None] | None
) -> Callable[[Failure], None] | None:
    """Fire the Deferreds of ``jobs``; of a database that broke, tell ``broken``, once.

    :returns: ``broken`` if it has still to be told.
    """
    fatal = next((result for result in results if is_fatal(result)), None)
    if fatal is not None and broken is not None:
        broken(fatal)
        broken = None
    for job, result in zip(jobs, results, strict=True):
        job.outcome.callback(result)
    return broken
