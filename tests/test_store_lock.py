"""The database while another program looks into it: the log stays the server's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.internet.task import Clock

from devconf.store import Store
from devconf.store.writer import InlineRunner

_LOOK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA user_version").fetchone()
connection.close()
"""


def test_a_program_that_looks_into_the_database_does_not_take_its_log_away(tmp_path: Path) -> None:
    """As the last one to close it, it would: what the server writes after that would be in a file without a name."""
    database = tmp_path / "devconf.sqlite"
    store = Store(f"sqlite:///{database}", InlineRunner(Clock()))
    store.open()
    log = tmp_path / "devconf.sqlite-wal"
    before = log.stat().st_ino
    subprocess.run([sys.executable, "-c", _LOOK, str(database)], check=True)
    assert log.exists()
    assert log.stat().st_ino == before
    store.close()
