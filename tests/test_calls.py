"""Calls that are passed through (``devices/call``): their turn, and their time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from devconf.commands.asker import Asker, Dropped
from devconf.devices.pace import PAUSE
from devconf.devices.pending import NoAnswer, PendingRequests
from devconf.testing import MemoryDevice, MemoryServer
from devconf.wire import DeviceAnswer
from tests.delivering import configure, online, pic_task, stored
from tests.keyed import kept


class Running(Clock):
    """A clock that goes on by itself: each look at it takes a moment. Like a reactor, it has no delay below 0."""

    def seconds(self) -> float:
        self.rightNow += 0.001
        return self.rightNow

    def callLater(self, delay: float, *args: Any, **kw: Any) -> Any:
        assert delay >= 0
        return super().callLater(delay, *args, **kw)


def call(server: MemoryServer, device: MemoryDevice, timeout: float) -> Deferred[dict[str, Any]]:
    return server.call("post devices/call", {"dev_unid": device.dev_unid, "command": "get /x", "timeout": timeout})


def test_a_call_whose_time_is_over_when_its_turn_comes_is_not_made(server: MemoryServer) -> None:
    box = online(server, "gate")
    task_id = pic_task(server, box)
    box.link.echoes = False  # type: ignore[union-attr]  # one message at a time
    configured = configure(server, task_id)
    [order] = box.inbox
    response = call(server, box, 5)
    server.clock.advance(4.999)
    server.clock.rightNow += 0.002  # the call's timer has yet to have its turn
    box.answer(order)
    assert server.result(configured)["ecode"] == 0
    assert server.result(response)["ecode"] == 1005040001
    assert box.inbox == []
    server.advance(60)


def test_a_wait_that_is_over_before_it_began_leaves_nothing_behind() -> None:
    clock = Running()
    pending = PendingRequests(clock, lambda: None)
    failures: list[Any] = []
    for name, timeout in (("a", 10.0), ("b", 1e-7), ("c", -1.0)):
        pending.expect(name, timeout).addErrback(failures.append)
    clock.advance(1)
    assert [failure.type for failure in failures] == [NoAnswer, NoAnswer]
    assert "a" in pending
    assert len(pending) == 1
    answered = pending.expect("d", 5.0)
    assert pending.fire("d", DeviceAnswer(0))
    clock.advance(10)
    assert (len(failures), len(pending), clock.getDelayedCalls()) == (3, 0, [])
    assert answered.result.ecode == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("timeout", [1e-9, 1e-7])
def test_a_call_with_hardly_any_time_costs_the_device_nothing(server: MemoryServer, timeout: float) -> None:
    box = online(server, "gate")
    pic_task(server, box)  # it has sent a req_id back
    for _ in range(9):
        response = call(server, box, timeout)
        server.advance(0.001)
        assert server.result(response)["ecode"] == 1005040001
    box.inbox.clear()
    response = configure(server, pic_task(server, box))
    box.obey()
    assert server.result(response)["ecode"] == 0


@pytest.mark.parametrize("lost", [True, False])
def test_a_call_that_was_not_sent_leaves_nothing(server: MemoryServer, lost: bool) -> None:
    """Neither a line in the history nor its key: its device has not heard of it."""
    box = online(server, "gate")  # one message at a time: it has sent no req_id back yet
    first = call(server, box, 60)
    params = {"dev_unid": box.dev_unid, "command": "post /reboot", "timeout": 5}
    second = server.call("post devices/call", params, idempotency_key="k")
    if lost:
        box.lose()
    else:
        server.advance(5)
    answer = server.result(second)
    why = "was lost before this was sent to it"
    if not lost:
        why = "had others to answer until the time was over; this was not sent to it"
    assert answer == {
        "ecode": 1005030001 if lost else 1005040001,
        "enote": f"the device {box.dev_unid} {why}",
        "command_id": answer["command_id"],
    }
    assert [message["command"] for message in box.heard] == ["get /x"]
    assert kept(server) == 0
    if not lost:
        box.answer(box.inbox[0])
    server.result(first)
    [command, *_] = server.ask("get commands")["commands"]
    assert command["params"]["command"] == "get /x"
    if lost:
        box.connect()
    again = server.call("post devices/call", params, idempotency_key="k")
    box.answer(box.inbox[0])
    assert server.result(again)["ecode"] == 0


def test_an_order_is_not_blamed_for_what_a_call_does_to_its_device(server: MemoryServer) -> None:
    box = online(server, "gate")
    task_id = pic_task(server, box)
    box.lose()
    server.ask("put tasks", {"task_id": task_id, "name": "harmless"})
    for _ in range(4):
        server.advance(PAUSE)
        box.connect()
        assert [message["params"]["name"] for message in box.inbox] == ["harmless"]
        deadly = call(server, box, 5)
        assert box.inbox[1]["command"] == "get /x"
        box.lose()
        assert server.result(deadly)["ecode"] == 1005030001
    server.advance(PAUSE)
    box.connect()
    box.obey()
    assert stored(server, task_id)["state"] == "confirmed"


def test_a_call_that_nobody_waits_for_gives_its_turn_away(server: MemoryServer) -> None:
    box = online(server, "gate")  # one message at a time
    first = call(server, box, 60)
    gone, late = Asker(), Asker()
    params = {"dev_unid": box.dev_unid, "command": "post /reboot", "timeout": 60}
    dropped = [
        server.call("post devices/call", params, asker=gone),
        server.call("post devices/call", params, asker=gone, idempotency_key="k"),
    ]
    gone.leave()
    # Asked for again while it is being forgotten: this one is to be made.
    again = server.call("post devices/call", params, asker=late, idempotency_key="k")
    server.finish()
    dropped.append(server.call("post devices/call", params, asker=gone))
    for response in dropped:
        with pytest.raises(Dropped):
            server.result(response)
        response.addErrback(lambda _: None)
    box.obey()
    server.finish()
    assert server.result(first)["ecode"] == 0
    box.obey()
    assert server.result(again)["ecode"] == 0
    assert [message["command"] for message in box.heard] == ["get /x", "post /reboot"]
    late.leave()
    server.advance(60)
    assert not gone._observers
    assert not late._observers


def test_who_asks_again_when_its_time_is_over_does_not_put_off_others(server: MemoryServer) -> None:
    """A program that holds the service asks from within the callback of the response."""
    box = online(server, "gate")
    pic_task(server, box)  # it has sent a req_id back
    first, second = call(server, box, 1), call(server, box, 2)
    again: list[Deferred[dict[str, Any]]] = []

    def ask_again(response: dict[str, Any]) -> dict[str, Any]:
        again.append(call(server, box, 60))
        return response

    first.addCallback(ask_again)
    server.eager = False
    server.advance(1)
    assert again
    server.advance(1.5)
    assert server.result(second)["ecode"] == 1005040001
    server.advance(60)
    assert server.result(again[0])["ecode"] == 1005040001
