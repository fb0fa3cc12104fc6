"""``devconf tasks`` and ``devconf subtasks``."""

from __future__ import annotations

from typing import Any

import click

from devconf.cli import find
from devconf.cli.devices import STATES
from devconf.cli.params import algos, changes, json_object, needs_change
from devconf.cli.session import Session, networked, option_connect_wait, option_limit

_HOW_ALGOS = "names with commas between them, a JSON list, @FILE with one, or - for the standard input"


@click.group()
def tasks() -> None:
    """Tasks: what devices are to do."""


@tasks.command("list")
@click.option("--type", "task_type", type=click.Choice(["pic", "video"]), help="Only picture tasks, or video tasks.")
@click.option("--device", help="Only those that this device is bound to, itself or by a subtask.")
@click.option("--state", type=STATES, help="Only those in this state: the worst of their devices'.")
@option_limit
@networked
async def list_tasks(
    session: Session, task_type: str | None, device: str | None, state: str | None, limit: int | None
) -> None:
    """List the tasks."""
    dev_unid = (await find.device(session, device))["dev_unid"] if device else None
    found = await session.all("tasks", changes(task_type=task_type, dev_unid=dev_unid, state=state), limit)
    if not session.out.as_json:
        for task in found:
            task["devices"] = len(task["dev_unids"])
    columns = [("TASK_ID", "task_id"), ("NAME", "name"), ("TYPE", "task_type"), ("REV", "rev")]
    columns += [("DEVICES", "devices"), ("SUBTASKS", "subtask_count"), ("STATE", "state")]
    session.out.items(found, columns, "no tasks")


@tasks.command("show")
@click.argument("task_id")
@networked
async def show(session: Session, task_id: str) -> None:
    """Show all that is known of a task."""
    session.out.item(await find.only(session, "tasks", "task_id", task_id, "task"))


@tasks.command("add")
@click.argument("name")
@click.option("--type", "task_type", type=click.Choice(["pic", "video"]), required=True, help="Its kind.")
@click.option("--algos", "algo_comb", type=algos, metavar="ALGOS", help=f"Its algorithms: {_HOW_ALGOS}.")
@click.option("--store-conf", metavar="UNID", help="Its storage configuration.")
@click.option("--device", multiple=True, help="A device of a picture task; may be given several times.")
@option_connect_wait
@networked
async def add(
    session: Session,
    name: str,
    task_type: str,
    algo_comb: list[Any] | None,
    store_conf: str | None,
    device: tuple[str, ...],
    connect_wait: float | None,
) -> None:
    """Make a task called NAME, and send it to its devices."""
    params = changes(
        name=name,
        task_type=task_type,
        algo_comb=algo_comb,
        store_conf_unid=store_conf,
        connect_wait=connect_wait,
    )
    if device:
        params["dev_unids"] = await find.dev_unids(session, device)
    response = await session.ask("post tasks", params, doing=f"task {name}")
    await session.done(response, f"task {response['task_id']} is made")


@tasks.command("set")
@click.argument("task_id")
@click.option("--name", help="Another name.")
@click.option("--store-conf", metavar="UNID", help="Another storage configuration.")
@click.option("--no-store-conf", is_flag=True, help="No storage configuration any longer.")
@click.option("--device", multiple=True, help="A device of a picture task; all that it is to have then.")
@click.option("--no-device", is_flag=True, help="No devices any longer.")
@needs_change(
    "name",
    "store_conf",
    "no_store_conf",
    "device",
    "no_device",
    not_both=(("store_conf", "no_store_conf"), ("device", "no_device")),
)
@option_connect_wait
@networked
async def change(
    session: Session,
    task_id: str,
    name: str | None,
    store_conf: str | None,
    no_store_conf: bool,
    device: tuple[str, ...],
    no_device: bool,
    connect_wait: float | None,
) -> None:
    """Change a task; for its algorithms see 'devconf tasks algos'."""
    params = changes(name=name, store_conf_unid=store_conf, connect_wait=connect_wait)
    if no_store_conf:
        params["store_conf_unid"] = None
    if device or no_device:
        params["dev_unids"] = await find.dev_unids(session, device)
    response = await session.ask("put tasks", {"task_id": task_id, **params}, doing=f"task {task_id}")
    await session.done(response, f"task {task_id} is rev {response['rev']} now")


