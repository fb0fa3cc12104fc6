"""A copy of the database while it is in use."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from devconf.store.opening import sqlite_path


def copy(url: str) -> Path:
    """Write a complete and consistent copy of the database beside it, and return its path. Takes long.

    It is made by a connection of its own, from one moment's state: nobody waits for it.

    :param url: the database as a URL of SQLAlchemy.
    """
    path = Path(sqlite_path(url)).resolve()
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.backup-", dir=path.parent)
    os.close(handle)
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("VACUUM INTO ?", (name,))
        with closing(sqlite3.connect(name)) as connection:
            # Not the mark of the one that is in use: put in its place beside its log, they would be taken for a pair.
            connection.execute("PRAGMA user_version = 0")
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)
