"""The one connection to the database, and the thread that owns it.

Functions of a connection that wait together run in one transaction, each in a savepoint of its own, and are
committed at once (*group commit*): one ``fsync`` for all of them. A Deferred fires after the commit.
"""

from __future__ import annotations

import contextlib
import os
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

from devconf.errors import Ecode, StoreFailed
from devconf.store.opening import BUSY_TIMEOUT, close

#: At most so many functions share a commit, so that the first of them does not wait for ever.
BATCH = 512
#: Bytes by which the log grows until it is moved into the database.
LOG_MAX = 4 * 2**20


@frozen
class Job:
    """A function of a connection that waits for its turn, and the Deferred its outcome goes to."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    outcome: Deferred[Any] = field(factory=Deferred)


def _nothing() -> Job:
    """Return a job that only lets a batch be run."""
    job = Job(lambda _connection: None, ())
    job.outcome.addErrback(lambda _failure: None)
    return job


def run_batch(connection: Connection, jobs: Sequence[Job]) -> list[Any]:
    """Run ``jobs`` in one transaction and commit it.

    :returns: for each job its result, or the ``Failure`` it ended with; a failing commit fails all of them, unless
        there was no room: then each is tried alone.
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
    if len(jobs) > 1 and _says(failure.value, _FULL):
        # Those that only read, or need little room, must not fail with the others.
        return [run_batch(connection, [job])[0] for job in jobs]
    return [failure] * len(jobs)


def _run_job(connection: Connection, sqlite: Any, job: Job) -> Any:
    # Past SQLAlchemy, which compiles these anew each time: that takes longer than most of what is between them.
    sqlite.execute("SAVEPOINT job").close()
    try:
        result = job.function(connection, *job.args)
    except BaseException:
        if not sqlite.in_transaction:
            # SQLite has given up the whole of it, as it does when the disk is full: what the others did is lost too,
            # and what came next would be committed piece by piece.
            raise
        failure = Failure()
        sqlite.execute("ROLLBACK TO job").close()
        sqlite.execute("RELEASE job").close()
        return failure
    # If this fails the savepoint may be gone all the same: then all of the batch fails.
    sqlite.execute("RELEASE job").close()
    return result


_FATAL = ("disk i/o error", "malformed", "not a database", "corrupt", "readonly database")
_FULL = ("disk is full",)


def _says(error: BaseException | None, words: tuple[str, ...]) -> bool:
    if not isinstance(error, DatabaseError | sqlite3.Error):
        return False
    text = str(getattr(error, "orig", error)).lower()
    return any(word in text for word in words)


def is_fatal(result: Any) -> bool:
    """Tell whether ``result`` says that the database can no longer be trusted: an I/O error, or corruption."""
    return isinstance(result, Failure) and _says(result.value, _FATAL)


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
        self.submit(_nothing())

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
        log = Log(connection)
        fatal: Failure | None = None
        more = True
        while more:
            jobs, more = self._take()
            if jobs:
                # What comes after an I/O error proves nothing, even if it succeeds.
                results = [fatal] * len(jobs) if fatal is not None else run_batch(connection, jobs)
                self._reactor.callFromThread(self._deliver, jobs, results)
                fatal = fatal or next((result for result in results if is_fatal(result)), None)
            if fatal is None:
                fatal = self._tidy(log)
        close(connection)

    def _tidy(self, log: Log) -> Failure | None:
        asked = self._checkpoint
        if asked:
            self._checkpoint = False
        try:
            if log.tidy(asked):
                self._checkpoint = True
        except (sqlite3.Error, OSError):
            failure = Failure()
            self._reactor.callFromThread(self._break, failure)
            return failure
        return None

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

    def _break(self, failure: Failure) -> None:
        if self._broken is not None:
            self._broken(failure)
            self._broken = None


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
    _log: Log | None = field(default=None, init=False)
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
            self._log = Log(self._connection)
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
        self.submit(_nothing())

    def kill(self) -> None:
        """End as a killed process would: what waits is never run, nor what is submitted later."""
        self._killed = True
        if self._connection is not None:
            close(self._connection)
            self._connection = None

    def flush(self) -> None:
        """Run what waits, as one batch."""
        jobs, self._waiting = self._waiting, []
        if jobs and self._connection is not None and self._log is not None:
            results = run_batch(self._connection, jobs)
            self._checkpoint = self._log.tidy(self._checkpoint)
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


@define
class Log:
    """The write-ahead log of ``connection``, which is emptied now and then."""

    _connection: Connection
    _limit: int = field(default=LOG_MAX, init=False)

    def tidy(self, asked: bool) -> bool:
        """Empty it if that was ``asked``, or if it has grown long.

        :returns: whether what was asked has still to be done.
        :raises sqlite3.Error: the database can no longer be trusted.
        """
        size = self._size()
        if not asked and size < self._limit:
            return False
        empty = checkpoint(self._connection)
        # While another program reads, or the disk is full, it grows on.
        self._limit = LOG_MAX if empty else size + LOG_MAX
        return asked and not empty

    def _size(self) -> int:
        try:
            return os.stat(f"{self._connection.engine.url.database}-wal").st_size
        except FileNotFoundError:
            return 0


def checkpoint(connection: Connection) -> bool:
    """Move the log into the database and empty it.

    :returns: whether it is empty now. While another program reads, it cannot be, nor when the disk is full: try again
        later.
    :raises sqlite3.Error: the database can no longer be trusted.
    """
    # Past SQLAlchemy, which would begin a transaction first, and in one there is no checkpoint.
    sqlite: Any = connection.connection.driver_connection
    try:
        sqlite.execute("PRAGMA busy_timeout = 0").close()  # nobody is to wait for that program
        busy, _, _ = sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        if _says(error, _FATAL):
            raise
        return False
    finally:
        sqlite.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}").close()
    return not busy


def deliver(
    jobs: list[Job], results: list[Any], broken: Callable[[Failure], None] | None
) -> Callable[[Failure], None] | None:
    """Fire the Deferreds of ``jobs``; of a database that broke, tell ``broken``, once.

    :param broken: None: it has broken before, and nothing of it is believed any more.
    :returns: ``broken`` if it has still to be told.
    """
    fatal = next((result for result in results if is_fatal(result)), None)
    if fatal is not None and broken is not None:
        broken(fatal)
        broken = None
    for job, result in zip(jobs, results, strict=True):
        job.outcome.callback(result if broken is not None and not _is_full(result) else _refused(broken is None))
    return broken


def _is_full(result: Any) -> bool:
    return isinstance(result, Failure) and _says(result.value, _FULL)


def _refused(broken: bool) -> Failure:
    if broken:
        return Failure(
            StoreFailed(
                Ecode.STOPPING,
                "the server's database failed, and the server stops; whether this was done shows when it runs again",
            )
        )
    return Failure(
        StoreFailed(Ecode.DISK_FULL, "the disk of the server is full, and nothing was changed; make room and ask again")
    )
