"""``devconf history``: what was done, by whom, and how it ended."""

from __future__ import annotations

import click

from devconf.cli import find
from devconf.cli.output import short
from devconf.cli.params import changes
from devconf.cli.session import Session, networked

#: The history may be very long, so that it is not read whole unless that is said.
LIMIT = 100


@click.group()
def history() -> None:
    """The history: what was done, by whom, and how it ended."""


@history.command("list")
@click.option("--task", "task_id", metavar="TASK_ID", help="Only commands that named this task, or made it.")
@click.option("--device", help="Only commands that named this device, or went to it.")
@click.option("--by", metavar="NAME", help="Only commands of this user.")
@click.option("--limit", type=click.IntRange(1), default=LIMIT, show_default=True, metavar="N", help="At most so many.")
@networked
async def list_history(session: Session, task_id: str | None, device: str | None, by: str | None, limit: int) -> None:
    """List the newest commands, the newest first. A viewer sees their own only."""
    dev_unid = (await find.device(session, device))["dev_unid"] if device else None
    found = await session.all("commands", changes(task_id=task_id, dev_unid=dev_unid, user_name=by), limit)
    if not session.out.as_json:
        for item in found:
            item["command"] = short(item["command"])
    columns = [("AT", "at"), ("COMMAND_ID", "command_id"), ("USER", "user_name"), ("COMMAND", "command")]
    columns += [("OUTCOME", "outcome"), ("SECONDS", "duration"), ("ENOTE", "enote")]
    session.out.items(found, columns, "no commands")
    if len(found) == limit:
        session.out.note(f"these are the newest {limit}; --limit asks for more")


@history.command("show")
@click.argument("command_id")
@networked
async def show(session: Session, command_id: str) -> None:
    """Show all that is known of one command."""
    session.out.item(await find.only(session, "commands", "command_id", command_id, "command"))
