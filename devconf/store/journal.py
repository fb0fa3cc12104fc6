"""Commands: what is planned and not settled yet, and what has been done (the history of ``docs/protocol.md`` §4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, String, bindparam, cast, delete, func, insert, or_, select, update

from devconf.clock import stamp
from devconf.store.paging import page, position
from devconf.store.tables import commands

# What each command runs is made once: SQLAlchemy takes longer to put a statement together than SQLite to run it.
_this = commands.c.command_id == bindparam("k_command_id")
_begin = insert(commands)
_planned = select(commands).where(_this, commands.c.settled_at.is_(None))
_settle = update(commands).where(_this)


def begin(connection: Connection, now: float, **values: Any) -> None:
    """Write a command's intent, in the transaction of its plan."""
    connection.execute(_begin, {"planned_at": now, **values})


def done(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Write commands that are over already."""
    connection.execute(_begin, rows)


def get_planned(connection: Connection, command_id: str) -> Row[Any] | None:
    """Return a command that has been planned and not settled."""
    return connection.execute(_planned, {"k_command_id": command_id}).one_or_none()


def unsettled(connection: Connection) -> list[str]:
    """Return the commands that have been planned and not settled, oldest first."""
    return list(
        connection.execute(
            select(commands.c.command_id).where(commands.c.settled_at.is_(None)).order_by(commands.c.seq)
        ).scalars()
    )


def planned_before(connection: Connection, rule: str) -> Iterable[dict[str, Any]]:
    """Return what unsettled commands of ``rule`` keep to undo themselves."""
    rows = connection.execute(
        select(commands.c.plan).where(commands.c.settled_at.is_(None), commands.c.rule == rule)
    ).scalars()
    return [plan["before"] for plan in rows]


def settle(
    connection: Connection, command_id: str, now: float, ecode: int, enote: str, devices: list[Any] | None
) -> None:
    """Write the outcome of a command; what was kept to undo it goes."""
    outcome = {"settled_at": now, "ecode": ecode, "enote": enote, "devices": devices}
    over = {"plan": None, "rule": None, "algo_comb": None}
    connection.execute(_settle, {"k_command_id": command_id, **outcome, **over})


# -- the history --------------------------------------------------------------------------------------------------


#: What an item of the history is made of, but for its devices.
SHOWN = [column for column in commands.c if column.name not in ("rule", "plan", "algo_comb", "devices")]


def item(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a command as an item of the history; one that runs has no outcome yet."""
    over = row["settled_at"] is not None
    completed_at = row.get("completed_at")
    return {
        **{name: row[name] for name in ("command_id", "command", "user_unid", "user_name", "params")},
        "at": stamp(row["planned_at"]),
        "outcome": ("failed" if row["ecode"] else "ok") if over else "running",
        "ecode": row["ecode"],
        "enote": row["enote"],
        "devices": row.get("devices"),
        "duration": round(max(0.0, row["settled_at"] - row["planned_at"]), 3) if over else None,
        **({} if completed_at is None else {"completed_at": stamp(completed_at)}),
    }


def event(item: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a command when it is over, or completed after that."""
    return {name: value for name, value in item.items() if name != "devices"}


#: Commands that one transaction looks at or removes: others have their turn in between.
SLICE = 10_000


def list_commands(
    connection: Connection,
    *,
    limit: int,
    after: str | None,
    command_id: str | None,
    task_id: str | None,
    dev_unid: str | None,
    user_name: str | None,
    user_unid: str | None,
    room: int,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return commands of the history, the newest first, and where to look on.

    There may be fewer than ``limit`` although there are more to come, since only so many are looked at.

    :param room: bytes after which no more are wanted.
    :param user_unid: only what this user did.
    """
    newest = connection.execute(select(func.max(commands.c.seq))).scalar() or 0
    start = newest + 1 if after is None else min(position(after), newest + 1)
    statement = select(commands).where(commands.c.seq >= start - SLICE)
    for column, value in (
        (commands.c.command_id, command_id),
        (commands.c.task_id, task_id),
        (commands.c.user_name, user_name),
        (commands.c.user_unid, user_unid),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if dev_unid is not None:
        # An id stands in quotes in the JSON of the devices, and nowhere else in it.
        went_to = cast(commands.c.devices, String).contains(f'"{dev_unid}"', autoescape=True)
        statement = statement.where(or_(commands.c.dev_unid == dev_unid, went_to))
    rows, following = page(connection, statement, commands.c.seq, limit, str(start), newest_first=True, room=room)
    if following is None and start > SLICE:
        following = str(start - SLICE)
    return [item(row._mapping) for row in rows], following


def prune(connection: Connection, before: float, keep: int) -> bool:
    """Remove the oldest commands: those planned ``before`` (seconds since the epoch), and all but the last ``keep``.

    What is not settled stays.

    :returns: whether there may be more to remove.
    """
    newest = connection.execute(select(func.max(commands.c.seq))).scalar() or 0
    oldest = select(commands.c.seq).order_by(commands.c.seq).limit(SLICE)
    removed = delete(commands).where(
        commands.c.seq.in_(oldest),
        or_(commands.c.planned_at < before, commands.c.seq <= newest - keep),
        commands.c.settled_at.is_not(None),
    )
    return connection.execute(removed).rowcount > 0
