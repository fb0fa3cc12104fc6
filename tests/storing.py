"""What the tests of the database share. Files and SQLite are real."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from devconf.model import Role
from devconf.store import Store, accounts, opening
from devconf.store.writer import InlineRunner, IRunner, ThreadRunner

NOON = 1_750_000_000.0


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@contextmanager
def opened(path: Path) -> Iterator[Connection]:
    connection = opening.connect(url(path))
    try:
        yield connection
    finally:
        opening.close(connection)


def open_store(path: Path) -> None:
    """Open the file as the server does, and close it again."""
    store = Store(url(path), InlineRunner(Clock()))
    result = fired(store.open())
    fired(store.close())
    if isinstance(result, Failure):
        result.raiseException()


def fired(waiting: Deferred[Any]) -> Any:
    """What ``waiting`` has fired with: its result, or its failure, which is then taken care of."""
    results: list[Any] = []
    waiting.addBoth(results.append)
    assert results, "it has not fired"
    return results[0]


def users(path: Path) -> list[str]:
    """The names of the accounts that another program reads in the file, in the order of their creation."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as reader:
        return [name for (name,) in reader.execute("SELECT user_name FROM users ORDER BY seq")]


def add_user(connection: Connection, name: str) -> str:
    accounts.insert_user(connection, NOON, f"unid of {name}", name, Role.VIEWER, "hash")
    return name


def fail_with(connection: Connection, error: BaseException) -> None:
    add_user(connection, "half done")
    raise error


def spoil_the_commit(connection: Connection) -> None:
    """Break a foreign key in a way that is found at the commit only."""
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    connection.exec_driver_sql(
        "INSERT INTO subtasks (subtask_id, task_id, dev_unid, created_at) VALUES ('s', 'none', 'none', 0)"
    )


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


class Writes:
    """A store whose functions run when the clock says so, and the commits that it makes."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.runner = InlineRunner(self.clock)
        self.store = Store(url(path), self.runner)
        self.commits = 0
        self.connection: Connection | None = None
        assert fired(self.store.open()) is None
        assert fired(self.run(self._look)) is None
        self.commits = 0

    def _look(self, connection: Connection) -> None:
        self.connection = connection
        sqlite: Any = connection.connection.driver_connection
        sqlite.set_trace_callback(self._traced)

    def _traced(self, statement: str) -> None:
        self.commits += statement == "COMMIT"

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run ``function`` alone."""
        waiting: Deferred[Any] = self.store.run(function, *args)
        self.clock.advance(0)
        return waiting


class Threaded:
    """A store whose functions run in a thread; :meth:`hold` makes it wait, so that others come together."""

    def __init__(self, reactor: IReactorFromThreads, path: Path) -> None:
        self.runner: IRunner = ThreadRunner(reactor)
        self.store = Store(url(path), self.runner)

    def hold(self) -> threading.Event:
        """Make the thread wait until the event is set; what is submitted meanwhile waits together."""
        reached, gate = threading.Event(), threading.Event()

        def wait(_connection: Connection) -> None:
            reached.set()
            gate.wait(60)

        self.store.run(wait)
        assert reached.wait(60)
        return gate
