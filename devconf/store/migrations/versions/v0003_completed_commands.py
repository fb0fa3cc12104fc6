"""Commands that a late answer completes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.add_column("orders", sa.Column("awaited_by", sa.BigInteger(), nullable=True))
    op.add_column("commands", sa.Column("awaits", sa.BigInteger(), nullable=True))
    op.add_column("commands", sa.Column("completed_at", sa.Float(), nullable=True))
    op.create_index("ix_orders_awaited", "orders", ["awaited_by"], sqlite_where=sa.text("awaited_by IS NOT NULL"))
    op.create_index("ix_commands_awaiting", "commands", ["awaits"], sqlite_where=sa.text("awaits IS NOT NULL"))


def downgrade() -> None:

    op.drop_index("ix_commands_awaiting", "commands")
    op.drop_index("ix_orders_awaited", "orders")
    op.drop_column("commands", "completed_at")
    op.drop_column("commands", "awaits")
    op.drop_column("orders", "awaited_by")
