"""How functions share a commit, and what they are told when one of them, or the database, fails.

They run in the caller's thread, and a clock says when.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, OperationalError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from devconf.errors import CommandFailed, Ecode, StoreFailed
from devconf.store import accounts, confs, writer
from devconf.store.writer import LOG_MAX
from tests.storing import (
    NOON,
    Writes,
    add_user,
    fail_with,
    fired,
    spoil_the_commit,
    users,
)


@pytest.fixture
def writes(database: Path) -> Iterator[Writes]:
    writes = Writes(database)
    yield writes
    assert fired(writes.store.close()) is None


def test_nothing_fires_before_its_commit(writes: Writes, database: Path) -> None:
    seen: list[list[str]] = []
    waiting = writes.store.run(add_user, "alice")
    waiting.addCallback(lambda _: seen.append(users(database)))
    assert (seen, users(database)) == ([], [])
    writes.clock.advance(0)
    assert seen == [["alice"]]


def test_functions_that_wait_together_share_one_commit(writes: Writes, database: Path) -> None:
    names = [f"user {number}" for number in range(100)]
    waiting = [writes.store.run(add_user, name) for name in names]
    writes.clock.advance(0)
    assert [fired(each) for each in waiting] == names
    assert users(database) == names
    assert writes.commits == 1
    fired(writes.run(add_user, "one more"))
    assert writes.commits == 2


def test_a_function_sees_what_those_before_it_in_the_batch_did(writes: Writes) -> None:
    writes.store.run(add_user, "alice")
    found = writes.store.run(accounts.find_user, "alice")
    writes.clock.advance(0)
    assert fired(found).user_name == "alice"


@pytest.mark.parametrize("error", [CommandFailed(Ecode.IN_USE, "no"), KeyError("lost")], ids=["refusal", "bug"])
def test_one_that_raises_is_rolled_back_alone(writes: Writes, database: Path, error: Exception) -> None:
    waiting: list[Deferred[Any]] = [
        writes.store.run(add_user, "alice"),
        writes.store.run(fail_with, error),
        writes.store.run(add_user, "carol"),
    ]
    writes.clock.advance(0)
    alice, failed, carol = (fired(each) for each in waiting)
    assert (alice, failed.value, carol) == ("alice", error, "carol")
    assert users(database) == ["alice", "carol"]
    assert writes.commits == 1


def test_an_error_of_the_database_is_rolled_back_alone(writes: Writes, database: Path) -> None:
    def wrong(connection: Connection) -> None:
        add_user(connection, "half done")
        connection.exec_driver_sql("SELECT * FROM nowhere")

    waiting: list[Deferred[Any]] = [
        writes.store.run(add_user, "alice"),
        writes.store.run(wrong),
        writes.store.run(add_user, "carol"),
    ]
    writes.clock.advance(0)
    alice, failed, carol = (fired(each) for each in waiting)
    assert (alice, carol) == ("alice", "carol")
    assert failed.check(OperationalError)
    assert users(database) == ["alice", "carol"]


def test_a_failing_commit_fails_all(writes: Writes, database: Path) -> None:
    waiting: list[Deferred[Any]] = [
        writes.store.run(add_user, "alice"),
        writes.store.run(fail_with, KeyError("its own")),
        writes.store.run(spoil_the_commit),
        writes.store.run(add_user, "carol"),
    ]
    writes.clock.advance(0)
    assert [fired(each).type for each in waiting] == [IntegrityError] * 4
    assert users(database) == []
    assert fired(writes.run(add_user, "next")) == "next"
    assert users(database) == ["next"]


def end_the_transaction(connection: Connection) -> None:
    """Fail so that SQLite gives up the whole transaction, as it does by itself when the disk is full."""
    add_user(connection, "bob")
    connection.exec_driver_sql(
        "INSERT OR ROLLBACK INTO users (user_unid, user_name, role, password_hash, created_at)"
        " VALUES ('unid of bob', 'bob', 1, '', 0)"
    )


def test_when_the_transaction_is_lost_nothing_is_stored_and_all_fail(writes: Writes, database: Path) -> None:
    waiting: list[Deferred[Any]] = [
        writes.store.run(add_user, "alice"),
        writes.store.run(end_the_transaction),
        writes.store.run(add_user, "carol"),
        writes.store.run(add_user, "dave"),
    ]
    writes.clock.advance(0)
    assert [isinstance(fired(each), Failure) for each in waiting] == [True] * 4
    assert users(database) == []
    assert fired(writes.run(add_user, "next")) == "next"
    assert users(database) == ["next"]


def test_keyword_arguments_are_refused_at_once(writes: Writes) -> None:
    with pytest.raises(TypeError, match="the store's functions take positional arguments only"):
        writes.store.run(accounts.find_user, user_name="alice")


def test_closing_runs_what_waits(database: Path) -> None:
    writes = Writes(database)
    waiting = writes.store.run(add_user, "alice")
    closed = writes.store.close()
    assert fired(waiting) == "alice"
    assert fired(closed) is None
    assert users(database) == ["alice"]


def test_a_database_that_breaks_is_told_once(writes: Writes, database: Path) -> None:
    def broken(_connection: Connection) -> None:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))

    told: list[Failure] = []
    writes.store.when_broken().addErrback(told.append)
    for function in (broken, broken, add_user):  # of what comes after it nothing is believed
        failure = fired(writes.run(function, *(("alice",) if function is add_user else ())))
        assert failure.check(StoreFailed)
        assert failure.value.ecode is Ecode.STOPPING
    (failure,) = told
    assert str(failure.value) == (
        f"the database {database} failed (disk I/O error); look at the disk and at the system's log, and start again, "
        "with a backup (devconf restore) if it is damaged"
    )


def no_room(_connection: Connection) -> None:
    raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


def test_without_room_each_function_is_tried_alone(writes: Writes, database: Path, logged_errors: Any) -> None:
    """SQLite gives up the whole transaction; who reads, or finds room, goes on."""

    def gives_up(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        no_room(connection)

    waiting: list[Deferred[Any]] = [
        writes.store.run(accounts.find_user, "alice"),
        writes.store.run(gives_up),
        writes.store.run(add_user, "carol"),
        writes.store.run(no_room),
    ]
    writes.clock.advance(0)
    found, first, carol, second = (fired(each) for each in waiting)
    assert (found, carol) == (None, "carol")
    for refused in (first, second):
        assert refused.check(StoreFailed)
        assert refused.value.ecode is Ecode.DISK_FULL
    assert users(database) == ["carol"]
    (text,) = logged_errors.flush()
    assert text == f"the disk is full: changes are refused until there is room for {database}"


def test_a_log_that_has_grown_is_moved_into_the_database(writes: Writes, database: Path) -> None:
    log = Path(f"{database}-wal")
    sizes = []
    for number in range(12):
        fired(writes.run(confs.insert_conf, NOON, f"unid {number}", "name", "bin", bytes(LOG_MAX // 5)))
        sizes.append(log.stat().st_size)
    assert max(sizes) < LOG_MAX
    assert sizes.count(0) == 2


def test_while_another_program_reads_the_log_grows_on(writes: Writes, database: Path) -> None:
    log = Path(f"{database}-wal")
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM users").fetchall()
        for number in range(8):
            fired(writes.run(confs.insert_conf, NOON, f"unid {number}", "name", "bin", bytes(LOG_MAX // 5)))
        assert log.stat().st_size > LOG_MAX
    for number in range(8, 14):
        fired(writes.run(confs.insert_conf, NOON, f"unid {number}", "name", "bin", bytes(LOG_MAX // 5)))
    assert log.stat().st_size < LOG_MAX


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        ("disk I/O error", True),
        ("database disk image is malformed", True),
        ("file is not a database", True),
        ("attempt to write a readonly database", True),
        ("database or disk is full", False),
        ("database is locked", False),
        ("UNIQUE constraint failed: users.user_name", False),
    ],
)
def test_what_is_fatal(error: str, fatal: bool) -> None:
    assert writer.is_fatal(Failure(OperationalError("SELECT", {}, sqlite3.OperationalError(error)))) is fatal
    assert not writer.is_fatal(Failure(KeyError(error)))
    assert not writer.is_fatal(error)
