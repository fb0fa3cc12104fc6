"""Alembic migrations, run when the store is opened."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

#: Marks a file as ours in SQLite's header ("dvcf").
APPLICATION_ID = 0x64766366


def upgrade(connection: Connection) -> None:
    """Bring the schema of ``connection`` up to date."""
    config = _config()
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    with connection.begin():
        if MigrationContext.configure(connection).get_current_revision() != script.get_current_head():
            command.upgrade(config, "head")
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def known() -> set[str]:
    """Return the revisions that this devconf knows."""
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
