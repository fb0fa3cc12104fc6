"""Why something is refused: what devices said, as lists tell it (``docs/protocol.md`` §4)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Column, Connection, bindparam, func, select

from devconf.store.orders import KEY, behind
from devconf.store.tables import orders

#: Refusals that an item of a list tells.
TOLD = 3


def of(connection: Connection, column: Column[str], unids: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the first refusals of each of ``unids``.

    :param column: of ``orders``: what they are the ids of.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    if unids:
        for row in connection.execute(_STATEMENTS[column.name], {"unids": list(unids)}):
            told = {"dev_unid": row.dev_unid, "task_id": row.task_id}
            if row.subtask_id:
                told["subtask_id"] = row.subtask_id
            found.setdefault(getattr(row, column.name), []).append(told | {"ecode": row.ecode, "enote": row.enote})
    return found


def _statement(column: Column[str]) -> Any:
    place = func.row_number().over(partition_by=column, order_by=KEY).label("place")
    refused = (
        select(*KEY, orders.c.ecode, orders.c.enote, place)
        .where(column.in_(bindparam("unids", expanding=True)), orders.c.ecode != 0, ~behind)
        .subquery()
    )
    return select(refused).where(refused.c.place <= TOLD).order_by(refused.c.place)


_STATEMENTS = {column.name: _statement(column) for column in (orders.c.task_id, orders.c.dev_unid)}
