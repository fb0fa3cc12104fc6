"""Catching up is paced: a device that comes and goes is not sent everything each time (§6)."""

from __future__ import annotations

from twisted.internet.task import Clock

from devconf.devices.pace import PAUSE, Pace
from devconf.testing import MemoryDevice, MemoryServer
from tests.delivering import NEW, algos, configure, online, pic_task, stored


def behind(server: MemoryServer) -> tuple[MemoryDevice, str]:
    """A device that is offline, and has missed a change of its task."""
    device = online(server, "a")
    task_id = pic_task(server, device)
    device.lose()
    assert server.result(configure(server, task_id, force=True))["ecode"] == 0
    return device, task_id


def test_one_that_connects_again_at_once_is_caught_up_later(server: MemoryServer) -> None:
    device, task_id = behind(server)
    device.connect()
    assert len(device.inbox) == 1
    server.advance(2)
    device.lose()
    device.connect()
    server.advance(PAUSE - 2.1)
    assert device.inbox == []
    server.advance(0.1)
    device.obey()
    assert algos(device, task_id) == NEW
    assert stored(server, task_id)["state"] == "confirmed"


def test_however_often_it_comes_and_goes(server: MemoryServer) -> None:
    device, task_id = behind(server)
    device.heard.clear()
    for _ in range(99):
        device.connect()
        server.advance(0.5)
        server.service.sessions.end(device.dev_unid, "so that the order is not to blame")
        server.finish()
    assert len(device.heard) == 10
    device.connect()
    server.advance(PAUSE)
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


def test_what_a_command_waits_for_is_sent_at_once(server: MemoryServer) -> None:
    device, _ = behind(server)
    device.connect()
    device.obey()
    other = pic_task(server, device)
    response = configure(server, other)
    device.lose()
    device.connect()
    [message] = device.inbox
    assert message["params"]["task_id"] == other
    device.obey()
    assert server.result(response)["ecode"] == 0


def test_what_is_changed_meanwhile_is_sent_at_once(server: MemoryServer) -> None:
    device, task_id = behind(server)
    device.connect()
    device.lose()
    device.connect()
    assert device.inbox == []
    response = configure(server, task_id)
    device.obey()
    assert server.result(response)["ecode"] == 0


def test_resync_is_paced_too(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    device.heard.clear()
    for _ in range(3):
        server.ask("post devices/resync", {"dev_unid": device.dev_unid})
        device.obey()
    assert len(device.heard) == 1
    server.advance(PAUSE)
    device.obey()
    assert len(device.heard) == 2
    assert stored(server, task_id)["state"] == "confirmed"


def test_others_do_not_wait_for_it(server: MemoryServer) -> None:
    device, _ = behind(server)
    other = online(server, "b")
    pic_task(server, other)
    other.lose()
    device.connect()
    server.ask("post devices/resync", {"dev_unid": other.dev_unid})
    other.connect()
    assert len(other.inbox) == 1


def test_one_that_is_gone_costs_nothing(server: MemoryServer) -> None:
    device, _ = behind(server)
    device.connect()
    device.lose()
    device.connect()
    assert server.service.delivery._lanes != {}
    device.lose()
    assert server.service.delivery._lanes == {}
    server.advance(PAUSE)
    assert server.service.delivery._pace._began == {}


def test_what_is_remembered_is_forgotten() -> None:
    clock = Clock()
    pace = Pace(clock)
    for number in range(10):
        assert pace.begin(f"device {number}") is None
        clock.advance(1)
    assert len(pace._began) == 4
    assert len(clock.getDelayedCalls()) == 1
    assert pace.begin("device 9") == 9 + PAUSE
    clock.advance(PAUSE)
    assert pace._began == {}
    assert clock.getDelayedCalls() == []
