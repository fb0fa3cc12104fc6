"""What devices should hold, as the server tells an operator (``docs/protocol.md`` §4)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any

from attrs import evolve, field, frozen

from devconf.client import Message
from devconf.device import Key
from devconf.simulator.application import Held, canonical, digested

#: Sends a command, such as ``get tasks``, with its params, and returns the response.
Ask = Callable[[str, Message], Awaitable[Message]]

_PAGE = 1000


@frozen
class Want:
    """A task or subtask as a device should hold it.

    :ivar content: its ``rev`` is the server's, which may be above the device's.
    :ivar state: of a subtask that of its order; of a picture task the worst of all its devices.
    """

    content: Held
    state: str


@frozen
class Wanted:
    """What the server says of one device.

    :ivar pending: how many of its orders are pending, and :ivar refused: refused; those to delete count as well.
    """

    online: bool
    pending: int
    refused: int
    tasks: dict[Key, Want] = field(factory=dict)


async def read_wanted(ask: Ask, dev_unids: Collection[str]) -> dict[str, Wanted]:
    """Return what the server says of the devices ``dev_unids``, by their ids; of one that it does not know, nothing.

    It is read in many requests: what changes meanwhile may be half old and half new.

    :raises RequestFailed: the account may not read this, above all the contents, which take the role operator.
    """
    found = {
        item["dev_unid"]: Wanted(item["online"], item["pending"], item["refused"])
        async for item in pages(ask, "devices")
        if item["dev_unid"] in dev_unids
    }
    # Before the tasks: a task stays as long as it has subtasks.
    subtasks = [item async for item in pages(ask, "subtasks") if item["dev_unid"] in found]
    tasks = {item["task_id"]: item async for item in pages(ask, "tasks")}
    confs = await _read_confs(ask, {task["store_conf_unid"] for task in tasks.values()} - {None})
    contents = {task_id: _content(task, confs) for task_id, task in tasks.items()}
    for task_id, task in tasks.items():
        for dev_unid in task["dev_unids"]:
            if dev_unid in found:
                found[dev_unid].tasks[task_id, None] = Want(contents[task_id], task["state"])
    for item in subtasks:
        task_id = item["task_id"]
        if task_id in contents:
            content = evolve(contents[task_id], rev=item["rev"], vchan=canonical(item["vchan"]))
            found[item["dev_unid"]].tasks[task_id, item["subtask_id"]] = Want(content, item["state"])
    return found


async def read_running(ask: Ask, task_ids: Collection[str]) -> set[str]:
    """Return those of ``task_ids`` that a command is just changing; what their devices hold is undecided."""
    running = set()
    for task_id in task_ids:
        response = await ask("get commands", {"task_id": task_id, "limit": 50})
        if any(item["outcome"] == "running" for item in response["commands"]):
            running.add(task_id)
    return running


async def pages(ask: Ask, resource: str) -> AsyncIterator[Message]:
    """Yield the items of a list, such as ``tasks``, of all its pages."""
    params: Message = {"limit": _PAGE}
    while True:
        page = await ask(f"get {resource}", params)
        for item in page[resource]:
            yield item
        if page["next"] is None:
            return
        params["after"] = page["next"]


async def _read_confs(ask: Ask, unids: Collection[str]) -> dict[str, str | None]:
    """Return the storage configurations ``unids``, each as :func:`digested` does; one at a time, for they are long."""
    confs = {}
    for unid in unids:
        response = await ask("get store_confs", {"unid": unid, "content": True})
        for conf in response["store_confs"]:
            confs[unid] = digested(conf)
    return confs


def _content(task: Message, confs: Mapping[str, Any]) -> Held:
    return Held(
        task["rev"],
        task["task_type"],
        task["name"],
        canonical(task["algo_comb"]),
        confs.get(task["store_conf_unid"]),
        None,
    )
