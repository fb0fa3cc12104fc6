"""Waiting for one's turn to change the same thing (``docs/protocol.md`` §4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from devconf.config import Config
from devconf.testing import MemoryClient, MemoryServer
from tests.delivering import configure, online, pic_task, stored

WAITING = 32


def rename(client: MemoryClient | MemoryServer, task_id: str, name: str) -> Any:
    return client.call("put tasks", {"task_id": task_id, "name": name})


def test_first_come_first_served(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    first = configure(server, task_id)
    others = [rename(server, task_id, name) for name in ("one", "two", "three")]
    assert len(device.inbox) == 1
    for _ in range(4):
        device.obey()
    answers = [server.result(response) for response in (first, *others)]
    assert [(answer["ecode"], answer["rev"]) for answer in answers] == [(0, 2), (0, 3), (0, 4), (0, 5)]
    assert stored(server, task_id)["name"] == "three"
    assert server.service.locks.waiting == 0


def test_only_so_many_wait(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id)
    waiting = [rename(server, task_id, str(number)) for number in range(WAITING)]
    assert server.result(rename(server, task_id, "one too many")) == {
        "ecode": 1004290001,
        "enote": "32 requests wait already to change the same; try again later",
        "task_id": task_id,
    }
    for _ in range(WAITING + 1):
        device.obey()
    assert [server.result(response)["ecode"] for response in waiting] == [0] * WAITING


def test_nobody_waits_for_longer_than_a_minute(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path, config=Config(device_timeout=3600))
    device = online(server, "a")
    task_id = pic_task(server, device)
    first = configure(server, task_id)
    waiting = rename(server, task_id, "other")
    server.advance(59.9)
    assert not waiting.called
    server.advance(0.1)
    assert server.result(waiting) == {
        "ecode": 1005030002,
        "enote": "others have been changing the same for 60 s; try again later",
        "task_id": task_id,
    }
    device.obey()
    assert server.result(first)["ecode"] == 0
    assert device.inbox == []
    server.stop()


def test_clients_that_have_gone_leave_room_for_others(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id)
    client = server.client("bob")
    for number in range(WAITING):
        rename(client, task_id, f"of bob {number}")
    assert server.service.locks.waiting == WAITING
    client.lose()
    assert server.service.locks.waiting == 0
    waiting = rename(server, task_id, "mine")
    assert not waiting.called
    device.obey()
    device.obey()
    assert server.result(waiting)["ecode"] == 0
    assert stored(server, task_id)["name"] == "mine"
