"""The disk and the thread of the store: real SQLite files, on simulated time, that survive what a power cut leaves.

What SQLite promises with a write-ahead log and ``synchronous=FULL`` is modelled exactly:

* A commit that has *returned* is on the disk: it survives.
* One that has not returned may be there or not, whole. Its pages may have reached the disk in any order, any of them
  or none; their checksums tell SQLite which of it counts.
* While the log is moved into the database, any of the database's pages may have been written or not; the log is
  whole until the database is on the disk.

A commit returns ``latency`` seconds after it has begun. In between a crash decides at random what the disk has.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from attrs import frozen
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from devconf.store import opening, writer
from devconf.store.writer import IRunner, Job
from tests.simulation.timeline import ServerClock, Timeline

SECTOR = 512
#: What the disk says when it is full; errors with this text are expected in the log.
FULL = "database or disk is full"
#: What the server makes of it.
NO_ROOM = "the disk is full: changes are refused"
#: What it tells those who wanted something written, its own start among them.
REFUSED = "the disk of the server is full, and nothing was changed"
#: What SQLite says of a statement that was broken off.
INTERRUPTED = "interrupted"
#: All of these.
ON_PURPOSE = (FULL, NO_ROOM, REFUSED, INTERRUPTED)


class Ack(NamedTuple):
    """An acknowledgement that was written.

    :ivar epoch: of the connection it came on; :ivar current: of the device's newest connection then.
    """

    dev_unid: str
    task_id: str
    subtask_id: str
    rev: int
    ecode: int
    epoch: int
    current: int


class Settling(NamedTuple):
    """A command that was settled; :ivar tick: when the commit returned."""

    command_id: str
    ecode: int
    tick: int


@frozen
class Image:
    """What is on the disk."""

    database: bytes
    log: bytes

    @classmethod
    def read(cls, path: Path) -> Image:
        """Return what the files of the database at ``path`` hold now."""
        log = Path(f"{path}-wal")
        return cls(path.read_bytes(), log.read_bytes() if log.exists() else b"")

    def write(self, path: Path) -> None:
        """Let the files hold this, as after a power cut: what was only in memory is gone."""
        Path(f"{path}-shm").unlink(missing_ok=True)
        path.write_bytes(self.database)
        log = Path(f"{path}-wal")
        if self.log:
            log.write_bytes(self.log)
        else:
            log.unlink(missing_ok=True)


def torn(before: bytes, after: bytes, random: Random) -> bytes:
    """Return ``before`` with any of the sectors that ``after`` has instead."""
    found = bytearray(before.ljust(len(after), b"\0"))
    for start in range(0, len(after), SECTOR):
        if random.random() < 0.5:
            found[start : start + SECTOR] = after[start : start + SECTOR]
    return bytes(found)


# What is written into the rows is noted beside them, so that checkers see it when it happens.
_NOTES = (
    "CREATE TEMP TABLE sim_acks (dev, task, subtask, rev, ecode, epoch, current)",
    "CREATE TEMP TABLE sim_settled (command_id, ecode)",
    "CREATE TEMP TABLE sim_completed (command_id)",
    "CREATE TEMP TRIGGER sim_complete AFTER UPDATE OF completed_at ON main.commands "
    "WHEN NEW.completed_at IS NOT NULL BEGIN INSERT INTO sim_completed VALUES (NEW.command_id); END",
    "CREATE TEMP TRIGGER sim_ack AFTER UPDATE OF acked_rev ON main.orders WHEN NEW.acked_rev > OLD.acked_rev BEGIN "
    "INSERT INTO sim_acks SELECT NEW.dev_unid, NEW.task_id, NEW.subtask_id, NEW.acked_rev, NEW.ecode, NEW.epoch, "
    "epoch FROM main.devices WHERE dev_unid = NEW.dev_unid; END",
    "CREATE TEMP TRIGGER sim_settle AFTER UPDATE OF settled_at ON main.commands WHEN NEW.settled_at IS NOT NULL BEGIN "
    "INSERT INTO sim_settled VALUES (NEW.command_id, NEW.ecode); END",
)


@implementer(IRunner)
class SimulatedThread:
    """Runs the store's functions as its thread does: one batch at a time, and what comes meanwhile is the next.

    :ivar latency: returns how many seconds the next commit takes.
    :ivar fail: how the next batches fail: ``commit``, or ``statement`` after so many tens of SQLite's instructions.
    :ivar acks: and :ivar settled: what was written, as it was committed.
    """

    def __init__(
        self, timeline: Timeline, clock: ServerClock, path: Path, latency: Callable[[], float], seen: Counter[str]
    ) -> None:
        self.latency = latency
        self.fail: deque[tuple[str, int]] = deque()
        self.acks: list[Ack] = []
        self.settled: list[Settling] = []
        self.completed: list[tuple[str, float]] = []
        self._timeline = timeline
        self._clock = clock
        self._path = path
        self._seen = seen
        self._waiting: list[Job] = []
        self._busy = False
        self._stopped: Deferred[None] | None = None
        self._connection: Connection | None = None
        self._broken: Callable[[Failure], None] | None = None
        self._scrub = False
        # While a commit is under way: what the disk had before it, and before the log was emptied.
        self._before: Image | None = None
        self._moving: Image | None = None

    # -- IRunner

    def start(self, connect: Callable[[], Connection], broken: Callable[[Failure], None]) -> Deferred[None]:
        """See :meth:`IRunner.start`."""
        opened: Deferred[None] = Deferred()
        self._broken = broken
        try:
            self._connection = connect()
        except Exception:
            opened.errback(Failure())
            return opened
        for statement in _NOTES:
            self._sqlite.execute(statement)
        opened.callback(None)
        return opened

    def submit(self, job: Job) -> None:
        """See :meth:`IRunner.submit`."""
        if self._stopped is None:
            self._waiting.append(job)
            self._wake()

    def checkpoint(self) -> None:
        """See :meth:`IRunner.checkpoint`."""
        self._scrub = True
        job = Job(lambda _connection: None, ())
        job.outcome.addErrback(lambda _failure: None)
        self.submit(job)

    def stop(self) -> Deferred[None]:
        """See :meth:`IRunner.stop`."""
        self._stopped = Deferred()
        self._wake()
        return self._stopped

    # -- the thread

    @property
    def _sqlite(self) -> Any:
        assert self._connection is not None
        return self._connection.connection.driver_connection

    def _wake(self) -> None:
        if self._busy:
            return
        if self._waiting and self._connection is not None:
            self._busy = True
            self._clock.callLater(0, self._begin)
        elif self._stopped is not None and not self._stopped.called:
            if self._connection is not None:
                opening.close(self._connection)
                self._connection = None
            self._clock.callLater(0, self._stopped.callback, None)

    def _begin(self) -> None:
        jobs, self._waiting = self._waiting[: writer.BATCH], self._waiting[writer.BATCH :]
        if self._connection is None or not jobs:
            self._busy = False
            return
        latency = self.latency()
        if latency:
            self._before = Image.read(self._path)
            self._seen["store: slow"] += 1
        results = self._run(jobs)
        self._clock.callLater(latency, self._returned, jobs, results)

    def _run(self, jobs: list[Job]) -> list[Any]:
        assert self._connection is not None
        kind, after = self.fail.popleft() if self.fail else ("", 0)
        with self._failing(kind, after):
            results = writer.run_batch(self._connection, jobs)
        if kind and any(isinstance(result, Failure) and _is_injected(result) for result in results):
            self._seen[f"store: {kind} fails"] += 1
        if self._scrub:
            if self._before is not None:
                self._moving = Image.read(self._path)
            self._scrub = not writer.checkpoint(self._connection)
        self._seen["events: commit"] += 1
        return results

    @contextmanager
    def _failing(self, kind: str, after: int) -> Iterator[None]:
        if kind == "statement":
            # As when the disk is full in the middle of a statement: SQLite gives up the whole transaction.
            calls = count()
            self._sqlite.set_progress_handler(lambda: next(calls) == after, 10)
        elif kind == "commit":
            _refused.add(id(self._connection))
        try:
            yield
        finally:
            self._sqlite.set_progress_handler(None, 0)
            _refused.discard(id(self._connection))

    def _returned(self, jobs: list[Job], results: list[Any]) -> None:
        self._before = self._moving = None
        self._note()
        # By callFromThread: another turn of the reactor, while the thread goes on.
        self._clock.callLater(0, self._deliver, jobs, results)
        self._busy = False
        self._wake()

    def _note(self) -> None:
        if self._connection is None:
            return
        acks = self._sqlite.execute("SELECT * FROM sim_acks").fetchall()
        settled = self._sqlite.execute("SELECT * FROM sim_settled").fetchall()
        completed = self._sqlite.execute("SELECT * FROM sim_completed").fetchall()
        if completed:
            self.completed += [(row[0], self._timeline.now) for row in completed]
            self._sqlite.execute("DELETE FROM sim_completed")
        if acks:
            self.acks += [Ack(*row) for row in acks]
            self._sqlite.execute("DELETE FROM sim_acks")
        if settled:
            self.settled += [Settling(row[0], row[1], self._timeline.ticks) for row in settled]
            self._sqlite.execute("DELETE FROM sim_settled")

    def _deliver(self, jobs: list[Job], results: list[Any]) -> None:
        self._broken = writer.deliver(jobs, results, self._broken)

    # -- crashing, and looking on

    @property
    def open(self) -> bool:
        """Whether the database is open."""
        return self._connection is not None

    @property
    def committing(self) -> bool:
        """Whether a commit has begun and has not returned."""
        return self._before is not None

    @property
    def moving(self) -> bool:
        """Whether the log is being moved into the database."""
        return self._moving is not None

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of ``statement``, as they are stored now."""
        return list(self._sqlite.execute(statement).fetchall())

    def power_off(self, random: Random) -> Image:
        """Close the files as they are, and return what the disk has after a power cut now."""
        after = Image.read(self._path)
        left = after
        if self._before is not None:
            left = self._undecided(self._before, after, random)
        with suppress(sqlite3.Error):
            if self._connection is not None:
                opening.close(self._connection)
        self._connection = None
        return left

    def _undecided(self, before: Image, after: Image, random: Random) -> Image:
        moving = self._moving
        kinds = ["lost", "torn", "kept"] if moving is None else ["lost", "kept", "half moved"]
        kind = random.choice(kinds)
        self._seen[f"power cut: commit under way is {kind}"] += 1
        if kind == "kept":
            return after
        if kind == "lost":
            return before
        if moving is not None:
            return Image(torn(moving.database, after.database, random), moving.log)
        return Image(before.database, torn(before.log, after.log, random))


def _is_injected(failure: Failure) -> bool:
    return any(text in str(failure.value) for text in (FULL, INTERRUPTED))


#: Connections whose next commit the disk refuses.
_refused: set[int] = set()


def refuse_commit(connection: Connection) -> None:
    """Fail the commit of ``connection`` if the disk is full. It listens on the engine."""
    if id(connection) in _refused:
        raise OperationalError("COMMIT", None, sqlite3.OperationalError(FULL))
