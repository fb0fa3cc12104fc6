"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "commands",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("command_id", sa.String(), nullable=False),
        sa.Column("command", sa.String(), nullable=False),
        sa.Column("user_unid", sa.String(), nullable=False),
        sa.Column("user_name", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=True),
        sa.Column("subtask_id", sa.String(), nullable=True),
        sa.Column("unid", sa.String(), nullable=True),
        sa.Column("dev_unid", sa.String(), nullable=True),
        sa.Column("params", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("rule", sa.String(), nullable=True),
        sa.Column("plan", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("algo_comb", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("planned_at", sa.Float(), nullable=False),
        sa.Column("settled_at", sa.Float(), nullable=True),
        sa.Column("ecode", sa.BigInteger(), nullable=True),
        sa.Column("enote", sa.String(), nullable=True),
        sa.Column("devices", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_commands")),
        sa.UniqueConstraint("command_id", name=op.f("uq_commands_command_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.create_index(
            "ix_commands_unsettled", ["task_id"], unique=False, sqlite_where=sa.text("settled_at IS NULL")
        )

    op.create_table(
        "credentials",
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("unid", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_credentials")),
    )
    with op.batch_alter_table("credentials", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_credentials_expires_at"), ["expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_credentials_family"), ["family"], unique=False)
        batch_op.create_index(batch_op.f("ix_credentials_unid"), ["unid"], unique=False)

    op.create_table(
        "devices",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("dev_unid", sa.String(), nullable=False),
        sa.Column("dev_refid", sa.String(), nullable=False),
        sa.Column("dev_name", sa.String(), nullable=False),
        sa.Column("named_by_operator", sa.Boolean(), nullable=False),
        sa.Column("dev_type", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("key_required", sa.Boolean(), nullable=False),
        sa.Column("key_hash", sa.String(), nullable=False),
        sa.Column("key_used", sa.Boolean(), nullable=False),
        sa.Column("algos", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("echoes", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_devices")),
        sa.UniqueConstraint("dev_refid", name=op.f("uq_devices_dev_refid")),
        sa.UniqueConstraint("dev_unid", name=op.f("uq_devices_dev_unid")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "store_confs",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("unid", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("file_ext", sa.String(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("rev", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_store_confs")),
        sa.UniqueConstraint("unid", name=op.f("uq_store_confs_unid")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "users",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("user_unid", sa.String(), nullable=False),
        sa.Column("user_name", sa.String(), nullable=False),
        sa.Column("role", sa.Integer(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_users")),
        sa.UniqueConstraint("user_name", name=op.f("uq_users_user_name")),
        sa.UniqueConstraint("user_unid", name=op.f("uq_users_user_unid")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "orders",
        sa.Column("dev_unid", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("subtask_id", sa.String(), nullable=False),
        sa.Column("life", sa.String(), nullable=False),
        sa.Column("name_rev", sa.BigInteger(), nullable=False),
        sa.Column("algo_rev", sa.BigInteger(), nullable=False),
        sa.Column("conf_rev", sa.BigInteger(), nullable=False),
        sa.Column("wanted_rev", sa.BigInteger(), nullable=False),
        sa.Column("acked_rev", sa.BigInteger(), nullable=False),
        sa.Column("applied_rev", sa.BigInteger(), nullable=False),
        sa.Column("ecode", sa.BigInteger(), nullable=False),
        sa.Column("enote", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=True),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dev_unid"], ["devices.dev_unid"], name=op.f("fk_orders_dev_unid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dev_unid", "task_id", "subtask_id", name=op.f("pk_orders")),
    )
    with op.batch_alter_table("orders", schema=None) as batch_op:
        batch_op.create_index(
            "ix_orders_behind", ["dev_unid"], unique=False, sqlite_where=sa.text("wanted_rev > acked_rev")
        )
        batch_op.create_index("ix_orders_refused", ["dev_unid"], unique=False, sqlite_where=sa.text("ecode <> 0"))
        batch_op.create_index("ix_orders_task_id_subtask_id", ["task_id", "subtask_id"], unique=False)

    op.create_table(
        "tasks",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("task_type", sa.String(), nullable=False),
        sa.Column("rev", sa.BigInteger(), nullable=False),
        sa.Column("algo_comb", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("store_conf_unid", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["store_conf_unid"], ["store_confs.unid"], name=op.f("fk_tasks_store_conf_unid")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_tasks")),
        sa.UniqueConstraint("task_id", name=op.f("uq_tasks_task_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_tasks_store_conf_unid"), ["store_conf_unid"], unique=False)

    op.create_table(
        "subtasks",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("subtask_id", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("dev_unid", sa.String(), nullable=False),
        sa.Column("vchan", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["dev_unid"], ["devices.dev_unid"], name=op.f("fk_subtasks_dev_unid")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], name=op.f("fk_subtasks_task_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_subtasks")),
        sa.UniqueConstraint("subtask_id", name=op.f("uq_subtasks_subtask_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("subtasks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_subtasks_dev_unid"), ["dev_unid"], unique=False)
        batch_op.create_index(batch_op.f("ix_subtasks_task_id"), ["task_id"], unique=False)

    op.create_table(
        "task_devices",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("dev_unid", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["dev_unid"], ["devices.dev_unid"], name=op.f("fk_task_devices_dev_unid")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.task_id"], name=op.f("fk_task_devices_task_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_task_devices")),
    )
    with op.batch_alter_table("task_devices", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_task_devices_dev_unid"), ["dev_unid"], unique=False)
        batch_op.create_index("uq_task_devices_task_id_dev_unid", ["task_id", "dev_unid"], unique=True)


def downgrade() -> None:

    with op.batch_alter_table("task_devices", schema=None) as batch_op:
        batch_op.drop_index("uq_task_devices_task_id_dev_unid")
        batch_op.drop_index(batch_op.f("ix_task_devices_dev_unid"))

    op.drop_table("task_devices")
    with op.batch_alter_table("subtasks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_subtasks_task_id"))
        batch_op.drop_index(batch_op.f("ix_subtasks_dev_unid"))

    op.drop_table("subtasks")
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_tasks_store_conf_unid"))

    op.drop_table("tasks")
    with op.batch_alter_table("orders", schema=None) as batch_op:
        batch_op.drop_index("ix_orders_task_id_subtask_id")
        batch_op.drop_index("ix_orders_refused", sqlite_where=sa.text("ecode <> 0"))
        batch_op.drop_index("ix_orders_behind", sqlite_where=sa.text("wanted_rev > acked_rev"))

    op.drop_table("orders")
    op.drop_table("users")
    op.drop_table("store_confs")
    op.drop_table("devices")
    with op.batch_alter_table("credentials", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_credentials_unid"))
        batch_op.drop_index(batch_op.f("ix_credentials_family"))
        batch_op.drop_index(batch_op.f("ix_credentials_expires_at"))

    op.drop_table("credentials")
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.drop_index("ix_commands_unsettled", sqlite_where=sa.text("settled_at IS NULL"))

    op.drop_table("commands")
