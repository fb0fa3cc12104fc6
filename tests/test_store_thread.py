"""The database in a thread of its own."""

from __future__ import annotations

import errno
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import Clock

from devconf.errors import Ecode, StartupError, StoreFailed
from devconf.store import writer
from devconf.store.writer import BATCH, InlineRunner, IRunner, Job, Log, ThreadRunner
from tests.storing import (
    Threaded,
    add_user,
    fail_with,
    open_store,
    opened,
    spoil_the_commit,
    users,
    wal,
)

CLOSED = "the server has stopped, and nothing was done; ask it when it runs"


async def outcomes(*waiting: Deferred[Any]) -> list[Any]:
    """The results and the failures that all of ``waiting`` have fired with."""
    fired_with: Any = await DeferredList(waiting, consumeErrors=True)
    return [result for _, result in fired_with]


async def test_answers_come_in_the_order_of_the_questions(reactor: Any, database: Path) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    names = [f"user {number}" for number in range(BATCH + 88)]
    order: list[str] = []
    gate = threaded.hold()
    waiting = [threaded.store.run(add_user, name).addCallback(order.append) for name in names]
    gate.set()
    await gatherResults(waiting)
    assert order == names
    assert users(database) == names
    await threaded.store.close()


async def test_what_is_asked_of_a_store_that_is_closed_fails(reactor: Any, database: Path) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    before = threaded.store.run(add_user, "before")
    closed = threaded.store.close()
    after = threaded.store.run(add_user, "after")
    with pytest.raises(StoreFailed) as failed:
        await after
    assert (failed.value.ecode, failed.value.enote) == (Ecode.STOPPING, CLOSED)
    assert await before == "before"
    await closed
    with pytest.raises(StoreFailed):
        await threaded.store.run(add_user, "later")
    assert users(database) == ["before"]


async def test_the_thread_is_one_and_not_the_reactors(reactor: Any, database: Path) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    first, second = [await threaded.store.run(lambda _connection: threading.current_thread()) for _ in range(2)]
    assert first is second
    assert first is not threading.current_thread()
    await threaded.store.close()
    assert not first.is_alive()


async def test_closing_waits_for_what_was_submitted(reactor: Any, database: Path) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    order: list[str] = []
    gate = threaded.hold()
    waiting = [threaded.store.run(add_user, name).addCallback(order.append) for name in ("alice", "bob")]
    closed = threaded.store.close()
    closed.addCallback(lambda _: order.append("closed"))
    gate.set()
    await closed
    assert order == ["alice", "bob", "closed"]
    await gatherResults(waiting)
    open_store(database)
    assert users(database) == ["alice", "bob"]


async def test_closing_twice_and_what_was_never_open(reactor: Any, database: Path) -> None:
    never = Threaded(reactor, database)
    await never.store.close()
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    await threaded.store.close()
    await threaded.store.close()


@pytest.mark.parametrize("error", [KeyError("lost"), RecursionError(), MemoryError(), SystemExit(3), GeneratorExit()])
async def test_no_exception_ends_the_thread(reactor: Any, database: Path, error: BaseException) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    (failed,) = await outcomes(threaded.store.run(fail_with, error))
    assert failed.value is error
    assert await threaded.store.run(add_user, "next") == "next"
    assert users(database) == ["next"]
    await threaded.store.close()


async def test_a_failing_commit_in_the_thread_fails_all_and_it_goes_on(reactor: Any, database: Path) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    gate = threaded.hold()
    waiting: list[Deferred[Any]] = [threaded.store.run(add_user, "alice"), threaded.store.run(spoil_the_commit)]
    gate.set()
    assert [failed.type for failed in await outcomes(*waiting)] == [IntegrityError] * 2
    assert await threaded.store.run(add_user, "next") == "next"
    assert users(database) == ["next"]
    await threaded.store.close()


async def test_a_store_that_does_not_open_says_why_and_can_be_closed(reactor: Any, database: Path) -> None:
    with opened(database):
        threaded = Threaded(reactor, database)
        with pytest.raises(StartupError, match=f"the database is in use by process .* \\({database}.lock\\)"):
            await threaded.store.open()
        await threaded.store.close()


async def test_a_log_that_another_program_reads_is_emptied_later(reactor: Any, database: Path) -> None:
    """The store does not wait for that program: it tries again after what comes next."""
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    await threaded.store.run(add_user, "alice")
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM users").fetchone() == (1,)
        await threaded.store.run(add_user, "bob")
        threaded.store.scrub()
        assert await threaded.store.run(add_user, "carol") == "carol"
        assert wal(database).stat().st_size > 0
        reader.execute("COMMIT")
    for _ in range(2):  # after the first of these
        await threaded.store.run(lambda _connection: None)
    assert wal(database).stat().st_size == 0
    assert users(database) == ["alice", "bob", "carol"]
    await threaded.store.close()


@pytest.fixture
def runners(reactor: Any) -> dict[str, IRunner]:
    return {"inline": InlineRunner(Clock()), "thread": ThreadRunner(reactor)}


@pytest.mark.parametrize("kind", ["inline", "thread"])
def test_both_runners_are_what_the_store_wants(runners: dict[str, IRunner], kind: str) -> None:
    from zope.interface.verify import verifyObject

    assert verifyObject(IRunner, runners[kind])


def test_a_batch_is_one_transaction_without_a_runner(database: Path) -> None:
    with opened(database) as connection:
        results = writer.run_batch(connection, [Job(add_user, ("alice",)), Job(add_user, ("alice",))])
    assert results[0] == "alice"
    assert (results[1].value.ecode, results[1].value.enote) == (
        Ecode.ALREADY_EXISTS,
        "there is a user 'alice' already",
    )
    assert users(database) == ["alice"]


async def test_a_disk_that_fails_where_only_its_log_is_looked_at_breaks_the_database(
    reactor: Any, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    broken = threaded.store.when_broken()

    def fail(_log: object) -> int:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Log, "_size", fail)
    assert await threaded.store.run(add_user, "alice") == "alice"
    with pytest.raises(StoreFailed, match="input/output error"):
        await broken
    (failed,) = await outcomes(threaded.store.run(add_user, "bob"))
    assert failed.check(StoreFailed)
    await threaded.store.close()
