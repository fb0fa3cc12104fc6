"""Two boxes with one identity: the one that is there stays (``docs/protocol.md`` §6)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent

from devconf.devices import duplicates
from devconf.devices.duplicates import ALONE_FOR, WITHIN, Duplicates
from devconf.testing import MemoryDevice, MemoryServer
from tests.delivering import online, pic_task

HERE, THERE = "192.0.2.1", "192.0.2.2"
KEPT_OUT = (4002, "another box has this identity and is connected; retry after 60 s")
REPLACED = (4001, "replaced by a newer connection of this device")


@pytest.fixture
def boxes(server: MemoryServer) -> tuple[MemoryDevice, MemoryDevice]:
    box = server.enrol("gate")
    box.address = HERE
    return box, another(box, THERE)


def another(box: MemoryDevice, address: str) -> MemoryDevice:
    """A second box with the identity of ``box``."""
    return MemoryDevice(box.server, box.dev_unid, box.dev_refid, address=address)


def ended(box: MemoryDevice) -> tuple[int, str] | None:
    """Code and reason, if its connection was closed."""
    return box.closed


def listed(server: MemoryServer, box: MemoryDevice) -> tuple[Any, ...]:
    [item] = server.ask("get devices", {"dev_unid": box.dev_unid})["devices"]
    return item["online"], item["addr"], item.get("duplicate")


def epoch(box: MemoryDevice) -> int:
    assert box.link is not None
    return box.link.epoch


def fight(boxes: tuple[MemoryDevice, MemoryDevice]) -> None:
    """The first throws the second out, and is thrown out by it, which is then there."""
    first, second = boxes
    second.connect()
    first.connect()
    assert ended(second) == REPLACED
    second.connect()
    assert ended(first) == REPLACED


def test_at_the_third_time_in_a_minute_the_one_that_holds_stays(
    server: MemoryServer, boxes: tuple[MemoryDevice, MemoryDevice]
) -> None:
    first, second = boxes
    watcher = server.client()
    watcher.ask("post subscriptions", {"topics": ["devices"]})
    fight(boxes)
    assert listed(server, first) == (True, THERE, None)
    with capturedLogs() as logged:
        for _ in range(5):
            first.connect()
            assert ended(first) == KEPT_OUT
            server.advance(60)
    assert ended(second) is None
    assert listed(server, first) == (True, THERE, HERE)
    assert [formatEvent(event) for event in logged if event["log_level"] is LogLevel.warn] == [
        f"there are two boxes with the identity of gate ({first.dev_unid}), which throw each other out: the one at "
        f"{THERE} stays, the one at {HERE} is kept out; give each its own dev_refid and key"
    ]
    changes = [event["data"]["change"] for event in watcher.events]
    assert changes == ["connected", *["disconnected", "connected"] * 2, "duplicate"]
    assert (server.service.hub.duplicates.found, server.service.hub.duplicates.refused) == (1, 5)


def test_one_that_is_kept_out_changes_nothing(server: MemoryServer, boxes: tuple[MemoryDevice, MemoryDevice]) -> None:
    first, second = boxes
    fight(boxes)
    task = server.call(
        "post tasks",
        {"name": "gate", "task_type": "pic", "algo_comb": [{"algo_id": "a"}], "dev_unids": [first.dev_unid]},
    )
    server.eager = False  # so that it can still speak before it is gone
    first.connect()
    first.say({"req_id": second.inbox[0]["req_id"], "ecode": 7})
    server.eager = True
    server.finish()
    assert not first.heard
    assert epoch(second) == 3
    second.obey()
    assert server.result(task)["devices"] == [
        {"dev_unid": first.dev_unid, "state": "confirmed", "ecode": 0, "enote": "ok"}
    ]


def test_a_box_that_reconnects_from_its_address_replaces_itself(
    server: MemoryServer, boxes: tuple[MemoryDevice, MemoryDevice]
) -> None:
    first, second = boxes
    again = another(first, HERE)
    for _ in range(5):
        first.connect()
        again.connect()
        assert ended(first) == REPLACED
        assert ended(again) is None
    assert listed(server, first) == (True, HERE, None)
    again.lose()
    fight(boxes)
    first.connect()
    again.address = THERE  # the second, whose connection has died without a word
    again.connect()
    assert ended(second) == REPLACED
    assert ended(again) is None


def test_three_times_in_more_than_a_minute_are_as_usual(
    server: MemoryServer, boxes: tuple[MemoryDevice, MemoryDevice]
) -> None:
    for _ in range(4):
        for box in boxes:
            box.connect()
            server.advance(WITHIN / 2)
            assert ended(box) is None
    assert listed(server, boxes[0]) == (True, THERE, None)


def test_a_device_that_moves_is_not_locked_out(server: MemoryServer) -> None:
    """Each time its connection had ended, or has died and is dropped before it comes again."""
    device = server.enrol("van")
    for number in range(6):
        device.address = f"192.0.2.{number}"
        device.connect()
        assert ended(device) is None
        device.lose()
    boxes = (device, another(device, THERE))
    device.address = HERE
    fight(boxes)
    device.connect()
    assert ended(device) == KEPT_OUT
    boxes[1].lose()
    device.connect()
    assert ended(device) is None
    assert listed(server, device) == (True, HERE, HERE)


def test_whoever_is_there_holds_until_the_other_has_stayed_away(
    server: MemoryServer, boxes: tuple[MemoryDevice, MemoryDevice]
) -> None:
    first, second = boxes
    fight(boxes)
    first.connect()
    second.lose()
    first.connect()
    second.connect()
    assert ended(second) == KEPT_OUT
    server.advance(ALONE_FOR)
    assert listed(server, first) == (True, HERE, None)
    second.connect()
    assert ended(first) == REPLACED


@pytest.mark.parametrize("change", [{"new_key": True}, {"dev_refid": "other"}])
def test_a_device_that_is_disconnected_by_an_operator_begins_anew(
    server: MemoryServer, boxes: tuple[MemoryDevice, MemoryDevice], change: dict[str, Any]
) -> None:
    first, second = boxes
    fight(boxes)
    first.connect()
    server.ask("put devices", {"dev_unid": first.dev_unid, **change})
    assert (ended(second) or (0, ""))[0] == 1008
    assert listed(server, first) == (False, None, None)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "REMEMBERED", 2)
    found = Duplicates(Clock())
    for name in ("a", "b", "c"):
        for _ in range(3):
            found.admits(name, HERE, THERE)
    assert [found.other(name) for name in ("a", "b", "c")] == [None, THERE, THERE]


def test_orders_go_to_the_one_that_holds(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    other = another(device, THERE)
    for box in (other, device, other):
        box.connect()
    assert ended(other) == KEPT_OUT
    server.call("put tasks", {"task_id": task_id, "name": "north gate"})
    assert [message["params"]["name"] for message in device.inbox] == ["north gate"]
