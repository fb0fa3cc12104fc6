"""Large answers, over all peers: each gets what it asked for as it reads, and who does not read fills no memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from devconf import pages
from devconf.config import Config, Limits
from devconf.devices.pace import PAUSE
from devconf.pages import LARGE, MAKING, WITHIN, Pages
from devconf.testing import MemoryClient, MemoryServer
from tests.fleets import Fleet, conf
from tests.running import PASSWORD, Start

MIB = 1024 * 1024


def task(size: int = 1_000_000) -> dict[str, Any]:
    return {"name": "t", "task_type": "video", "algo_comb": [{"algo_id": "a", "params": {"text": "y" * size}}]}


def with_tasks(server: MemoryServer, count: int, size: int = 1_000_000) -> None:
    for _ in range(count):
        assert server.ask("post tasks", task(size))["ecode"] == 0


def stop_reading(client: MemoryClient) -> None:
    client._socket.transport.pauseProducing()


def read_on(server: MemoryServer, client: MemoryClient) -> None:
    client._socket.transport.resumeProducing()
    server.finish()


# -- clients


def test_a_client_that_reads_gets_all_lists_that_it_asks_for_at_once(server: MemoryServer) -> None:
    with_tasks(server, 6)
    client = server.client()
    server.eager = False
    asked = [client.call("get tasks") for _ in range(5)] + [client.call("get tasks", {"limit": 2})]
    server.finish()
    assert client.closed is None
    assert [len(server.result(each)["tasks"]) for each in asked] == [5] * 5 + [2]
    assert (server.service.pages.held, server.service.pages.waiting) == (0, 0)


async def test_the_same_over_a_socket(start: Start, reactor: Any) -> None:
    from devconf.client import connect

    running = await start()
    client = await connect(reactor, running.url, "alice", PASSWORD)
    for _ in range(5):
        await client.request("post tasks", task())
    asked = [client.request("get tasks") for _ in range(4)]
    atoken = await running.log_in()
    status, listed = await running.ask("GET", "/webapi/v1/devconf_fx/tasks", authorization=atoken)
    assert (status, len(listed["tasks"])) == (200, 5)
    for each in asked:
        assert len((await each)["tasks"]) == 5
    assert running.service.pages.held == 0
    client.close()


async def test_over_http_a_list_waits_for_its_turn_and_ends_with_its_account(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ROOM", MIB)
    running = await start()
    assert (await running.service.request("post tasks", task()))["ecode"] == 0
    counted, some = running.service.pages, Some()
    some.ask(counted, MIB)
    asked = []
    for _ in range(2):
        atoken = await running.log_in()
        listing = running.ask("GET", "/webapi/v1/devconf_fx/tasks", authorization=atoken)
        asked.append(Deferred.fromCoroutine(listing))
    small = await running.ask("GET", "/webapi/v1/devconf_fx/devices", authorization=atoken)
    assert small[0] == 200
    await running.until(lambda: counted.waiting == 2)
    assert (await running.ask("POST", "/webapi/v1/logout", authorization=atoken))[0] == 200
    some.read(counted)
    answers = [await each for each in asked]
    assert [(status, answer["ecode"]) for status, answer in answers] == [(200, 0), (401, 1004010001)]
    await running.until(lambda: (counted.held, counted.waiting) == (0, 0))


def test_a_small_answer_behind_a_large_one_costs_no_connection(server: MemoryServer) -> None:
    with_tasks(server, 6)
    client = server.client()
    stop_reading(client)
    page = client.call("get tasks")
    server.finish()
    changed = client.call("post tasks", task(10))
    server.finish()
    read_on(server, client)
    assert client.closed is None
    assert (len(server.result(page)["tasks"]), server.result(changed)["ecode"]) == (5, 0)


def test_who_does_not_read_gets_one_and_is_dropped(server: MemoryServer) -> None:
    with_tasks(server, 4)
    client = server.client()
    stop_reading(client)
    asked = [client.call("get tasks") for _ in range(8)]
    server.finish()
    assert 0 < server.service.pages.held < 5 * MIB
    server.advance(61)
    assert client.closed is not None
    assert not any(each.called for each in asked)
    assert (server.service.pages.held, server.service.pages.waiting) == (0, 0)


def test_many_that_do_not_read_take_no_more_than_there_is_room_for(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ROOM", 3 * MIB)
    with_tasks(server, 1)
    idle, other = [server.client() for _ in range(12)], server.client("other")
    for client in idle:
        stop_reading(client)
        client.call("get tasks")
    server.finish()
    held = server.service.pages
    assert (held.held < 3 * MIB, held.waiting) == (True, 9)
    # What is small passes, and what is large has its turn.
    assert other.ask("get devices")["ecode"] == 0
    page = other.call("get tasks")
    server.advance(WITHIN)
    read_on(server, idle[2])
    server.advance(1)
    assert len(idle[2].heard) == 1
    for client in idle:
        client.lose()
    server.advance(1)
    assert len(server.result(page)["tasks"]) == 1
    assert (held.held, held.waiting) == (0, 0)


def test_a_server_that_stops_answers_those_that_wait(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROOM", MIB)
    with_tasks(server, 1)
    idle, client = server.client(), server.client("other")
    stop_reading(idle)
    idle.call("get tasks")
    server.finish()
    page = client.call("get tasks")
    server.finish()
    assert not page.called
    server.stop()
    assert server.result(page)["ecode"] == 1005030002


def test_what_comes_after_a_page_that_is_not_read_counts_as_ever(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path, config=Config(limits=Limits(unread_bytes=100_000)))
    with_tasks(server, 1)
    made = server.ask("post tasks", {"name": "t", "task_type": "pic"})
    client = server.client()
    stop_reading(client)
    client.call("get tasks", {"limit": 1})
    server.finish()
    # It tells the algo_comb again.
    config = {"task_id": made["task_id"], "algo_comb": task(60_000)["algo_comb"]}
    closed = []
    for _ in range(2):
        client.call("post tasks/pic_task_config", config)
        server.advance(1)
        closed.append(client.closed is not None)
    assert closed == [False, True]
    server.stop()


# -- devices


def test_a_fleet_that_asks_what_it_should_have(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROOM", MIB)
    boxes = Fleet(server, 30)
    unid = server.ask("post store_confs", conf(b"x" * 200_000))["unid"]
    response = server.call("put tasks", {"task_id": boxes.task_id, "store_conf_unid": unid})
    while boxes.unread:
        boxes.read()
    assert server.result(response)["ecode"] == 0
    server.eager = False
    for device in boxes.devices:
        for number in range(2):
            device.say({"command": "get /wsapi/v1/devconf_fx/tasks", "req_id": f"mine-{number}"})
    server.finish()
    assert len(boxes.unread) == 3  # of 270 KB each
    assert server.service.hub.pages.held < MIB
    server.eager = True
    while boxes.unread:
        boxes.read()
        assert len(boxes.unread) <= 3
    for device in boxes.devices:
        assert [(reply["req_id"], len(reply["tasks"])) for reply in device.replies] == [("mine-0", 1), ("mine-1", 1)]
    assert (server.service.hub.pages.held, server.service.hub.pages.waiting) == (0, 0)


def test_what_a_device_should_have_comes_when_it_has_read_the_page(server: MemoryServer) -> None:
    boxes = Fleet(server, 1)
    boxes.replace()
    boxes.read()
    [device] = boxes.devices
    server.advance(PAUSE)
    device.say({"command": "get /wsapi/v1/devconf_fx/tasks", "req_id": "mine"})
    boxes.replace(b"m")
    assert device.inbox == []
    boxes.read()
    assert len(boxes.unread) == 1
    boxes.read()
    assert boxes.pending() == 0


# -- what is counted


@define(eq=False)
class Some:
    """Who is answered; reads when it is told to."""

    writable: bool = True
    gone: bool = False
    account: str = ""
    got: list[int] = field(factory=list)

    def ask(self, counted: Pages, size: int, made: list[Any] | None = None) -> None:
        def make() -> Deferred[bytes]:
            if made is not None:
                made.append(self)
            return succeed(b"x" * size)

        counted.answer(self, make, self._take)

    def _take(self, answer: bytes) -> None:
        self.got.append(len(answer))
        self.writable = self.writable and len(answer) <= LARGE

    def read(self, counted: Pages) -> None:
        self.writable = True
        counted.taken(self)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Pages:
    monkeypatch.setattr(pages, "ROOM", 5 * LARGE)
    return Pages(Clock())


def test_in_the_order_in_which_they_were_asked_for(counted: Pages) -> None:
    made: list[Any] = []
    first, second, third, fourth = (Some() for _ in range(4))
    first.ask(counted, 3 * LARGE, made)
    second.ask(counted, 4 * LARGE, made)
    third.ask(counted, 2 * LARGE, made)  # would fit, and does not pass
    fourth.ask(counted, LARGE, made)  # is small
    assert (first.got, second.got, third.got, fourth.got) == ([3 * LARGE], [], [], [LARGE])
    first.read(counted)
    assert (second.got, third.got) == ([4 * LARGE], [])
    second.read(counted)
    assert third.got == [2 * LARGE]
    assert made == [first, second, third, fourth, second, third]
    third.read(counted)
    assert (counted.held, counted.waiting) == (0, 0)


def test_one_that_is_larger_than_the_room_goes_alone(counted: Pages) -> None:
    first, second = Some(), Some()
    first.ask(counted, 9 * LARGE)
    second.ask(counted, 2 * LARGE)
    assert (first.got, second.got) == ([9 * LARGE], [])
    first.read(counted)
    assert second.got == [2 * LARGE]


def test_who_has_not_taken_one_gets_no_other_and_holds_nobody_up_for_long(counted: Pages) -> None:
    clock = Clock()
    counted = Pages(clock)
    first, second = Some(), Some()
    for _ in range(2):
        first.ask(counted, 4 * LARGE)
    second.ask(counted, 3 * LARGE)
    clock.advance(WITHIN - 1)
    assert (first.got, second.got) == ([4 * LARGE], [])
    clock.advance(1)
    assert (first.got, second.got) == ([4 * LARGE], [3 * LARGE])
    first.read(counted)
    assert first.got == [4 * LARGE]
    second.read(counted)
    assert first.got == [4 * LARGE] * 2
    first.read(counted)
    assert clock.getDelayedCalls() == []


def test_who_is_gone_is_made_nothing(counted: Pages) -> None:
    made: list[Any] = []
    first, second, third = (Some() for _ in range(3))
    first.ask(counted, 4 * LARGE)
    first.ask(counted, 4 * LARGE)
    second.ask(counted, 4 * LARGE)
    third.ask(counted, 4 * LARGE)
    second.gone = first.gone = True
    counted.taken(second)
    counted.taken(first)
    assert (first.got, second.got, third.got) == ([4 * LARGE], [], [4 * LARGE])
    first.ask(counted, 1, made)
    assert made == []


def test_so_few_are_made_at_a_time(counted: Pages) -> None:
    made: list[Deferred[bytes]] = []

    def make() -> Deferred[bytes]:
        made.append(Deferred())
        return made[-1]

    turns = [counted.answer(Some(), make, len) for _ in range(MAKING + 2)]
    assert (len(made), counted.waiting) == (MAKING, 2)
    made[1].callback(b"x")
    assert len(made) == MAKING + 1
    assert [each.called for each in turns] == [False, True] + [False] * MAKING


def test_what_cannot_be_made_fails_and_the_others_go_on(counted: Pages) -> None:
    failures: list[Failure] = []
    for _ in range(5000):
        counted.answer(Some(), partial(fail, ValueError("no")), len).addErrback(failures.append)
    some = Some()
    some.ask(counted, 1)
    assert (len(failures), some.got) == (5000, [1])


def test_one_that_is_being_made_again_when_the_server_stops_is_answered_like_the_others(counted: Pages) -> None:
    stopping: list[bool] = []
    again: list[Deferred[bytes]] = []
    answered: list[str] = []
    first, second, some = Some(), Some(), Some()
    first.ask(counted, 4 * LARGE)

    def ask(reader: Some, name: str, size: int, slowly: bool = False) -> None:
        def make() -> Deferred[bytes]:
            made.append(name)
            if stopping:
                return succeed(b"stopping")
            if slowly and made.count(name) == 2:
                again.append(Deferred())
                return again[-1]
            return succeed(b"x" * size)

        counted.answer(reader, make, len).addCallback(lambda _: answered.append(name))

    made: list[str] = []
    ask(some, "slow", 2 * LARGE, slowly=True)
    ask(second, "large", 5 * LARGE)
    ask(some, "other", 2 * LARGE)
    first.read(counted)
    assert len(again) == 1
    stopping.append(True)
    counted.stop()
    again[0].callback(b"x" * 2 * LARGE)
    assert sorted(answered) == ["large", "other", "slow"]
    assert (counted.held, counted.waiting) == (0, 0)


def test_an_account_that_asks_for_much_does_not_keep_others_waiting(counted: Pages) -> None:
    made: list[Deferred[bytes]] = []

    def make() -> Deferred[bytes]:
        made.append(Deferred())
        return made[-1]

    for _ in range(10):
        busy = Some(account="busy")
        for _ in range(MAKING):
            counted.answer(busy, make, len)
    other = counted.answer(Some(account="other"), make, len)
    for number in range(3):
        made[number].callback(b"x")
    made[MAKING + 1].callback(b"x")
    assert other.called
    assert counted.waiting == 10 * MAKING + 1 - len(made)
