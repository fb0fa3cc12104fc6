"""``tasks`` and ``tasks/pic_task_config`` (§20.1, §20.2; ``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Any, Literal

from attrs import define
from msgspec import UNSET, UnsetType, to_builtins
from sqlalchemy import Connection

from devconf.commands.machine import Machine, Plan, check_online
from devconf.commands.registry import Call, command
from devconf.commands.schemas import (
    AlgoComb,
    ConnectWait,
    Id,
    Name,
    Page,
    Params,
    StateName,
    optional,
    plain_algos,
    unique,
)
from devconf.errors import CommandFailed, Ecode
from devconf.model import OrderKey, Role
from devconf.store import confs, orders, tasks

DevUnids = list[Id]


class GetTasks(Page):
    """Params of ``get tasks``."""

    task_id: str | UnsetType = UNSET
    task_type: Literal["pic", "video"] | UnsetType = UNSET
    dev_unid: str | UnsetType = UNSET
    state: StateName | UnsetType = UNSET


class PostTask(Params):
    """Params of ``post tasks``."""

    name: Name
    task_type: Literal["pic", "video"]
    algo_comb: AlgoComb | UnsetType = UNSET
    store_conf_unid: Id | UnsetType = UNSET
    dev_unids: DevUnids | UnsetType = UNSET
    connect_wait: ConnectWait | UnsetType = UNSET


class PutTask(Params):
    """Params of ``put tasks``."""

    task_id: Id
    name: Name | UnsetType = UNSET
    store_conf_unid: Id | UnsetType | None = UNSET
    dev_unids: DevUnids | UnsetType = UNSET
    connect_wait: ConnectWait | UnsetType = UNSET


class DeleteTask(Params):
    """Params of ``delete tasks``."""

    task_id: Id
    force: bool = False
    connect_wait: ConnectWait | UnsetType = UNSET


class PicTaskConfig(Params):
    """Params of ``post tasks/pic_task_config``."""

    task_id: Id
    algo_comb: AlgoComb
    force: bool = False
    connect_wait: ConnectWait | UnsetType = UNSET


def lock_of(task_id: str) -> str:
    """Return the name of the lock of a task and its subtasks."""
    return f"task {task_id}"


@define
class TaskCommands:
    """The handlers."""

    _machine: Machine

    @command("get tasks", GetTasks, Role.VIEWER)
    async def get(self, call: Call) -> dict[str, Any]:
        """List tasks."""
        items, following = await self._machine.store.run(_list, call.params)
        return {"tasks": items, "next": following}

    @command("post tasks", PostTask, Role.OPERATOR)
    async def post(self, call: Call) -> dict[str, Any]:
        """Make a task, and send it to its devices."""
        params: PostTask = call.params
        algo_comb = plain_algos(params.algo_comb)
        if params.task_type == "video" and not isinstance(params.dev_unids, UnsetType):
            raise CommandFailed(
                Ecode.WRONG_KIND, "a video task is bound to devices by its subtasks ($.params.dev_unids)"
            )
        dev_unids = unique(optional(params.dev_unids) or [], "$.params.dev_unids")
        task_id = self._machine.random.identifier()

        def plan(connection: Connection, now: float) -> Plan:
            unid = optional(params.store_conf_unid)
            if unid is not None:
                confs.get_conf(connection, unid, "$.params.store_conf_unid")
            tasks.check_devices(connection, dev_unids, "$.params.dev_unids")
            tasks.check_algos(connection, dev_unids, algo_comb)
            tasks.insert_task(
                connection,
                now,
                task_id=task_id,
                name=params.name,
                task_type=params.task_type,
                algo_comb=algo_comb,
                store_conf_unid=unid,
            )
            tasks.bind(connection, task_id, dev_unids)
            keys = [OrderKey(dev_unid, task_id, "") for dev_unid in dev_unids]
            orders.want_present(connection, keys, 1)
            return Plan(
                "post_task",
                dict.fromkeys(keys, 1),
                payload={"task_id": task_id, "rev": 1},
                ids={"task_id": task_id},
            )

        return await self._machine.run(call, lock_of(task_id), plan, to_builtins(params), lambda _: dev_unids)

    @command("put tasks", PutTask, Role.OPERATOR)
    async def put(self, call: Call) -> dict[str, Any]:
        """Change a task's name, storage configuration or devices."""
        params: PutTask = call.params
        if all(isinstance(value, UnsetType) for value in (params.name, params.store_conf_unid, params.dev_unids)):
            raise CommandFailed(
                Ecode.BAD_FIELD, "$.params must have what is to change: name, store_conf_unid or dev_unids"
            )
        unique(optional(params.dev_unids) or [], "$.params.dev_unids")
        return await self._machine.run(
            call,
            lock_of(params.task_id),
            lambda connection, now: _plan_put(connection, now, params),
            to_builtins(params),
            lambda connection: _concerned(connection, params),
        )

    @command("delete tasks", DeleteTask, Role.OPERATOR)
    async def delete(self, call: Call) -> dict[str, Any]:
        """Delete a task (§20.1)."""
        params: DeleteTask = call.params

        def plan(connection: Connection, _now: float) -> Plan:
            task_id = params.task_id
            tasks.get_task(connection, task_id)
            subtask_count = tasks.count_subtasks(connection, task_id)
            if subtask_count:
                raise CommandFailed(
                    Ecode.HAS_SUBTASKS, f"the task {task_id!r} still has {subtask_count} subtasks; delete them first"
                )
            keys = [OrderKey(dev_unid, task_id, "") for dev_unid in tasks.bound_devices(connection, task_id)]
            return plan_delete(connection, self._machine, "delete_task", task_id, keys, params.force)

        return await self._machine.run(
            call,
            lock_of(params.task_id),
            plan,
            to_builtins(params),
            lambda connection: tasks.bound_devices(connection, params.task_id),
        )

    @command("post tasks/pic_task_config", PicTaskConfig, Role.OPERATOR)
    async def pic_task_config(self, call: Call) -> dict[str, Any]:
        """Give a picture task another ``algo_comb`` (§20.2)."""
        params: PicTaskConfig = call.params
        algo_comb = plain_algos(params.algo_comb)

        def plan(connection: Connection, now: float) -> Plan:
            task_id = params.task_id
            if tasks.get_task(connection, task_id).task_type != "pic":
                raise CommandFailed(Ecode.WRONG_KIND, f"{task_id!r} is a video task; only a picture task has this")
            dev_unids = tasks.bound_devices(connection, task_id)
            tasks.check_algos(connection, dev_unids, algo_comb)
            keys = [OrderKey(dev_unid, task_id, "") for dev_unid in dev_unids]
            if not params.force:
                check_online(keys, self._machine.hub)
            before = orders.snapshot(connection, keys)
            rev = orders.raise_task(connection, task_id)
            orders.want_parts(connection, keys, ["algo_comb"], rev)
            if params.force:
                tasks.update_task(connection, task_id, now, algo_comb=algo_comb)
            return Plan(
                "keep" if params.force else "pic_task_config",
                dict.fromkeys(keys, rev),
                rows_before=before,
                algo_comb=None if params.force else algo_comb,
                payload={"task_id": task_id, "rev": rev, "algo_comb": algo_comb},
            )

        return await self._machine.run(
            call,
            lock_of(params.task_id),
            plan,
            to_builtins(params),
            lambda connection: tasks.bound_devices(connection, params.task_id),
        )


