"""A copy of the database while it is in use."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from devconf.errors import CommandFailed, Ecode
from devconf.store.opening import sqlite_path

#: Steps of SQLite's machine, a few for each row, after which a copy looks whether it is still wanted.
STEPS = 250


def copy(url: str, ended: Callable[[], bool]) -> Path:
    """Write a complete and consistent copy of the database beside it, and return its path. Takes long.

    It is made by a connection of its own, from one moment's state: nobody waits for it.

    :param url: the database as a URL of SQLAlchemy.
    :param ended: whether the service has been told to stop, which does not wait for a copy either.
    :raises CommandFailed: ``STOPPING``: it has, and nothing is left of the copy.
    """
    path = Path(sqlite_path(url)).resolve()
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.backup-", dir=path.parent)
    os.close(handle)
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.set_progress_handler(ended, STEPS)
            connection.execute("VACUUM INTO ?", (name,))
        with closing(sqlite3.connect(name)) as connection:
            # Not the mark of the one that is in use: put in its place beside its log, they would be taken for a pair.
            connection.execute("PRAGMA user_version = 0")
    except BaseException:
        os.unlink(name)
        if ended():
            raise CommandFailed(Ecode.STOPPING, "the server is stopping; ask for a backup when it runs again") from None
        raise
    return Path(name)
