"""A large content to many devices: as many at a time as there is room for, and nobody is left out (§6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from devconf.devices import bulk
from devconf.devices.bulk import HANDED, LARGE, WITHIN, Bulk
from devconf.devices.lane import LINED
from devconf.devices.pace import PAUSE
from devconf.model import OrderKey
from devconf.testing import MemoryDevice, MemoryServer
from tests.delivering import OLD, WAIT, configure, online, pic_task, states
from tests.fleets import AT_ONCE, SIZE, Fleet, conf, make_room, with_confs

MakeFleet = Callable[[int], Fleet]


@pytest.fixture
def fleet(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> MakeFleet:
    """Makes fleets; there is room for three messages that have the same content."""
    make_room(monkeypatch)
    return lambda count: Fleet(server, count)


def test_as_many_at_a_time_as_there_is_room_for(server: MemoryServer, fleet: MakeFleet) -> None:
    """Who is not sent it yet is waited for, however long the others take."""
    boxes = fleet(10)
    response = boxes.replace()
    for left in range(10, 0, -1):
        server.advance(3)  # three of them are almost what each has for its answer
        assert len(boxes.unread) == min(left, AT_ONCE)
        boxes.read()
    answer = server.result(response)
    assert (answer["ecode"], answer["total"], answer["delivered"], answer["devices"]) == (0, 10, 10, [])
    assert [len(device.heard) for device in boxes.devices] == [3] * 10


def test_its_time_begins_when_it_is_sent(server: MemoryServer, fleet: MakeFleet) -> None:
    boxes = fleet(4)
    response = boxes.replace()
    server.advance(9)
    for _ in range(3):
        boxes.read()
    server.advance(9)
    assert len(boxes.unread) == 1
    server.advance(3)  # 10 s, and 1 s for each 64 KiB of the message
    assert not response.called
    server.advance(1)
    answer = server.result(response)
    assert (answer["ecode"], answer["delivered"]) == (1005040001, 3)


def test_others_go_on_meanwhile(server: MemoryServer, fleet: MakeFleet) -> None:
    boxes = fleet(6)
    boxes.replace()
    other = online(server, "other")
    task_id = pic_task(server, other)
    small = configure(server, task_id)
    other.obey()
    assert server.result(small)["ecode"] == 0
    # One that waits for the large one can be sent something small, too.
    waits = next(device for device in boxes.devices if device not in boxes.unread)
    call = server.call("post devices/call", {"dev_unid": waits.dev_unid, "command": "get /wsapi/v1/ops"})
    waits.obey()
    assert server.result(call)["ecode"] == 0
    assert len(boxes.unread) == AT_ONCE


def post_small(server: MemoryServer, device: MemoryDevice) -> Deferred[dict[str, Any]]:
    small = {"name": "small", "task_type": "pic", "algo_comb": OLD, "dev_unids": [device.dev_unid]}
    return server.call("post tasks", small)


def test_a_small_one_passes_the_large_one_of_a_device_that_gets_one_at_a_time(
    server: MemoryServer, fleet: MakeFleet
) -> None:
    boxes = fleet(4)
    for device in boxes.devices:
        assert device.link is not None
        device.link.echoes = False
    boxes.replace()
    [waits] = [device for device in boxes.devices if device not in boxes.unread]
    small = post_small(server, waits)
    waits.obey()
    assert states(server.result(small)) == [("confirmed", 0)]
    boxes.read()
    assert waits in boxes.unread


def test_a_small_one_passes_as_many_large_ones_as_a_device_may_be_sent(server: MemoryServer, fleet: MakeFleet) -> None:
    boxes, waits = fleet(3), online(server, "waits")
    unids = with_confs(server, waits, 9)
    boxes.replace()
    for unid in unids:
        server.call("put store_confs", {**conf(b"m" * SIZE), "unid": unid})
    assert (waits.inbox, server.service.delivery.bulk.waiting) == ([], 9)
    small = post_small(server, waits)
    waits.obey()
    assert states(server.result(small)) == [("confirmed", 0)]


def test_who_catches_up_is_read_no_more_than_may_wait_and_is_not_called_silent(
    server: MemoryServer, fleet: MakeFleet
) -> None:
    boxes, waits = fleet(3), online(server, "waits")
    unids = with_confs(server, waits, 12)
    last = max(pic_task(server, waits) for _ in range(30))  # behind the others, or most of them
    waits.lose()
    for unid in unids:
        server.call("put store_confs", {**conf(b"m" * SIZE), "unid": unid})
    server.advance(20)
    boxes.replace()
    waits.connect()
    assert (waits.inbox, server.service.delivery.bulk.waiting) == ([], LINED)
    server.advance(PAUSE)
    response = server.call("put tasks", {"task_id": last, "name": "new"})
    waits.lose()
    waits.connect()
    server.advance(WAIT)
    assert (waits.inbox, response.called) == ([], False)
    for _ in range(3):
        boxes.read()
    waits.obey()
    assert states(server.result(response)) == [("confirmed", 0)]


def test_who_does_not_read_holds_others_up_for_a_while_only(server: MemoryServer, fleet: MakeFleet) -> None:
    boxes = fleet(5)
    response = boxes.replace()
    server.advance(WITHIN - 1)
    assert len(boxes.unread) == AT_ONCE
    server.advance(1)
    assert len(boxes.unread) == 5
    boxes.read(3)
    boxes.read(3)
    assert server.result(response)["delivered"] == 2


def test_who_is_lost_makes_room(server: MemoryServer, fleet: MakeFleet) -> None:
    boxes = fleet(5)
    response = boxes.replace()
    boxes.lose(boxes.unread[1])
    for left in (4, 3, 2, 1):
        assert len(boxes.unread) == min(left, AT_ONCE)
        boxes.read()
    server.advance(13)
    answer = server.result(response)
    assert (answer["ecode"], answer["delivered"]) == (1005030001, 4)


def test_who_is_lost_while_it_waits_gets_it_when_it_returns(server: MemoryServer, fleet: MakeFleet) -> None:
    boxes = fleet(4)
    response = boxes.replace()
    [waits] = [device for device in boxes.devices if device not in boxes.unread]
    boxes.lose(waits)
    for _ in range(3):
        boxes.read()
    server.advance(13)
    assert server.result(response)["delivered"] == 3
    assert boxes.pending() == 1
    boxes.connect(waits)
    boxes.read()
    assert boxes.pending() == 0
    assert server.service.delivery._lanes == {}


def test_those_that_are_lost_while_they_wait_hold_nobody_up(server: MemoryServer, fleet: MakeFleet) -> None:
    """However many there are before the first that is still there, and though nothing else happens any more."""
    boxes = fleet(12)
    response = boxes.replace()
    waiting = [device for device in boxes.devices if device not in boxes.unread]
    for device in waiting[:8]:
        boxes.lose(device)
    for _ in range(3):
        boxes.read()
    assert boxes.unread == waiting[8:]
    boxes.read()
    server.advance(WAIT)
    assert server.result(response)["delivered"] == 4


def test_what_is_replaced_while_it_waits_is_sent_as_it_is_then(server: MemoryServer, fleet: MakeFleet) -> None:
    boxes = fleet(5)
    response = boxes.replace(b"1")
    # The command holds the lock of the configuration; what is forced does not wait for it.
    waits = next(device for device in boxes.devices if device not in boxes.unread)
    forced = server.call("delete tasks", {"task_id": boxes.task_id, "force": True})
    assert server.result(forced)["ecode"] == 0
    assert [message["command"].split()[0] for message in waits.inbox] == ["delete"]
    for _ in range(3):
        boxes.read()
    server.advance(WITHIN)
    assert boxes.unread == []
    for device in boxes.devices:
        device.obey()
    server.run()
    assert [device.held for device in boxes.devices] == [{}] * 5
    server.result(response)


def test_the_whole_fleet_comes_back(server: MemoryServer, fleet: MakeFleet) -> None:
    """Catching up is bounded as a command is."""
    boxes = fleet(8)
    for device in boxes.devices:
        device.lose()
    assert server.result(boxes.replace())["delivered"] == 0
    boxes.connect(*boxes.devices)
    for left in range(8, 0, -1):
        assert len(boxes.unread) == min(left, AT_ONCE)
        boxes.read()
    assert boxes.pending() == 0
    assert server.service.delivery._lanes == {}


def test_nobody_passes_the_head_of_the_line(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that finds no room is the next, however many became due after it that would fit."""
    content = SIZE * 4 // 3 + 100
    monkeypatch.setattr(bulk, "ROOM", content + 4 * (HANDED + 400))
    boxes, late = Fleet(server, 6), [server.enrol(f"late-{number}") for number in range(20)]
    boxes.connect(*late)
    task_id = pic_task(server, *late)
    response = server.call("put tasks", {"task_id": task_id, "store_conf_unid": boxes.unid})
    for device in late:
        device.obey()
        device.lose()
    assert server.result(response)["ecode"] == 0
    other = server.enrol("other")
    boxes.connect(other)
    task_id = pic_task(server, other)
    unid = server.ask("post store_confs", conf(b"old"))["unid"]
    response = server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    other.obey()
    assert server.result(response)["ecode"] == 0
    boxes.replace()  # two of the six wait
    server.call("put store_confs", {**conf(b"m" * 2 * SIZE), "unid": unid})  # and this behind them
    boxes.connect(*late)  # who have something in common with those that are on their way
    read = []
    while boxes.unread:
        read.append(boxes.unread[0].dev_refid)
        boxes.read()
    assert read[:7] == [f"box-{number}" for number in range(6)] + ["other"]
    assert len(read) == 27


