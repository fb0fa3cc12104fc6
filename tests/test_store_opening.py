"""The database: what it is opened with, and what it refuses to open."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect
from twisted.internet.task import Clock

from devconf.errors import StartupError
from devconf.store import Store, confs, migrations, tables, writer
from devconf.store.writer import InlineRunner
from tests.storing import (
    NOON,
    add_user,
    fired,
    open_store,
    opened,
    url,
    users,
)


def refusal(path: Path) -> str:
    """Why the file is not opened."""
    with pytest.raises(StartupError) as caught, opened(path) as connection:
        migrations.upgrade(connection)
    return str(caught.value)


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