def _list(connection: Connection, params: GetTasks) -> tuple[list[dict[str, Any]], str | None]:
    return tasks.list_tasks(
        connection,
        limit=params.limit,
        after=optional(params.after),
        task_id=optional(params.task_id),
        task_type=optional(params.task_type),
        dev_unid=optional(params.dev_unid),
        state=optional(params.state),
    )


def plan_delete(
    connection: Connection, machine: Machine, rule: str, task_id: str, keys: list[OrderKey], force: bool
) -> Plan:
    """Plan the deletion of a task, or of a subtask, that the devices of ``keys`` have.

    With ``force`` it is gone at once, and the devices are told in passing.
    """
    if not force:
        check_online(keys, machine.hub)
    before = orders.snapshot(connection, keys)
    rev = orders.raise_task(connection, task_id)
    orders.want_deleted(connection, keys, rev)
    if not force:
        return Plan(rule, dict.fromkeys(keys, rev), rows_before=before)
    if rule == "delete_task":
        tasks.delete_task(connection, task_id)
    else:
        for key in keys:
            tasks.delete_subtask(connection, key.subtask_id)
    return Plan("", dict.fromkeys(keys, rev))


def _concerned(connection: Connection, params: PutTask) -> list[str]:
    """Return the devices that a change goes to."""
    joining = optional(params.dev_unids)
    leaving = tasks.bound_devices(connection, params.task_id) if joining is not None else []
    changed = {*(joining or ())} ^ {*leaving}
    all_of_it = not (isinstance(params.name, UnsetType) and isinstance(params.store_conf_unid, UnsetType))
    return [*changed, *(orders.devices_of(connection, task_id=params.task_id) if all_of_it else ())]


