"""``devconf restore``: a backup in the place of the database, while the server is stopped."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click

from devconf.cli.database import BESIDE, Unsound, inspect, locked, option_config, path_of, settings_of
from devconf.cli.output import Output
from devconf.cli.private import create, sync_folder
from devconf.cli.session import option_json
from devconf.cli.status import Failed


@click.command()
@click.argument("file")
@option_config
@option_json
def restore(file: str, config_path: str | None, as_json: bool) -> None:
    """Put the backup FILE in the place of the database.

    The server must be stopped. The present database is kept beside it, under a name with the date. Everybody has to log
    in again.
    """
    path = path_of(settings_of(config_path))
    source = Path(file)
    if not source.is_file():
        raise click.UsageError(f"{file}: there is no such file", click.get_current_context())
    if not path.parent.is_dir():
        raise Failed(f"there is no folder {path.parent}, where `database` says that the data is")
    with locked(path):
        if path.exists() and path.samefile(source):
            raise Failed(f"{file} is the database itself, not a backup of it")
        copy = path.with_name(f"{path.name}.restoring")
        try:
            _copy(source, copy)
            kept = _keep(path) if path.exists() else None
            copy.replace(path)
            sync_folder(path)
        finally:
            _remove(copy)
    where = f"; the database of before is {kept}" if kept else ""
    Output(as_json).result(
        {"database": str(path), "backup": file, "before": str(kept) if kept else None},
        f"{path} is as in {file} now{where}",
    )


def _copy(source: Path, copy: Path) -> None:
    """Write the backup to ``copy``, check that, and have it on the disk."""
    from devconf.store.tables import credentials

    try:
        _remove(copy)
        os.close(create(copy))
        shutil.copyfile(source, copy)
        if Path(f"{source}-wal").exists():  # it is no backup of ours, but a database with all that is beside it
            shutil.copyfile(f"{source}-wal", f"{copy}-wal")
        inspect(copy)
        with closing(sqlite3.connect(copy)) as connection, connection:
            # Who logged out since the backup was made must not be logged in again.
            connection.execute(f"DELETE FROM {credentials.name}")
    except (Unsound, sqlite3.Error) as error:
        raise Failed(f"{source} cannot be restored: {error}") from None
    with open(copy, "rb+") as written:
        os.fsync(written.fileno())


def _keep(path: Path) -> Path:
    """Give the present database a second name, with what is beside it, and leave nothing beside ``path``."""
    stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = path.with_name(f"{path.name}.before-{stamp}")
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.before-{stamp}-{number}")
    # At no moment is there no database: `path` is replaced in the end.
    for end in ("", "-wal", "-journal"):
        if Path(f"{path}{end}").exists():
            _second_name(f"{path}{end}", f"{kept}{end}")
    sync_folder(path)
    for end in BESIDE:
        Path(f"{path}{end}").unlink(missing_ok=True)
    return kept


def _second_name(path: str, name: str) -> None:
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        shutil.copy2(path, name)


def _remove(copy: Path) -> None:
    for end in ("", *BESIDE):
        Path(f"{copy}{end}").unlink(missing_ok=True)
