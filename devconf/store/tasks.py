"""Tasks and subtasks, as they are stored. What devices have of them is in :mod:`devconf.store.orders`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from devconf.clock import stamp
from devconf.errors import CommandFailed, Ecode
from devconf.model import State
from devconf.store import refusals
from devconf.store.paging import page
from devconf.store.tables import devices, orders, subtasks, task_devices, tasks

# -- tasks --------------------------------------------------------------------------------------------------------

# Made once: SQLAlchemy takes longer to put a statement together than SQLite to run it.
_some: BindParameter[Any] = bindparam("dev_unids", expanding=True)
_task = select(tasks).where(tasks.c.task_id == bindparam("task_id"))
_update_task = update(tasks).where(tasks.c.task_id == bindparam("k_task_id"))
_bound = (
    select(task_devices.c.dev_unid).where(task_devices.c.task_id == bindparam("task_id")).order_by(task_devices.c.seq)
)
_unbind = delete(task_devices).where(task_devices.c.task_id == bindparam("task_id"))
_existing = select(devices.c.dev_unid).where(devices.c.dev_unid.in_(_some))
_declared = select(devices.c.dev_unid, devices.c.algos).where(
    devices.c.dev_unid.in_(_some), devices.c.algos.is_not(None)
)


def get_task(connection: Connection, task_id: str) -> Row[Any]:
    """Return the task.

    :raises CommandFailed: ``NO_SUCH_TASK``.
    """
    row = connection.execute(_task, {"task_id": task_id}).one_or_none()
    if row is None:
        raise CommandFailed(Ecode.NO_SUCH_TASK, f"there is no task {task_id!r} ($.params.task_id)")
    return row


def insert_task(connection: Connection, now: float, **values: Any) -> None:
    """Store a new task, with rev 1."""
    connection.execute(insert(tasks), {"rev": 1, "created_at": now, "updated_at": now, **values})


def update_task(connection: Connection, task_id: str, now: float, **values: Any) -> None:
    """Change columns of a task."""
    connection.execute(_update_task, {"k_task_id": task_id, "updated_at": now, **values})


def delete_task(connection: Connection, task_id: str) -> None:
    """Delete a task and its bindings; its orders are another matter."""
    connection.execute(delete(tasks).where(tasks.c.task_id == task_id))


def bound_devices(connection: Connection, task_id: str) -> list[str]:
    """Return the devices a picture task is bound to, in the order in which they were."""
    return list(connection.execute(_bound, {"task_id": task_id}).scalars())


def bind(connection: Connection, task_id: str, dev_unids: Collection[str]) -> None:
    """Bind a picture task to ``dev_unids`` and no others; devices that are gone are left out."""
    known = existing(connection, dev_unids)
    connection.execute(_unbind, {"task_id": task_id})
    rows = [{"task_id": task_id, "dev_unid": dev_unid} for dev_unid in dev_unids if dev_unid in known]
    if rows:
        connection.execute(insert(task_devices), rows)


def existing(connection: Connection, dev_unids: Collection[str]) -> set[str]:
    """Return those of ``dev_unids`` that there are."""
    found: set[str] = set()
    wanted = list(dev_unids)
    for start in range(0, len(wanted), 1000):
        found.update(connection.execute(_existing, {"dev_unids": wanted[start : start + 1000]}).scalars())
    return found


def check_devices(connection: Connection, dev_unids: Collection[str], path: str) -> None:
    """Check that all of ``dev_unids`` exist.

    :param path: their JSON path.
    :raises CommandFailed: ``NO_SUCH_DEVICE``.
    """
    known = existing(connection, dev_unids)
    for number, dev_unid in enumerate(dev_unids):
        if dev_unid not in known:
            raise CommandFailed(Ecode.NO_SUCH_DEVICE, f"there is no device {dev_unid!r} ({path}[{number}])")


def check_algos(connection: Connection, dev_unids: Iterable[str], algo_comb: list[dict[str, Any]] | None) -> None:
    """Check that each of ``dev_unids`` declared the algorithms of ``algo_comb``, or none at all.

    :raises CommandFailed: ``CANNOT_RUN``.
    """
    if not algo_comb:
        return
    needed = [item["algo_id"] for item in algo_comb]
    wanted = list(dev_unids)
    for start in range(0, len(wanted), 1000):
        for row in connection.execute(_declared, {"dev_unids": wanted[start : start + 1000]}):
            lacking = [algo_id for algo_id in needed if row.algos and algo_id not in row.algos]
            if lacking:
                raise CommandFailed(
                    Ecode.CANNOT_RUN, f"the device {row.dev_unid!r} cannot run the algorithm {lacking[0]!r}"
                )


# -- subtasks -----------------------------------------------------------------------------------------------------


def get_subtask(connection: Connection, subtask_id: str) -> Row[Any]:
    """Return the subtask.

    :raises CommandFailed: ``NO_SUCH_SUBTASK``.
    """
    row = connection.execute(select(subtasks).where(subtasks.c.subtask_id == subtask_id)).one_or_none()
    if row is None:
        raise CommandFailed(Ecode.NO_SUCH_SUBTASK, f"there is no subtask {subtask_id!r} ($.params.subtask_id)")
    return row


def task_of(connection: Connection, subtask_id: str) -> str | None:
    """Return the task of a subtask; None if there is no such subtask."""
    return connection.execute(select(subtasks.c.task_id).where(subtasks.c.subtask_id == subtask_id)).scalar()


def insert_subtask(connection: Connection, now: float, **values: Any) -> None:
    """Store a new subtask."""
    connection.execute(insert(subtasks).values(created_at=now, **values))


def delete_subtask(connection: Connection, subtask_id: str) -> None:
    """Delete a subtask; its order is another matter."""
    connection.execute(delete(subtasks).where(subtasks.c.subtask_id == subtask_id))


def count_subtasks(connection: Connection, task_id: str) -> int:
    """Return how many subtasks a task has."""
    return connection.execute(
        select(func.count()).select_from(subtasks).where(subtasks.c.task_id == task_id)
    ).scalar_one()


# -- lists --------------------------------------------------------------------------------------------------------

#: The states from best to worst, by which a task's is the worst of its devices'.
RANKS = (State.CONFIRMED, State.PENDING, State.REFUSED)

#: How far a row of ``orders`` is, as an index of :data:`RANKS`.
rank = case((orders.c.wanted_rev > orders.c.acked_rev, 1), (orders.c.ecode != 0, 2), else_=0)

_worst = (
    select(func.coalesce(func.max(rank), 0))
    .where(orders.c.task_id == tasks.c.task_id, orders.c.life == "present")
    .scalar_subquery()
)
_subtask_count = (
    select(func.count()).select_from(subtasks).where(subtasks.c.task_id == tasks.c.task_id).scalar_subquery()
)


def list_tasks(
    connection: Connection,
    *,
    limit: int,
    after: str | None,
    task_id: str | None,
    task_type: str | None,
    dev_unid: str | None,
    state: str | None,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of tasks as items of §4, and the ``after`` of the next one."""
    statement: Select[Any] = select(tasks, _worst.label("rank"), _subtask_count.label("subtask_count"))
    if task_id is not None:
        statement = statement.where(tasks.c.task_id == task_id)
    if task_type is not None:
        statement = statement.where(tasks.c.task_type == task_type)
    if dev_unid is not None:
        statement = statement.where(_uses(dev_unid))
    if state is not None:
        statement = statement.where(_worst == RANKS.index(State(state)))
    rows, following = page(connection, statement, tasks.c.seq, limit, after)
    bound = _bindings(connection, [row.task_id for row in rows])
    refused = [row.task_id for row in rows if RANKS[row.rank] is State.REFUSED]
    why = refusals.of(connection, orders.c.task_id, refused)
    return [_task_item(row, bound.get(row.task_id, []), why.get(row.task_id, [])) for row in rows], following


