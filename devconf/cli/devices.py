"""``devconf devices``: enrol devices, look at them, change them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from devconf.cli import find
from devconf.cli.enrol import enrol
from devconf.cli.params import changes, json_object, needs_change
from devconf.cli.session import Session, networked, option_connect_wait, option_limit
from devconf.cli.status import Failed, Status

if TYPE_CHECKING:
    from devconf.client import Message

STATES = click.Choice(["confirmed", "pending", "refused"])
KEY_HINT = "the key is shown this once; give it to the device now"


@click.group()
def devices() -> None:
    """Devices: enrol them, look at them, change them.

    A DEVICE is named by its dev_refid or its dev_unid.
    """


@devices.command("list")
@click.option("--online/--offline", default=None, help="Only those that are connected, or are not.")
@click.option("--state", type=STATES, help="Only those in this state: the worst of all that they should have.")
@click.option("--text", metavar="TEXT", help="Only those with this in their dev_refid, name, type or dev_unid.")
@option_limit
@networked
async def list_devices(
    session: Session, online: bool | None, state: str | None, text: str | None, limit: int | None
) -> None:
    """List the devices."""
    found = await session.all("devices", changes(online=online, state=state, text=text), limit)
    columns = [("DEV_UNID", "dev_unid"), ("DEV_REFID", "dev_refid"), ("NAME", "dev_name"), ("TYPE", "dev_type")]
    columns += [("ENABLED", "enabled"), ("ONLINE", "online"), ("PENDING", "pending"), ("REFUSED", "refused")]
    session.out.items(found, columns, "no devices")


@devices.command("show")
@click.argument("device")
@networked
async def show(session: Session, device: str) -> None:
    """Show all that is known of DEVICE."""
    session.out.item(await find.device(session, device))


@devices.command("add")
@click.argument("dev_refid")
@click.option("--name", help="Its name; without it the device names itself.")
@click.option("--type", "dev_type", help="What kind of device it is.")
@click.option("--key-required/--no-key-required", default=None, help="Whether it must log in with its key; it must.")
@networked
async def add(
    session: Session, dev_refid: str, name: str | None, dev_type: str | None, key_required: bool | None
) -> None:
    """Enrol the device that calls itself DEV_REFID, and print its id and its key."""
    params = changes(dev_refid=dev_refid, dev_name=name, dev_type=dev_type, key_required=key_required)
    response = await session.ask("post devices", params)
    _keyed(session, response, {"dev_unid": response["dev_unid"], "dev_key": response["dev_key"]})


def _keyed(session: Session, response: Message, shown: Message) -> None:
    session.out.item(response if session.out.as_json else shown)
    session.out.note(KEY_HINT)


@devices.command("set")
@click.argument("device")
@click.option("--name", help="Its name; empty: the device may name itself again.")
@click.option("--refid", help="The dev_refid of other hardware that takes its place; that gets everything again.")
@click.option("--enable/--disable", "enabled", default=None, help="Whether it may log in.")
@click.option("--key-required/--no-key-required", default=None, help="Whether it must log in with its key.")
@click.option("--new-key", is_flag=True, help="Give it another key, and print that.")
@needs_change("name", "refid", "enabled", "key_required", "new_key")
@networked
async def change(
    session: Session,
    device: str,
    name: str | None,
    refid: str | None,
    enabled: bool | None,
    key_required: bool | None,
    new_key: bool,
) -> None:
    """Change DEVICE. One that is disabled, gets a new key or is replaced is disconnected."""
    params = changes(
        dev_name=name, dev_refid=refid, enabled=enabled, key_required=key_required, new_key=new_key or None
    )
    dev_unid = (await find.device(session, device))["dev_unid"]
    response = await session.ask("put devices", {"dev_unid": dev_unid, **params})
    if new_key:
        _keyed(session, response, {"dev_unid": dev_unid, "dev_key": response["dev_key"]})
    else:
        await session.done(response, f"{device} is changed")


@devices.command("remove")
@click.argument("device")
@networked
async def remove(session: Session, device: str) -> None:
    """Delete DEVICE, which must be bound to no task."""
    dev_unid = (await find.device(session, device))["dev_unid"]
    await session.done(await session.ask("delete devices", {"dev_unid": dev_unid}), f"{device} is gone")


@devices.command("resync")
@click.argument("device")
@networked
async def resync(session: Session, device: str) -> None:
    """Send DEVICE everything again that it should have. Does not wait for its answers."""
    dev_unid = (await find.device(session, device))["dev_unid"]
    response = await session.ask("post devices/resync", {"dev_unid": dev_unid})
    await session.done(response, f"{device} is sent {response['pending']} orders again")


@devices.command("call")
@click.argument("device")
@click.argument("command")
@click.argument("params", type=json_object, metavar="[PARAMS]", required=False)
@click.option("--timeout", type=float, metavar="SECONDS", help="How long to wait for its answer; at most 300.")
@option_connect_wait
@networked
async def call(
    session: Session,
    device: str,
    command: str,
    params: dict[str, Any] | None,
    timeout: float | None,
    connect_wait: float | None,
) -> Status:
    """Pass COMMAND through to DEVICE, and print what it answers, as JSON.

    PARAMS are its params: a JSON object, @FILE with one, or - for the standard input. The exit status is 5 if the
    device answers an ecode that is not 0.
    """
    dev_unid = (await find.device(session, device))["dev_unid"]
    asked = changes(dev_unid=dev_unid, command=command, params=params, timeout=timeout, connect_wait=connect_wait)
    answer = (await session.ask("post devices/call", asked))["answer"]
    session.out.document(answer)
    if answer.get("ecode", 0) == 0:
        return Status.DONE
    raise Failed(f"{device} answered {answer['ecode']}: {answer.get('enote', '')}", Status.REFUSED)


@devices.command("unknown")
@networked
async def unknown(session: Session) -> None:
    """List the dev_refids that tried to log in and are not enrolled, the last one first."""
    found = (await session.ask("get devices/unknown"))["unknown"]
    columns = [("DEV_REFID", "dev_refid"), ("ADDRESS", "addr"), ("FIRST", "first_at"), ("LAST", "last_at")]
    session.out.items(found, [*columns, ("TIMES", "count")], "no unknown devices have tried to log in")


devices.add_command(enrol)
