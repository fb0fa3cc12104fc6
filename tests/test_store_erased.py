"""What is replaced or deleted is nowhere on the disk any longer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from devconf.store import confs, tables
from devconf.testing import MemoryServer
from tests.storing import (
    NOON,
    Threaded,
    wal,
)

OLD = b"<old>" + b"a distinctive password: 8fK2-xQ91-Zp44 " * 300 + b"</old>"
SECRET = b"8fK2-xQ91-Zp44"


def on_disk(folder: Path) -> dict[str, bytes]:
    """All that is in the folder, the log included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_replaced_content_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path)
    posted = server.ask(
        "post store_confs", {"name": "c", "file_ext": "xml", "file_b64": base64.b64encode(OLD).decode()}
    )
    assert any(SECRET in content for content in on_disk(tmp_path).values())
    new = base64.b64encode(b"<new/>").decode()
    put = server.ask("put store_confs", {"unid": posted["unid"], "name": "c", "file_ext": "xml", "file_b64": new})
    assert (put["ecode"], put["rev"]) == (0, 2)
    server.run()
    found = {name for name, content in on_disk(tmp_path).items() if SECRET in content}
    assert found == set()
    assert "devconf.sqlite-wal" in on_disk(tmp_path)
    server.stop()


@pytest.mark.parametrize("is_online", [False, True])
def test_a_content_that_is_replaced_is_gone_before_all_devices_have_the_new_one(
    tmp_path: Path, is_online: bool
) -> None:
    server = MemoryServer(tmp_path)
    conf = {"name": "c", "file_ext": "xml"}
    unid = server.ask("post store_confs", {**conf, "file_b64": base64.b64encode(OLD).decode()})["unid"]
    box = server.enrol("box")
    task = {"name": "t", "task_type": "pic", "dev_unids": [box.dev_unid], "store_conf_unid": unid}
    assert server.ask("post tasks", task)["ecode"] == 0
    if is_online:
        box.connect()
        box.obey()
    put = server.call("put store_confs", {**conf, "unid": unid, "file_b64": base64.b64encode(b"<new/>").decode()})
    server.finish()
    assert put.called != is_online
    assert {name for name, content in on_disk(tmp_path).items() if SECRET in content} == set()
    server.advance(60)
    assert server.result(put)["ecode"] == (1005040001 if is_online else 1005030001)
    server.stop()


def test_a_deleted_content_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path)
    posted = server.ask(
        "post store_confs", {"name": "c", "file_ext": "xml", "file_b64": base64.b64encode(OLD).decode()}
    )
    assert server.ask("delete store_confs", {"unid": posted["unid"]})["ecode"] == 0
    server.run()
    assert {name for name, content in on_disk(tmp_path).items() if SECRET in content} == set()
    server.stop()


async def test_scrubbing_in_the_thread_empties_the_log(reactor: Any, database: Path) -> None:
    threaded = Threaded(reactor, database)
    await threaded.store.open()
    await threaded.store.run(confs.insert_conf, NOON, "u", "c", "xml", OLD)
    await threaded.store.run(confs.replace_conf, NOON, "u", "c", "xml", b"<new/>")
    assert SECRET in wal(database).read_bytes()
    threaded.store.scrub()
    await threaded.store.run(lambda _connection: None)
    content = await threaded.store.run(
        lambda connection: connection.execute(select(tables.store_confs.c.content)).scalar_one()
    )
    assert content == b"<new/>"
    assert {name for name, found in on_disk(database.parent).items() if SECRET in found} == set()
    await threaded.store.close()