def _uses(dev_unid: str) -> Any:
    def has(table: Any) -> Any:
        return exists().where(table.c.task_id == tasks.c.task_id, table.c.dev_unid == dev_unid)

    return or_(has(task_devices), has(subtasks))


def _bindings(connection: Connection, task_ids: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    rows = connection.execute(
        select(task_devices).where(task_devices.c.task_id.in_(task_ids)).order_by(task_devices.c.seq)
    )
    for row in rows:
        found.setdefault(row.task_id, []).append(row.dev_unid)
    return found


def _task_item(row: Row[Any], dev_unids: list[str], refused: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "name": row.name,
        "task_type": row.task_type,
        "rev": row.rev,
        "algo_comb": row.algo_comb,
        "store_conf_unid": row.store_conf_unid,
        "dev_unids": dev_unids,
        "subtask_count": row.subtask_count,
        "state": RANKS[row.rank],
        **({"refusals": refused} if refused else {}),
        "created_at": stamp(row.created_at),
        "updated_at": stamp(row.updated_at),
    }


def list_subtasks(
    connection: Connection,
    *,
    limit: int,
    after: str | None,
    task_id: str | None,
    subtask_id: str | None,
    dev_unid: str | None,
    state: str | None,
    with_vchan: bool,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of subtasks as items of §4, and the ``after`` of the next one."""
    same = and_(orders.c.subtask_id == subtasks.c.subtask_id, orders.c.task_id == subtasks.c.task_id)
    statement: Select[Any] = select(
        subtasks, func.coalesce(orders.c.wanted_rev, 0).label("rev"), func.coalesce(rank, 0).label("rank")
    ).select_from(subtasks.outerjoin(orders, and_(same, orders.c.dev_unid == subtasks.c.dev_unid)))
    for column, value in ((subtasks.c.task_id, task_id), (subtasks.c.subtask_id, subtask_id)):
        if value is not None:
            statement = statement.where(column == value)
    if dev_unid is not None:
        statement = statement.where(subtasks.c.dev_unid == dev_unid)
    if state is not None:
        statement = statement.where(rank == RANKS.index(State(state)))
    rows, following = page(connection, statement, subtasks.c.seq, limit, after)
    items = []
    for row in rows:
        item = {"subtask_id": row.subtask_id, "task_id": row.task_id, "dev_unid": row.dev_unid}
        if with_vchan:
            item["vchan"] = row.vchan
        items.append(item | {"rev": row.rev, "state": RANKS[row.rank]})
    return items, following
