"""The database: what it is opened with, what it refuses to open, and how functions share a commit.

Files and SQLite are real everywhere; where order matters, functions run in the caller's thread, and a clock says when.
"""

from __future__ import annotations

import base64
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import IntegrityError, OperationalError
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from devconf.errors import CommandFailed, Ecode, StartupError, StoreFailed
from devconf.model import Role
from devconf.store import Store, accounts, confs, migrations, opening, tables, writer
from devconf.store.writer import BATCH, LOG_MAX, InlineRunner, IRunner, Job, ThreadRunner
from devconf.testing import MemoryServer, prepared_database

NOON = 1_750_000_000.0


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """An empty database of ours."""
    return prepared_database(tmp_path / "devconf.sqlite")


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


def refusal(path: Path) -> str:
    """Why the file is not opened."""
    with pytest.raises(StartupError) as caught, opened(path) as connection:
        migrations.upgrade(connection)
    return str(caught.value)


def users(path: Path) -> list[str]:
    """The names of the accounts that another program reads in the file, in the order of their creation."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as reader:
        return [name for (name,) in reader.execute("SELECT user_name FROM users ORDER BY seq")]


def add_user(connection: Connection, name: str) -> str:
    accounts.insert_user(connection, NOON, f"unid of {name}", name, Role.VIEWER, "hash")
    return name


# -- opening


def test_a_new_file_is_durable_and_forgets_what_is_replaced(tmp_path: Path) -> None:
    with opened(tmp_path / "new.sqlite") as connection:
        pragmas = ("journal_mode", "synchronous", "secure_delete", "foreign_keys", "trusted_schema")
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas}
        connection.rollback()
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "foreign_keys": 1,
        "trusted_schema": 0,
    }


def test_the_migrations_make_the_tables_that_the_code_has(tmp_path: Path) -> None:
    with opened(tmp_path / "new.sqlite") as connection:
        migrations.upgrade(connection)
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "render_as_batch": True}
        )
        assert compare_metadata(context, tables.metadata) == []
        # Alembic does not look at these.
        found = inspect(connection)
        for table in tables.metadata.sorted_tables:
            kinds = {index["name"]: index["dialect_options"] for index in found.get_indexes(table.name)}
            wanted = {str(index.name): index.dialect_options["sqlite"]["where"] for index in table.indexes}
            assert {name: str(options.get("sqlite_where")) for name, options in kinds.items()} == {
                name: str(where) for name, where in wanted.items()
            }
            keys = {key["name"]: key["options"].get("ondelete") for key in found.get_foreign_keys(table.name)}
            assert keys == {key.name: key.ondelete for key in table.foreign_key_constraints}
            ddl = connection.exec_driver_sql(f"SELECT sql FROM sqlite_master WHERE name = '{table.name}'").scalar_one()
            assert ("AUTOINCREMENT" in ddl) is bool(table.dialect_options["sqlite"]["autoincrement"])
        connection.rollback()


def test_opening_again_changes_nothing(database: Path) -> None:
    with opened(database) as connection, connection.begin():
        add_user(connection, "alice")
    with opened(database) as connection:
        for _ in range(2):
            migrations.upgrade(connection)
    assert users(database) == ["alice"]
    open_store(database)
    assert users(database) == ["alice"]


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE users (name TEXT)")
        theirs.execute("INSERT INTO users VALUES ('bob')")
        theirs.commit()
    assert refusal(path) == f"{path} is a database of another program; name another file in `database`"
    with closing(sqlite3.connect(path)) as theirs:
        assert theirs.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]
        assert theirs.execute("SELECT * FROM users").fetchall() == [("bob",)]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.sqlite"
    path.write_bytes(b"Dear Sir or Madam, " * 500)
    assert refusal(path) == (f"{path}: file is not a database; restore a backup, or name another file in `database`")
    assert path.read_bytes() == b"Dear Sir or Madam, " * 500


def filled(path: Path) -> None:
    """Fill the database with some pages, and its log into it."""
    with opened(path) as connection:
        with connection.begin():
            for number in range(50):
                confs.insert_conf(connection, NOON, f"unid {number}", "name", "bin", bytes(5000))
        writer.checkpoint(connection)


def test_a_truncated_file_is_refused(database: Path) -> None:
    filled(database)
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2 // 4096 * 4096])
    text = refusal(database)
    assert str(database) in text
    assert "restore a backup" in text
    assert "\n" not in text


def test_a_file_with_a_spoilt_page_is_refused(database: Path) -> None:
    filled(database)
    whole = bytearray(database.read_bytes())
    whole[4096 * 4 : 4096 * 20] = b"\xa5" * 4096 * 16
    database.write_bytes(whole)
    text = refusal(database)
    assert str(database) in text
    assert "restore a backup" in text
    assert "\n" not in text


def test_a_schema_of_a_later_version_is_refused_and_left_alone(database: Path) -> None:
    with closing(sqlite3.connect(database)) as later:
        later.execute("UPDATE alembic_version SET version_num = '9999'")
        later.commit()
    assert refusal(database) == f"{database} was written by a later devconf (schema 9999); install that version"
    with closing(sqlite3.connect(database)) as later:
        assert later.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "devconf.sqlite"
    assert refusal(path) == (
        f"cannot open {path}.lock: No such file or directory; the folder of `database` must exist and be writable"
    )


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    assert refusal(path) == f"cannot open {path}: Is a directory; `database` must name a file to write"


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    with opened(path) as connection:
        migrations.upgrade(connection)
        modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir() if each.suffix != ".lock"}
    assert modes == {"new.sqlite": 0o600, "new.sqlite-wal": 0o600, "new.sqlite-shm": 0o600}


HOLDER = """
import sys
from devconf.store import opening
connection = opening.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_that_another_process_holds(database: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        text = refusal(database)
        holder.kill()
    assert text == f"the database is in use by process {holder.pid}; stop it first ({database}.lock)"
    open_store(database)  # what a killed process leaves is no lock


def test_a_file_is_opened_once_in_one_process_too(database: Path) -> None:
    with opened(database):
        text = refusal(database)
    assert text.startswith("the database is in use by process ")
    open_store(database)


def test_after_a_refusal_the_file_is_free(database: Path) -> None:
    """Also while the refusal is still held by those who log it and show it."""
    theirs = database.with_name("theirs.sqlite")
    with closing(sqlite3.connect(theirs)) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    store = Store(url(theirs), InlineRunner(Clock()))
    refused = fired(store.open())
    assert refused.check(StartupError)
    shutil.copyfile(database, theirs)
    open_store(theirs)


# -- group commit


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


@pytest.fixture
def writes(database: Path) -> Iterator[Writes]:
    writes = Writes(database)
    yield writes
    assert fired(writes.store.close()) is None


def fail_with(connection: Connection, error: BaseException) -> None:
    add_user(connection, "half done")
    raise error


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


def spoil_the_commit(connection: Connection) -> None:
    """Break a foreign key in a way that is found at the commit only."""
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    connection.exec_driver_sql(
        "INSERT INTO subtasks (subtask_id, task_id, dev_unid, created_at) VALUES ('s', 'none', 'none', 0)"
    )


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


# -- a database that breaks


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


# -- the thread


@pytest.fixture
def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


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


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


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


# -- what is replaced is gone

OLD = b"<old>" + b"a distinctive password: 8fK2-xQ91-Zp44 " * 300 + b"</old>"
SECRET = b"8fK2-xQ91-Zp44"


def on_disk(folder: Path) -> dict[str, bytes]:
    """All that is in the folder, the log included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_replaced_content_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path)
    posted = server.ask(
        "post store_confs", {"name": "c", "file_ext": "xml", "file_b64": base64.b64encode(OLD).decode()}
    )
    assert any(SECRET in content for content in on_disk(tmp_path).values())
    new = base64.b64encode(b"<new/>").decode()
    put = server.ask("put store_confs", {"unid": posted["unid"], "name": "c", "file_ext": "xml", "file_b64": new})
    assert (put["ecode"], put["rev"]) == (0, 2)
    server.run()
    found = {name for name, content in on_disk(tmp_path).items() if SECRET in content}
    assert found == set()
    assert "devconf.sqlite-wal" in on_disk(tmp_path)
    server.stop()


def test_a_deleted_content_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path)
    posted = server.ask(
        "post store_confs", {"name": "c", "file_ext": "xml", "file_b64": base64.b64encode(OLD).decode()}
    )
    assert server.ask("delete store_confs", {"unid": posted["unid"]})["ecode"] == 0
    server.run()
    assert {name for name, content in on_disk(tmp_path).items() if SECRET in content} == set()
    server.stop()


async def test_scrubbing_in_the_thread_empties_the_log(reactor: Any, database: Path) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    await threaded.store.run(confs.insert_conf, NOON, "u", "c", "xml", OLD)
    await threaded.store.run(confs.replace_conf, NOON, "u", "c", "xml", b"<new/>")
    assert SECRET in wal(database).read_bytes()
    threaded.store.scrub()
    await threaded.store.run(lambda _connection: None)
    content = await threaded.store.run(
        lambda connection: connection.execute(select(tables.store_confs.c.content)).scalar_one()
    )
    assert content == b"<new/>"
    assert {name for name, found in on_disk(database.parent).items() if SECRET in found} == set()
    await threaded.store.close()
