"""Alembic's environment: runs migrations on the connection the store hands over."""

from alembic import context

from devconf.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
