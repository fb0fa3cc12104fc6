"""The contents of orders: how much one read brings, and that what is common to many is one object."""

from __future__ import annotations

from typing import Any

import pytest

from devconf.devices import contents
from devconf.devices.pace import PAUSE
from devconf.store import outbox
from devconf.store.outbox import Due
from devconf.testing import MemoryDevice, MemoryServer
from tests.delivering import OLD, WAIT, algos, online, pic_task, states
from tests.fleets import SIZE, Fleet, conf, make_room, with_confs


def large(letter: str = "y", size: int = SIZE) -> list[dict[str, Any]]:
    return [{"algo_id": "a", "enabled": True, "params": {"text": letter * size}}]


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of contents that each read has brought; no more than four and another one are to be."""
    monkeypatch.setattr(outbox, "CONTENTS", 4 * SIZE)
    sizes: list[int] = []
    read = outbox.read

    def measured(*args: Any) -> Due:
        due = read(*args)
        known = {id(encoded) for _, encoded in args[3].values()}
        values = [value for order in due.orders for value in order.params.values() if isinstance(value, bytes)]
        objects = {id(value): len(value) for value in values}
        sizes.append(sum(size for each, size in objects.items() if each not in known))
        return due

    monkeypatch.setattr(outbox, "read", measured)
    return sizes


def test_one_read_brings_so_many_algo_combs(server: MemoryServer, brought: list[int]) -> None:
    devices = [online(server, f"box-{number}") for number in range(6)]
    pic_task(server, *devices)  # they have answered once, and may be sent several at a time
    for device in devices:
        device.lose()
        for letter in "abcd":
            task = {"name": letter, "task_type": "pic", "algo_comb": large(letter), "dev_unids": [device.dev_unid]}
            assert server.ask("post tasks", task)["ecode"] == 0
    server.advance(PAUSE)
    server.eager = False
    for device in devices:
        device.connect()
    server.finish()
    server.eager = True
    assert 4 * SIZE < max(brought) < 5 * SIZE
    for device in devices:
        device.obey()
        assert sorted(held["name"] for held in device.held.values()) == ["a", "b", "c", "d", "gate"]
        assert all(held["algo_comb"] in (large(held["name"]), OLD) for held in device.held.values())
    assert server.service.delivery._lanes == {}


def test_what_is_too_much_for_one_read_keeps_its_place_in_the_line(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_room(monkeypatch)
    monkeypatch.setattr(outbox, "CONTENTS", 2 * SIZE)
    boxes, waits = Fleet(server, 3), [server.enrol(f"waits-{number}") for number in range(8)]
    boxes.connect(*waits)
    unids = [with_confs(server, device, 1)[0] for device in waits]
    boxes.replace()
    monkeypatch.setattr(contents, "KEPT", 0)
    for unid in unids:
        server.call("put store_confs", {**conf(b"m" * SIZE), "unid": unid})
    assert server.service.delivery.bulk.waiting == 8
    for device in boxes.devices:
        boxes.lose(device)
    read = []
    while boxes.unread:
        read.append(boxes.unread[0])
        boxes.read()
    assert read == waits


def on_its_way(server: MemoryServer) -> int:
    return server.service.delivery.bulk.held


def test_an_algo_comb_of_many_devices_is_there_once(server: MemoryServer) -> None:
    boxes = Fleet(server, 5)
    task = {"name": "t", "task_type": "pic", "algo_comb": large(size=20 * SIZE)}
    for device in boxes.devices:
        device.lose()
    made = server.ask("post tasks", {**task, "dev_unids": [device.dev_unid for device in boxes.devices]})
    assert made["ecode"] == 0
    for device in boxes.devices:
        boxes.connect(device)
        # This gives the task another rev, and the others what they had.
        assert server.ask("post devices/resync", {"dev_unid": device.dev_unid})["ecode"] == 0
    assert len(boxes.unread) == 5
    assert on_its_way(server) < 30 * SIZE


def configured(server: MemoryServer, task_id: str, letter: str, *devices: MemoryDevice) -> Any:
    response = server.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": large(letter)})
    for device in devices:
        device.obey()
    return response


def test_what_is_kept_is_what_is_wanted_now(server: MemoryServer) -> None:
    first, second = online(server, "first"), online(server, "second")
    task_id = pic_task(server, first, second)
    assert states(server.result(configured(server, task_id, "b", first, second))) == [("confirmed", 0)] * 2
    response = configured(server, task_id, "c", first)
    second.refuse()
    assert states(server.result(response)) == [("confirmed", 0), ("refused", 7)]
    first.obey()
    assert [algos(device, task_id) for device in (first, second)] == [large("b")] * 2
    response = configured(server, task_id, "d", second)
    first.lose()
    server.advance(WAIT + 2)
    assert server.result(response)["ecode"] == 1005030001
    second.obey()
    first.wipe()
    first.connect()
    first.obey()
    assert [algos(device, task_id) for device in (first, second)] == [large("b")] * 2
    assert states(server.result(configured(server, task_id, "e", first, second))) == [("confirmed", 0)] * 2
    assert [algos(device, task_id) for device in (first, second)] == [large("e")] * 2


def test_a_page_of_a_devices_own_ends_once_its_algo_combs_are_large(server: MemoryServer) -> None:
    device = online(server, "a")
    for number in range(5):
        task = {"name": f"{number}", "task_type": "pic", "algo_comb": large(size=400_000)}
        response = server.call("post tasks", {**task, "dev_unids": [device.dev_unid]})
        device.obey()
        assert server.result(response)["ecode"] == 0
    names: list[list[str]] = []
    after: dict[str, str] = {}
    while True:
        device.say({"command": "get /wsapi/v1/devconf_fx/tasks", "req_id": "mine", "params": after})
        page = device.replies[-1]
        names.append([task["name"] for task in page["tasks"]])
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert names == [["0", "1", "2"], ["3", "4"]]
