"""``subtasks``: a video task's share on one device (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Any

from attrs import define
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from devconf import wire
from devconf.commands.machine import Machine, Plan
from devconf.commands.registry import Call, command
from devconf.commands.schemas import ConnectWait, Id, Page, Params, StateName, optional
from devconf.commands.tasks import lock_of, plan_delete
from devconf.errors import CommandFailed, Ecode
from devconf.model import OrderKey, Role
from devconf.store import devices, orders, tasks

#: Bytes of a ``vchan`` as JSON. Those of many subtasks are in memory together when their devices come back.
VCHAN_MAX = 65536


class GetSubtasks(Page):
    """Params of ``get subtasks``."""

    task_id: str | UnsetType = UNSET
    subtask_id: str | UnsetType = UNSET
    dev_unid: str | UnsetType = UNSET
    state: StateName | UnsetType = UNSET


class PostSubtask(Params):
    """Params of ``post subtasks``."""

    task_id: Id
    dev_unid: Id
    vchan: dict[str, Any] | UnsetType = UNSET
    connect_wait: ConnectWait | UnsetType = UNSET


class DeleteSubtask(Params):
    """Params of ``delete subtasks``."""

    subtask_id: Id
    force: bool = False
    connect_wait: ConnectWait | UnsetType = UNSET


@define
class SubtaskCommands:
    """The handlers."""

    _machine: Machine

    @command("get subtasks", GetSubtasks, Role.VIEWER)
    async def get(self, call: Call) -> dict[str, Any]:
        """List subtasks; only operators see a ``vchan``."""
        with_vchan = call.identity.role >= Role.OPERATOR
        items, following = await self._machine.store.run(_list, call.params, with_vchan)
        return {"subtasks": items, "next": following}

    @command("post subtasks", PostSubtask, Role.OPERATOR)
    async def post(self, call: Call) -> dict[str, Any]:
        """Make a subtask, and send it to its device."""
        params: PostSubtask = call.params
        size = len(wire.encode(optional(params.vchan)))
        if size > VCHAN_MAX:
            raise CommandFailed(
                Ecode.BAD_FIELD, f"$.params.vchan has {size} bytes as JSON; a video channel has at most {VCHAN_MAX}"
            )
        subtask_id = self._machine.random.identifier()

        def plan(connection: Connection, now: float) -> Plan:
            task = tasks.get_task(connection, params.task_id)
            if task.task_type != "video":
                raise CommandFailed(
                    Ecode.WRONG_KIND, f"{params.task_id!r} is a picture task; only a video task has subtasks"
                )
            devices.get_device(connection, params.dev_unid)
            tasks.check_algos(connection, [params.dev_unid], task.algo_comb)
            tasks.insert_subtask(
                connection,
                now,
                subtask_id=subtask_id,
                task_id=params.task_id,
                dev_unid=params.dev_unid,
                vchan=optional(params.vchan),
            )
            rev = orders.raise_task(connection, params.task_id)
            key = OrderKey(params.dev_unid, params.task_id, subtask_id)
            orders.want_present(connection, [key], rev)
            return Plan(
                "post_subtask",
                {key: rev},
                payload={"subtask_id": subtask_id, "rev": rev},
                ids={"subtask_id": subtask_id},
            )

        told = {"task_id": params.task_id, "dev_unid": params.dev_unid}  # a vchan may hold a camera's password
        return await self._machine.run(call, lock_of(params.task_id), plan, told, lambda _: [params.dev_unid])

    @command("delete subtasks", DeleteSubtask, Role.OPERATOR)
    async def delete(self, call: Call) -> dict[str, Any]:
        """Delete a subtask."""
        params: DeleteSubtask = call.params
        # The lock is the task's, which only the subtask tells; a subtask never changes it.
        task_id = await self._machine.store.run(tasks.task_of, params.subtask_id) or ""

        def plan(connection: Connection, _now: float) -> Plan:
            subtask = tasks.get_subtask(connection, params.subtask_id)
            keys = [OrderKey(subtask.dev_unid, subtask.task_id, subtask.subtask_id)]
            planned = plan_delete(connection, self._machine, "delete_subtask", task_id, keys, params.force)
            planned.ids["task_id"] = task_id
            return planned

        def concerned(connection: Connection) -> list[str]:
            keys = orders.of_task(connection, task_id)
            return [key.dev_unid for key in keys if key.subtask_id == params.subtask_id]

        told = {"subtask_id": params.subtask_id, "force": params.force}
        return await self._machine.run(call, lock_of(task_id), plan, told, concerned)


def _list(connection: Connection, params: GetSubtasks, with_vchan: bool) -> tuple[list[dict[str, Any]], str | None]:
    return tasks.list_subtasks(
        connection,
        limit=params.limit,
        after=optional(params.after),
        task_id=optional(params.task_id),
        subtask_id=optional(params.subtask_id),
        dev_unid=optional(params.dev_unid),
        state=optional(params.state),
        with_vchan=with_vchan,
    )
