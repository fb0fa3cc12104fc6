"""The tables, as SQLAlchemy sees them; :mod:`devconf.store.migrations` makes them.

``seq`` is the order of creation, which lists and their ``after`` follow. Times are seconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_json = JSON(none_as_null=True)


def _seq() -> Column[int]:
    # SQLite numbers rows by itself only where the key is a plain INTEGER.
    return Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


users = Table(
    "users",
    metadata,
    _seq(),
    Column("user_unid", String, nullable=False, unique=True),
    Column("user_name", String, nullable=False, unique=True),
    Column("role", Integer, nullable=False),
    Column("password_hash", String, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

devices = Table(
    "devices",
    metadata,
    _seq(),
    Column("dev_unid", String, nullable=False, unique=True),
    Column("dev_refid", String, nullable=False, unique=True),
    Column("dev_name", String, nullable=False),
    Column("named_by_operator", Boolean, nullable=False),
    Column("dev_type", String, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("key_required", Boolean, nullable=False),
    Column("key_hash", String, nullable=False),
    Column("key_used", Boolean, nullable=False),
    Column("algos", _json),
    # Raised by every connection of the device: what an older one acknowledges is not written.
    Column("epoch", BigInteger, nullable=False),
    # Whether it has ever sent a req_id back: one that has not gets one message at a time.
    Column("echoes", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

credentials = Table(
    "credentials",
    metadata,
    # SHA-256 of the secret: 256 random bits need no slow hash.
    Column("hash", String, primary_key=True),
    Column("kind", String, nullable=False),  # atoken, rtoken, ticket
    Column("unid", String, nullable=False, index=True),
    Column("family", String, nullable=False, index=True),
    Column("expires_at", Float, nullable=False, index=True),
    Column("used", Boolean, nullable=False),
)

store_confs = Table(
    "store_confs",
    metadata,
    _seq(),
    Column("unid", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("file_ext", String, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("rev", BigInteger, nullable=False),
    Column("updated_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

tasks = Table(
    "tasks",
    metadata,
    _seq(),
    Column("task_id", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("task_type", String, nullable=False),  # pic, video
    # One counter for all devices of the task; no order of the task has a higher rev.
    Column("rev", BigInteger, nullable=False),
    Column("algo_comb", _json),
    Column("store_conf_unid", String, ForeignKey("store_confs.unid"), index=True),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

task_devices = Table(
    "task_devices",
    metadata,
    _seq(),
    Column("task_id", String, ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
    Column("dev_unid", String, ForeignKey("devices.dev_unid"), nullable=False, index=True),
    Index("uq_task_devices_task_id_dev_unid", "task_id", "dev_unid", unique=True),
)

subtasks = Table(
    "subtasks",
    metadata,
    _seq(),
    Column("subtask_id", String, nullable=False, unique=True),
    Column("task_id", String, ForeignKey("tasks.task_id"), nullable=False, index=True),
    Column("dev_unid", String, ForeignKey("devices.dev_unid"), nullable=False, index=True),
    Column("vchan", _json),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

# What a device should have: see devconf.store.orders. No foreign key to tasks: a forced delete outlives its task.
orders = Table(
    "orders",
    metadata,
    Column("dev_unid", String, ForeignKey("devices.dev_unid", ondelete="CASCADE"), primary_key=True),
    Column("task_id", String, primary_key=True),
    Column("subtask_id", String, primary_key=True),
    Column("life", String, nullable=False),  # present, deleted
    Column("name_rev", BigInteger, nullable=False),
    Column("algo_rev", BigInteger, nullable=False),
    Column("conf_rev", BigInteger, nullable=False),
    Column("wanted_rev", BigInteger, nullable=False),
    Column("acked_rev", BigInteger, nullable=False),
    Column("applied_rev", BigInteger, nullable=False),
    Column("ecode", BigInteger, nullable=False),
    Column("enote", String, nullable=False),
    Column("at", Float),
    Column("late", Boolean, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    # The command that awaits its acknowledgement: see devconf.store.awaited.
    Column("awaited_by", BigInteger),
    Index("ix_orders_task_id_subtask_id", "task_id", "subtask_id"),
    Index("ix_orders_behind", "dev_unid", sqlite_where=text("wanted_rev > acked_rev")),
    Index("ix_orders_refused", "dev_unid", sqlite_where=text("ecode <> 0")),
    Index("ix_orders_awaited", "awaited_by", sqlite_where=text("awaited_by IS NOT NULL")),
)

commands = Table(
    "commands",
    metadata,
    _seq(),
    Column("command_id", String, nullable=False, unique=True),
    Column("command", String, nullable=False),
    Column("user_unid", String, nullable=False),
    Column("user_name", String, nullable=False),
    Column("task_id", String),
    Column("subtask_id", String),
    Column("unid", String),
    Column("dev_unid", String),
    Column("params", _json),  # without secrets
    # Until it is settled: how to (devconf.commands.settle), and the algo_comb a picture task is to get.
    Column("rule", String),
    Column("plan", _json),
    Column("algo_comb", _json),
    Column("planned_at", Float, nullable=False),
    Column("settled_at", Float),
    Column("ecode", BigInteger),
    Column("enote", String),
    Column("devices", _json),
    Column("awaits", BigInteger),
    Column("completed_at", Float),
    Index("ix_commands_unsettled", "task_id", sqlite_where=text("settled_at IS NULL")),
    Index("ix_commands_awaiting", "awaits", sqlite_where=text("awaits IS NOT NULL")),
    sqlite_autoincrement=True,
)

idempotency = Table(
    "idempotency",
    metadata,
    _seq(),
    Column("user_unid", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("at", Float, nullable=False),
    # Without secrets; null until its command is settled.
    Column("answer", _json),
    Index("uq_idempotency_user_unid_digest", "user_unid", "digest", unique=True),
    sqlite_autoincrement=True,
)
