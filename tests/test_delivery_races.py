"""Answers, losses and changes that cross each other on the way (``docs/design.md``, how a row moves)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from devconf.devices.pace import PAUSE
from devconf.devices.resting import Resting
from devconf.store import answers, journal, outbox, resting
from devconf.testing import MemoryDevice, MemoryServer
from tests.conftest import LoggedErrors
from tests.delivering import NEW, OLD, WAIT, algos, configure, online, pic_task, stored

LARGE = [{"algo_id": "new", "params": {"model": "x" * 1_000_000}}]


def rename(server: MemoryServer, task_id: str, name: str) -> Deferred[dict[str, Any]]:
    return server.call("put tasks", {"task_id": task_id, "name": name})


def test_what_is_to_be_sent_anew_is_not_taken_for_sent_by_an_answer_to_what_was_outstanding(
    server: MemoryServer,
) -> None:
    box = online(server, "gate")
    task_id = pic_task(server, box)
    server.advance(PAUSE)
    response = configure(server, task_id)
    [modify] = box.inbox
    server.ask("post devices/resync", {"dev_unid": box.dev_unid})
    box.act(modify)
    server.advance(PAUSE)
    [add] = box.inbox
    assert (add["command"].partition(" ")[0], add["params"]["algo_comb"]) == ("post", algos(box, task_id))
    box.obey()
    assert server.result(response)["ecode"] == 0
    assert stored(server, task_id)["state"] == "confirmed"


def test_an_answer_that_waits_to_be_written_is_not_forgotten_because_of_a_late_one(server: MemoryServer) -> None:
    box = online(server, "gate")
    task_id = pic_task(server, box)
    rename(server, task_id, "one")
    server.advance(WAIT)
    rename(server, task_id, "two")
    first, second = box.inbox
    server.eager = False
    for message in (first, second):
        box.act(message)
    heard = len(box.heard)
    server.eager = True
    server.finish()
    assert len(box.heard) == heard
    assert stored(server, task_id)["state"] == "confirmed"


def test_what_changed_while_its_answer_could_not_be_written_is_sent_at_once(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    box = online(server, "gate")
    task_id = pic_task(server, box)
    rename(server, task_id, "one")
    server.advance(WAIT)
    server.advance(0.5)
    rename(server, task_id, "two")
    [_, second] = box.inbox

    def fail(*_args: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(answers, "acknowledge", fail)
        server.eager = False
        box.act(second)
        server.call("put tasks", {"task_id": task_id, "name": "three"})
        server.eager = True
        server.finish()
    assert logged_errors.expect(OSError)
    box.inbox.clear()
    server.advance(WAIT)
    assert box.inbox[0]["params"]["name"] == "three"


def test_a_mistake_of_ours_does_not_keep_the_next_answers_from_being_written(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    box = online(server, "gate")
    task_id = pic_task(server, box)

    def fail(*_args: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(type(server.service.delivery), "_acknowledged", fail)
        rename(server, task_id, "one")
        box.obey()
    assert logged_errors.expect(ZeroDivisionError)
    response = configure(server, task_id)  # after the first, for which nobody answers any more
    server.advance(2 * WAIT)
    box.obey()
    assert server.result(response)["algo_comb"] == NEW


def contents(box: MemoryDevice) -> int:
    """Characters of the contents that are in memory because of what ``box`` was sent."""
    assert box.link is not None
    lane = box.server.service.delivery._lanes[box.dev_unid]
    return len(repr(box.link.late)) + sum(len(repr(slot.sent)) for slot in lane.slots.values())


def test_of_what_a_silent_device_was_sent_no_content_is_kept(server: MemoryServer) -> None:
    box = online(server, "gate")
    task_id = pic_task(server, box)
    for _ in range(3):
        server.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": LARGE})
        server.advance(60)
    assert box.link is not None
    assert len(box.link.late) > 3
    assert contents(box) < 100_000


def test_a_large_message_has_time_to_kill_its_device(server: MemoryServer) -> None:
    """It is blamed for a loss that follows 5 s after it can have been read, not after it was handed over."""
    box = online(server, "gate")
    task_id = pic_task(server, box)
    box.lose()
    server.call("put tasks", {"task_id": task_id, "name": "harmless"})
    server.ask("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": LARGE, "force": True})
    deaths = 0
    for _ in range(5):
        server.advance(PAUSE)
        box.connect()
        deaths += bool(box.inbox)
        server.advance(12)
        box.lose()
    assert deaths == 3
    [item] = server.ask("get devices", {"dev_unid": box.dev_unid})["devices"]
    assert [refusal["ecode"] for refusal in item["refusals"]] == [1005020002]


def test_what_begins_to_rest_while_others_are_looked_up_does_not_put_those_off() -> None:
    clock = Clock()
    asked: list[Deferred[Any]] = []

    class Rows:
        def run(self, *_args: object) -> Deferred[Any]:
            asked.append(Deferred())
            return asked[-1]

    rests = Resting(clock, clock.seconds, Rows(), lambda _keys: None)  # type: ignore[arg-type]
    rests.look()
    rests.added()
    asked.pop().callback(([], 10.0))
    clock.advance(10)
    assert len(asked) == 1
    asked.pop().callback(([], resting.REST - 10))
    assert [call.getTime() for call in clock.getDelayedCalls()] == [resting.REST]
    rests.stop()
    assert clock.getDelayedCalls() == []


def test_another_command_that_is_settled_does_not_let_go_of_what_is_still_being_settled(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    """There is no room on the disk for the one, and for the other there is."""
    device = online(server, "a")
    unid = server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "MQ=="})["unid"]
    task_id = pic_task(server, device)
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    device.obey()
    device.writable = False  # it does not read, so that nothing is sent
    configured = configure(server, task_id)
    replaced = server.call("put store_confs", {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "Mg=="})
    device.lose()
    device.writable = True
    settle = journal.settle

    def full(connection: Any, command_id: str, now: float, ecode: Any, enote: str, kept: Any) -> None:
        if enote.startswith("stored"):
            settle(connection, command_id, now, ecode, enote, kept)
        else:
            raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "settle", full)
        server.advance(WAIT)
        assert replaced.called
        device.connect()
        server.advance(PAUSE)
        sent = [message["params"] for message in device.inbox]
        for message in device.inbox:
            device.do(message)
        device.lose()
    assert logged_errors.expect(OSError)
    server.advance(1)
    assert server.result(configured)["ecode"] == 1005030001
    device.connect()
    server.advance(PAUSE)
    device.obey()
    assert sent == []
    assert algos(device, task_id) == stored(server, task_id)["algo_comb"] == OLD


@pytest.mark.parametrize("catching_up", [False, True])
def test_of_a_device_that_is_lost_when_it_could_not_be_read_what_is_due_nothing_is_kept(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors, catching_up: bool
) -> None:
    box = online(server, "gate")
    task_id = pic_task(server, box)
    if catching_up:
        box.lose()
        server.advance(PAUSE)

    def fail(*_args: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "read", fail)
        response = rename(server, task_id, "one")
        if catching_up:
            box.connect()
        server.runner.latency = 0.01
        server.clock.advance(1)  # it is read again
        box.lose()
        server.advance(WAIT)
    assert logged_errors.expect(OSError)
    assert response.called
    assert server.service.delivery._lanes == {}
