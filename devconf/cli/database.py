"""The database of a server that is not running: its configuration, its lock, and whether it is sound."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from devconf.cli.status import Failed

if TYPE_CHECKING:
    from devconf.config import Config


#: What SQLite keeps beside the file of a database.
BESIDE = ("-wal", "-shm", "-journal")


class Unsound(Exception):
    """A file is no database of devconf, or damaged; the text says what is wrong with it."""


@frozen
class Found:
    """A sound database.

    :ivar revision: its migration, and :ivar newest: the newest that there is.
    """

    revision: str
    newest: str


def option_config(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config`` to a command; it takes the ``config_path``, from there or from before the command, or None."""

    @functools.wraps(function)
    def command(config: str | None, **values: Any) -> Any:
        return function(config_path=config or click.get_current_context().obj, **values)

    help_text = "The server's configuration; without it, its defaults."
    return click.option("--config", "-c", metavar="FILE", help=help_text)(command)


def settings_of(config_path: str | None) -> Config:
    """Return the configuration in a file; None: the defaults.

    :raises Failed: it is wrong.
    """
    from devconf import config
    from devconf.errors import StartupError

    try:
        return config.load(config_path) if config_path else config.Config()
    except StartupError as error:
        raise Failed("; ".join(str(error).splitlines())) from None


def path_of(settings: Config) -> Path:
    """Return the file of the database."""
    from devconf.store import opening

    return Path(opening.sqlite_path(settings.database)).resolve()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep servers away from the database ``path``.

    :raises Failed: one has it already; the text says which.
    """
    from devconf.errors import StartupError
    from devconf.store import opening

    try:
        lock = opening.lock_file(f"{path}.lock")
    except StartupError as error:
        raise Failed(error) from None
    with closing(lock):
        yield


def inspect(path: Path) -> Found:
    """Look through a database that nobody is writing to.

    :raises Unsound: it is none of devconf, is of a later devconf, or is damaged.
    """
    # What is beside it has to be read too; without that, the file is not touched at all.
    how = "mode=ro" if Path(f"{path}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)) as connection:
            return _inspect(connection)
    except sqlite3.Error as error:
        raise Unsound(str(error)) from None


def _inspect(connection: sqlite3.Connection) -> Found:
    from alembic.config import Config as AlembicConfig
    from alembic.script import ScriptDirectory

    from devconf.store import migrations

    check = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if check != "ok":
        raise Unsound(f"it is damaged: {' '.join(str(check).split())}")
    if connection.execute("PRAGMA application_id").fetchone()[0] != migrations.APPLICATION_ID:
        raise Unsound("it is no database of devconf")
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    if revision not in {known.revision for known in script.walk_revisions()}:
        raise Unsound(f"it was written by a later devconf (schema {revision}); install that version")
    return Found(revision, script.get_current_head() or "")
