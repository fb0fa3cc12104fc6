"""Opening the database: its lock, what it must be like, and how SQLite is set."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from devconf.errors import StartupError
from devconf.store import migrations

#: Seconds that a transaction waits for another program that writes.
BUSY_TIMEOUT = 5.0
#: How a line in the file of the lock begins: there was a database beside it, and its mark is one of these.
MADE = "a database was made:"


def close(connection: Connection) -> None:
    """Close ``connection`` and its engine, and let go of the lock on the file."""
    connection.close()
    connection.engine.dispose()
    lock = connection.engine.get_execution_options().get("devconf_lock")
    if lock is not None:
        lock.close()


def sqlite_path(url: str) -> str:
    """Return the file that the SQLAlchemy ``url`` names."""
    return make_url(url).database or ""


def connect(url: str) -> Connection:
    """Return the one connection to the SQLite database ``url``, with its file locked against other processes.

    :raises StartupError: another process holds it, it is no database, or it would not be durable.
    """
    path = sqlite_path(url)
    lock = lock_file(path + ".lock")
    try:
        _examine(path, lock)
    except BaseException:
        lock.close()
        raise
    engine = make_engine(url).execution_options(devconf_lock=lock)
    with contextlib.ExitStack() as undo:
        undo.callback(lock.close)
        undo.callback(engine.dispose)
        try:
            # Only its owner may read what is stored; SQLite gives its other files the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = undo.enter_context(engine.execution_options(devconf_mark=_mark_of(path)).connect())
            _verify(connection)
        except OSError as error:
            raise StartupError(f"cannot open {path}: {error.strerror}; `database` must name a file to write") from None
        except DatabaseError as error:
            raise StartupError(f"{path}: {error.orig}; restore a backup, or name another file in `database`") from None
        undo.pop_all()
    return connection


def make_engine(url: str) -> Engine:
    """Return an engine for ``url`` that begins and ends transactions where it is told to, and reads JSON by msgspec."""
    engine = create_engine(
        url,
        poolclass=NullPool,
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": BUSY_TIMEOUT},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _prepare(connection: Any, _record: object) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # with NORMAL, a power cut loses what was committed
        "secure_delete = ON",  # a replaced storage configuration is gone
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "journal_size_limit = 67108864",
        "wal_autocheckpoint = 0",  # the writer does it, which hears of errors; SQLite would keep them to itself
        "temp_store = MEMORY",  # no content in files of a folder for all, and none that needs room of its own
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _verify(connection: Connection) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}
    for pragma, value in wanted.items():
        found = connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()
        if found != value:
            raise StartupError(
                f"SQLite's {pragma} is {found!r} and cannot be set to {value!r} for {connection.engine.url.database}; "
                "put the database on a local disk that this user may write to"
            )
    connection.rollback()


def _examine(path: str, lock: Any) -> None:
    """Look at the file without changing it: what is foreign or damaged is found now, not in the middle of a command."""
    log = f"{path}-wal"
    has_log = os.path.isfile(log) and os.path.getsize(log) > 0
    or_log = f", or {log} is the log of another database" if has_log else ""
    marks = _remembered(lock)
    if os.path.isfile(path) and os.path.getsize(path) > 0:
        if has_log and marks and _mark_of(path) not in marks:
            raise StartupError(
                f"{log} is not the log of {path}, but of another copy; restore a backup (devconf restore), or remove "
                f"{path}.lock if both were put there together"
            )
        # Opened for writing, SQLite would move the log into the file. Without a log, it is not even to make its others.
        how = "mode=ro" if has_log else "mode=ro&immutable=1"
        try:
            with contextlib.closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?{how}", uri=True)) as connection:
                _refuse_foreign(path, connection)
                # A log fits any file in SQLite's eyes; that it is another's shows in what both make together.
                (check,) = connection.execute(f"PRAGMA {'integrity' if has_log else 'quick'}_check(1)").fetchone()
        except sqlite3.Error as error:
            raise StartupError(
                f"{path}: {error}{or_log}; restore a backup, or name another file in `database`"
            ) from None
        if check != "ok":
            said = " ".join(str(check).split())
            raise StartupError(f"{path} is damaged ({said}){or_log}; restore a backup (devconf restore)")
    elif not os.path.exists(path) or os.path.isfile(path):
        what = "empty" if os.path.exists(path) else "gone"
        if has_log:
            raise StartupError(f"{path} is {what}, but its log {log} is there; restore a backup (devconf restore)")
        if marks is not None:
            raise StartupError(
                f"{path} is {what}, though there was a database; restore a backup (devconf restore), or remove "
                f"{path}.lock to begin with nothing"
            )


def _refuse_foreign(path: str, connection: sqlite3.Connection) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and connection.execute("PRAGMA application_id").fetchone()[0] != migrations.APPLICATION_ID:
        raise StartupError(f"{path} is a database of another program; name another file in `database`")
    if "alembic_version" in tables:
        for (revision,) in connection.execute("SELECT version_num FROM alembic_version"):
            if revision not in migrations.known():
                raise StartupError(f"{path} was written by a later devconf (schema {revision}); install that version")


def note_made(connection: Connection) -> None:
    """Give the database a new mark, and remember it beside the file.

    So nobody begins with an empty database if the file vanishes, nor takes a log for that of another copy of the file.
    """
    options = connection.engine.get_execution_options()
    lock = options["devconf_lock"]
    sqlite: Any = connection.connection.driver_connection
    (now,) = sqlite.execute("PRAGMA user_version").fetchone()
    (mark,) = sqlite.execute("SELECT abs(random() % 2147483647) + 1").fetchone()
    # Whenever the power is cut, the file has one of those that are remembered.
    _remember(lock, {options["devconf_mark"], now, mark})
    sqlite.execute(f"PRAGMA user_version = {mark}").close()
    busy, _, _ = sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if not busy:
        _remember(lock, {mark})


def _mark_of(path: str) -> int:
    """Return what the file itself has as SQLite's ``user_version``, whatever its log says; 0 of an empty one.

    Not while there is a connection to it: to close a file ends all POSIX locks that this process has on it, SQLite's
    too. Then another program that looks into it takes itself for the last one, and removes the log under the server.
    """
    with open(path, "rb") as file:
        return int.from_bytes(file.read(64)[60:])


def _remember(lock: Any, marks: set[int]) -> None:
    lock.seek(0)
    holder = lock.readline()
    lock.seek(0)
    lock.truncate()
    lock.write(holder + f"{MADE} {' '.join(map(str, sorted(marks)))}\n")
    lock.flush()
    os.fsync(lock.fileno())


def _remembered(lock: Any) -> set[int] | None:
    """Return the marks that the database can have; None: there was none, as far as is known."""
    lock.seek(0)
    made = [line for line in lock if line.startswith(MADE) and line.endswith("\n")]
    return {int(mark) for mark in made[0].removeprefix(MADE).split()} if made else None


def lock_file(path: str) -> Any:
    """Return ``path`` open, and locked against other processes until it is closed; raise ``StartupError``."""
    try:
        lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held as long as the connection)
    except OSError as error:
        raise StartupError(
            f"cannot open {path}: {error.strerror}; the folder of `database` must exist and be writable"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.readline().strip() or "another process"
        lock.close()
        raise StartupError(f"the database is in use by {holder}; stop it first ({path})") from None
    lock.seek(0)
    _, *rest = lock.readlines() or [""]
    lock.seek(0)
    lock.truncate()
    lock.write("".join([f"process {os.getpid()}\n", *rest]))
    lock.flush()
    return lock
