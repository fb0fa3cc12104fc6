"""Commands: what is planned and not settled yet, and what has been done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from devconf.store.tables import commands


def begin(connection: Connection, now: float, **values: Any) -> None:
    """Write a command's intent, in the transaction of its plan."""
    connection.execute(insert(commands).values(planned_at=now, **values))


def done(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Write commands that are over already."""
    connection.execute(insert(commands), rows)


def get_planned(connection: Connection, command_id: str) -> Row[Any] | None:
    """Return a command that has been planned and not settled."""
    return connection.execute(
        select(commands).where(commands.c.command_id == command_id, commands.c.settled_at.is_(None))
    ).one_or_none()


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
    connection.execute(
        update(commands)
        .where(commands.c.command_id == command_id)
        .values(settled_at=now, ecode=ecode, enote=enote, devices=devices, plan=None, rule=None, algo_comb=None)
    )