@tasks.command("remove")
@click.argument("task_id")
@click.option("--force", is_flag=True, help="Whatever its devices say; those that are offline are told later.")
@option_connect_wait
@networked
async def remove(session: Session, task_id: str, force: bool, connect_wait: float | None) -> None:
    """Delete a task once its devices have (§20.1); it must have no subtasks."""
    params = changes(task_id=task_id, force=force, connect_wait=connect_wait)
    await session.done(await session.ask("delete tasks", params, doing=f"task {task_id}"), f"task {task_id} is gone")


@tasks.command("algos", help=f"Give a picture task other algorithms (§20.2). ALGOS are {_HOW_ALGOS}.")
@click.argument("task_id")
@click.argument("algo_comb", metavar="ALGOS", type=algos)
@click.option("--force", is_flag=True, help="Store them whatever its devices say; the others get them when they can.")
@option_connect_wait
@networked
async def set_algos(
    session: Session, task_id: str, algo_comb: list[Any], force: bool, connect_wait: float | None
) -> None:
    """Run the command; see its help."""
    params = changes(task_id=task_id, algo_comb=algo_comb, force=force, connect_wait=connect_wait)
    response = await session.ask("post tasks/pic_task_config", params, doing=f"task {task_id}")
    await session.done(response, f"task {task_id} is rev {response['rev']} now")


@click.group()
def subtasks() -> None:
    """Subtasks: which device runs a video task."""


@subtasks.command("list")
@click.option("--task", "task_id", metavar="TASK_ID", help="Only those of this task.")
@click.option("--device", help="Only those on this device.")
@click.option("--state", type=STATES, help="Only those in this state.")
@option_limit
@networked
async def list_subtasks(
    session: Session, task_id: str | None, device: str | None, state: str | None, limit: int | None
) -> None:
    """List the subtasks."""
    dev_unid = (await find.device(session, device))["dev_unid"] if device else None
    found = await session.all("subtasks", changes(task_id=task_id, dev_unid=dev_unid, state=state), limit)
    columns = [("SUBTASK_ID", "subtask_id"), ("TASK_ID", "task_id"), ("DEV_UNID", "dev_unid"), ("REV", "rev")]
    session.out.items(found, [*columns, ("STATE", "state"), ("VCHAN", "vchan")], "no subtasks")


@subtasks.command("add")
@click.option("--task", "task_id", metavar="TASK_ID", required=True, help="The video task.")
@click.option("--device", required=True, help="The device that is to run it.")
@click.option(
    "--vchan",
    type=json_object,
    metavar="JSON",
    help="The video channel: a JSON object, @FILE with one, or - for stdin.",
)
@option_connect_wait
@networked
async def add_subtask(
    session: Session, task_id: str, device: str, vchan: dict[str, Any] | None, connect_wait: float | None
) -> None:
    """Have a device run a video task."""
    dev_unid = (await find.device(session, device))["dev_unid"]
    params = changes(task_id=task_id, dev_unid=dev_unid, vchan=vchan, connect_wait=connect_wait)
    response = await session.ask("post subtasks", params, doing=f"task {task_id} on {device}")
    await session.done(response, f"subtask {response['subtask_id']} is made")


@subtasks.command("remove")
@click.argument("subtask_id")
@click.option("--force", is_flag=True, help="Whatever its device says; if it is offline, it is told later.")
@option_connect_wait
@networked
async def remove_subtask(session: Session, subtask_id: str, force: bool, connect_wait: float | None) -> None:
    """Delete a subtask once its device has."""
    params = changes(subtask_id=subtask_id, force=force, connect_wait=connect_wait)
    response = await session.ask("delete subtasks", params, doing=f"subtask {subtask_id}")
    await session.done(response, f"subtask {subtask_id} is gone")