def _plan_put(connection: Connection, now: float, params: PutTask) -> Plan:
    task_id = params.task_id
    task = tasks.get_task(connection, task_id)
    before: dict[str, Any] = {}
    parts: list[str] = []
    if not isinstance(params.name, UnsetType) and params.name != task.name:
        before["name"] = task.name
        parts.append("name")
    if not isinstance(params.store_conf_unid, UnsetType):
        if params.store_conf_unid is not None:
            confs.get_conf(connection, params.store_conf_unid, "$.params.store_conf_unid")
        if params.store_conf_unid != task.store_conf_unid:
            before["store_conf_unid"] = task.store_conf_unid
            # It may be replaced before this is settled, and have to be sent if this is undone.
            if task.store_conf_unid is not None:
                before["store_conf_rev"] = confs.get_conf(connection, task.store_conf_unid).rev
            parts.append("store_conf")
    leaving: list[str] = []
    joining: list[str] = []
    if not isinstance(params.dev_unids, UnsetType):
        bound = _check_devices(connection, task, params.dev_unids)
        asked, had = set(params.dev_unids), set(bound)
        leaving = [dev_unid for dev_unid in bound if dev_unid not in asked]
        joining = [dev_unid for dev_unid in params.dev_unids if dev_unid not in had]
        before["dev_unids"] = bound
    gone = set(leaving)
    staying = [key for key in orders.of_task(connection, task_id) if key.dev_unid not in gone] if parts else []
    left = [OrderKey(dev_unid, task_id, "") for dev_unid in leaving]
    joined = [OrderKey(dev_unid, task_id, "") for dev_unid in joining]
    rows_before = orders.snapshot(connection, [*staying, *left, *joined])
    rev = orders.raise_task(connection, task_id) if parts or left or joined else task.rev
    orders.want_parts(connection, staying, parts, rev)
    orders.want_deleted(connection, left, rev)
    orders.want_present(connection, joined, rev)
    if not isinstance(params.dev_unids, UnsetType):
        tasks.bind(connection, task_id, params.dev_unids)
    changes: dict[str, Any] = {}
    if "name" in before:
        changes["name"] = params.name
    if "store_conf_unid" in before:
        changes["store_conf_unid"] = params.store_conf_unid
    tasks.update_task(connection, task_id, now, **changes)
    return Plan(
        "put_task",
        dict.fromkeys([*staying, *left, *joined], rev),
        rows_before=rows_before,
        before=before,
        payload={"task_id": task_id, "rev": rev},
    )


def _check_devices(connection: Connection, task: Any, dev_unids: list[str]) -> list[str]:
    """Check the devices that a task is to have, and return those it has."""
    if task.task_type != "pic":
        raise CommandFailed(Ecode.WRONG_KIND, "a video task is bound to devices by its subtasks ($.params.dev_unids)")
    tasks.check_devices(connection, dev_unids, "$.params.dev_unids")
    tasks.check_algos(connection, dev_unids, task.algo_comb)
    return tasks.bound_devices(connection, task.task_id)
