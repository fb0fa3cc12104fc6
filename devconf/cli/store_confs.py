"""``devconf store-confs``: storage configurations, and their contents as files."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import click

from devconf.cli import find
from devconf.cli.params import changes, file_content
from devconf.cli.private import NewFile
from devconf.cli.session import Session, networked, option_connect_wait, option_limit

if TYPE_CHECKING:
    from devconf.client import Message


_EXTENSION = "The extension, such as xml; without it that of FILE's name."


@click.group("store-confs")
def store_confs() -> None:
    """Storage configurations: files that devices get."""


@store_confs.command("list")
@option_limit
@networked
async def list_store_confs(session: Session, limit: int | None) -> None:
    """List the storage configurations, without their contents."""
    found = await session.all("store_confs", {}, limit)
    if not session.out.as_json:
        for item in found:
            item["tasks"] = len(item["task_ids"])
    columns = [("UNID", "unid"), ("NAME", "name"), ("EXT", "file_ext"), ("SIZE", "size"), ("REV", "rev")]
    session.out.items(found, [*columns, ("TASKS", "tasks"), ("UPDATED", "updated_at")], "no storage configurations")


@store_confs.command("show")
@click.argument("unid")
@networked
async def show(session: Session, unid: str) -> None:
    """Show all that is known of a storage configuration, but for its content."""
    session.out.item(await _one(session, unid))


async def _one(session: Session, unid: str) -> Message:
    return await find.only(session, "store_confs", "unid", unid, "storage configuration")


@store_confs.command("get")
@click.argument("unid")
@click.argument("file")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@networked
async def get(session: Session, unid: str, file: str, force: bool) -> None:
    """Write the content of a storage configuration to FILE, which only you may read."""
    await _one(session, unid)
    page = await session.ask("get store_confs", {"unid": unid, "content": True})
    item = page["store_confs"][0]
    content = b64decode(item.pop("file_b64"))
    with NewFile(Path(file), replace=force) as new:
        new.file.write(content)
        new.publish()
    session.out.result({**item, "file": file}, f"{file} has the {len(content)} bytes of rev {item['rev']}")


@store_confs.command("add")
@click.argument("file", type=file_content, metavar="FILE")
@click.option("--name", help="Its name; without it FILE's name, without the extension.")
@click.option("--ext", help=_EXTENSION)
@networked
async def add(session: Session, file: tuple[Path, bytes], name: str | None, ext: str | None) -> None:
    """Store FILE as a new storage configuration."""
    path, content = file
    params = {"name": name or path.stem, "file_ext": ext or path.suffix[1:], "file_b64": b64encode(content).decode()}
    response = await session.ask("post store_confs", params)
    await session.done(response, f"storage configuration {response['unid']} is stored")


@store_confs.command("put")
@click.argument("file", type=file_content, metavar="FILE")
@click.option("--unid", required=True, help="The storage configuration that gets this content.")
@click.option("--name", help="Another name; without it the name stays.")
@click.option("--ext", help=_EXTENSION)
@option_connect_wait
@networked
async def put(
    session: Session,
    file: tuple[Path, bytes],
    unid: str,
    name: str | None,
    ext: str | None,
    connect_wait: float | None,
) -> None:
    """Replace a storage configuration by FILE, and send it to all that use it (§20.3).

    Who was not reached is listed. The exit status is 0 if all that use it have got it, and 7 if it is stored and some
    get it later, when they return. After 3 it may be stored; after any other it is not.
    """
    path, content = file
    before = await _one(session, unid)
    params = {
        "unid": unid,
        "name": name or before["name"],
        "file_ext": ext or path.suffix[1:] or before["file_ext"],
        "file_b64": b64encode(content).decode(),
        **changes(connect_wait=connect_wait),
    }
    response = await session.ask("put store_confs", params, doing=f"{path.name} to devices")
    text = f"storage configuration {unid} is rev {response['rev']} now"
    await session.done(response, f"{text}; {response['delivered']} of {response['total']} have got it")


@store_confs.command("remove")
@click.argument("unid")
@networked
async def remove(session: Session, unid: str) -> None:
    """Delete a storage configuration that no task uses."""
    await session.done(await session.ask("delete store_confs", {"unid": unid}), f"storage configuration {unid} is gone")