# -- what is counted


@define(eq=False)
class Socket:
    writable: bool = False


@define(eq=False)
class Linked:
    transport: Any


def key(number: int) -> OrderKey:
    return OrderKey(f"device {number}", "task", "")


def test_what_is_common_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[None] = []
    content, other = b"x" * 1_000_000, b"y" * 1_000_000
    monkeypatch.setattr(bulk, "ROOM", 1_000_000 + 2 * (HANDED + 1))
    clock = Clock()
    counted = Bulk(clock, lambda: freed.append(None))
    first, second = Linked(Socket()), Linked(Socket())
    assert counted.admits(key(1), [b"1", content])
    counted.sent(first, [b"1", content])  # type: ignore[arg-type]
    assert not counted.admits(key(2), [b"2", other])
    assert counted.admits(key(2), [b"2", content])
    counted.sent(second, [b"2", content])  # type: ignore[arg-type]
    assert not counted.admits(key(3), [b"3", content])
    assert counted.admits(key(3), [b"3", b"x" * (LARGE - 1)])
    counted.done(first)  # type: ignore[arg-type]
    counted.done(first)  # type: ignore[arg-type]
    assert freed == [None]
    assert counted.admits(key(3), [b"3", content])
    assert not counted.admits(key(3), [b"3", other])
    counted.done(second)  # type: ignore[arg-type]
    assert counted.admits(key(3), [b"3", other])
    counted.stop()
    assert clock.getDelayedCalls() == []


def test_one_that_is_too_large_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "ROOM", 1000)
    counted = Bulk(Clock(), lambda: None)
    link = Linked(Socket())
    counted.wait(key(1))
    counted.wait(key(2))
    assert counted.call() == [key(1)]
    assert counted.admits(key(1), [b"x" * SIZE])
    counted.leave(key(1))
    counted.sent(link, [b"x" * SIZE])  # type: ignore[arg-type]
    assert counted.call() == []
    counted.done(link)  # type: ignore[arg-type]
    assert counted.call() == [key(2)]
    counted.stop()


def test_who_does_not_read_is_counted_no_longer_at_whatever_time_it_was_sent_to() -> None:
    """No pause is so little that a clock does not move on by it."""
    for number in range(300):
        clock = Clock()
        clock.rightNow = 2.0**20 - 15 + number * 0.0123456789  # beyond 2**20 there are fewer times
        counted = Bulk(clock, lambda: None)
        counted.sent(Linked(Socket()), [b"x" * SIZE])  # type: ignore[arg-type]
        for _ in range(2):
            for timer in clock.getDelayedCalls():
                clock.advance(timer.getTime() - clock.seconds())
        assert counted.held == 0
