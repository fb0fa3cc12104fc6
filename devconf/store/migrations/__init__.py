"""Alembic migrations, run when the store is opened."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from devconf.errors import StartupError

#: Marks a file as ours in SQLite's header ("dvcf").
APPLICATION_ID = 0x64766366


def upgrade(connection: Connection) -> None:
    """Bring the schema of ``connection`` up to date.

    :raises StartupError: the file belongs to another program, or to a later devconf.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    with connection.begin():
        _refuse_foreign(connection, script)
        if MigrationContext.configure(connection).get_current_revision() != script.get_current_head():
            command.upgrade(config, "head")
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def _refuse_foreign(connection: Connection, script: ScriptDirectory) -> None:
    name = connection.engine.url.database
    tables = inspect(connection).get_table_names()
    if tables and connection.exec_driver_sql("PRAGMA application_id").scalar() != APPLICATION_ID:
        raise StartupError(f"{name} is a database of another program; name another file in `database`")
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and revision not in {known.revision for known in script.walk_revisions()}:
        raise StartupError(f"{name} was written by a later devconf (schema {revision}); install that version")
