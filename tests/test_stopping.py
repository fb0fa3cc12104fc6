"""Stopping: what runs gets its answer, what is new is refused, and it takes no longer than it may."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from devconf.config import Config
from devconf.store import journal
from devconf.store.writer import InlineRunner
from devconf.testing import MemoryDevice, MemoryServer
from tests.conftest import LoggedErrors
from tests.delivering import stored
from tests.running import Start, connections, raw

SLOW = Config(device_timeout=3600)


class Stopping:
    """A server that is told to stop while something runs."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self._stopped: list[None] = []
        self.device = server.enrol("box-1")
        self.device.connect()

    def post(self, name: str = "gate") -> Deferred[dict[str, Any]]:
        return self.server.call("post tasks", {"name": name, "task_type": "pic", "dev_unids": [self.device.dev_unid]})

    def stop(self) -> None:
        self.server.service.stopService().addCallback(self._stopped.append)
        self.server.finish()

    def has_stopped(self) -> bool:
        return bool(self._stopped)

    @property
    def unsettled(self) -> list[str]:
        """The commands that the next start has to settle."""
        self.server.restart()
        found: list[list[str]] = []
        self.server.service.store.run(journal.unsettled).addCallback(found.append)
        self.server.finish()
        self.server.stop()
        return found[0]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Stopping]:
    server = MemoryServer(tmp_path, config=SLOW)
    world = Stopping(server)
    yield world
    if not world.has_stopped():
        server.stop()


def test_a_command_that_runs_gets_its_answer(world: Stopping) -> None:
    response = world.post()
    world.stop()
    world.server.advance(3)
    assert not world.has_stopped()
    assert world.device.closed is None
    world.device.obey()
    answer = world.server.result(response)
    assert (answer["ecode"], answer["devices"][0]["state"]) == (0, "confirmed")
    world.server.advance(1)
    assert world.has_stopped()
    assert world.device.closed == (1001, "the server is stopping; retry after 5 s")


def test_without_anything_to_wait_for_it_stops_at_once(world: Stopping) -> None:
    world.stop()
    world.server.advance(1)
    assert world.has_stopped()


def test_what_is_new_is_refused(world: Stopping) -> None:
    world.post()
    world.stop()
    refused = {"ecode": 1005030002, "enote": "the server is stopping; connect again and ask again"}
    assert world.server.ask("get tasks") == refused
    assert world.server.result(world.post("door")) == refused
    world.device.obey()


def test_what_waits_for_a_lock_is_refused(world: Stopping) -> None:
    response = world.post()
    world.device.obey()
    task_id = world.server.result(response)["task_id"]
    first = world.server.call("put tasks", {"task_id": task_id, "name": "door"})
    second = world.server.call("put tasks", {"task_id": task_id, "name": "wall"})
    world.stop()
    told = world.server.result(second)
    assert (told["ecode"], told["enote"]) == (1005030002, "the server is stopping; try again later")
    world.device.obey()
    assert world.server.result(first)["ecode"] == 0


def test_what_is_about_to_wait_for_a_lock_is_refused(world: Stopping) -> None:
    """Its key is still being looked up when the server is told to stop."""
    response = world.post()
    world.device.obey()
    task_id = world.server.result(response)["task_id"]
    first = world.server.call("put tasks", {"task_id": task_id, "name": "door"})
    world.server.eager = False
    params = {"task_id": task_id, "name": "wall"}
    second = world.server.call("put tasks", params, idempotency_key="k")
    world.stop()
    assert world.server.result(second) == {
        "ecode": 1005030002,
        "enote": "the server is stopping; try again later",
        "task_id": task_id,
    }
    world.device.obey()
    world.server.finish()
    assert world.server.result(first)["ecode"] == 0
    world.server.advance(1)
    assert world.has_stopped()
    world.server.eager = True
    world.server.restart()
    assert stored(world.server, task_id)["name"] == "door"
    # Nothing was done, and so it is asked anew.
    assert world.server.ask("put tasks", params, idempotency_key="k")["ecode"] == 0
    world.server.stop()


def test_what_begins_to_wait_when_all_waits_are_over_ends_at_once(world: Stopping) -> None:
    """Its plan was long in the queue of the store: it is settled and answered all the same."""
    world.server.service.delivery.end_waits()
    answer = world.server.result(world.post())
    assert (answer["ecode"], [item["state"] for item in answer["devices"]]) == (0, ["pending"])
    world.device.obey()
    assert stored(world.server, answer["task_id"])["state"] == "confirmed"


def test_a_device_that_stays_silent_is_not_waited_for_longer_than_15_seconds(world: Stopping) -> None:
    response = world.post()
    world.stop()
    world.server.advance(14)
    assert not response.called
    world.server.advance(2)
    answer = world.server.result(response)
    assert (answer["ecode"], answer["devices"][0]["ecode"]) == (0, 1005040001)
    world.server.advance(1)
    assert world.has_stopped()
    assert world.unsettled == []


def test_a_call_is_not_waited_for_longer_than_20_seconds(world: Stopping) -> None:
    response = world.server.call(
        "post devices/call", {"dev_unid": world.device.dev_unid, "command": "get /x", "timeout": 300}
    )
    world.stop()
    world.server.advance(19)
    assert not response.called
    world.server.advance(2)
    assert world.server.result(response) == {
        "ecode": 1005030002,
        "enote": "the server stops; what was under way is settled when it starts again",
    }
    world.server.advance(6)
    assert world.has_stopped()


def test_a_device_that_comes_while_it_stops_still_counts(world: Stopping) -> None:
    response = world.post()
    world.device.lose()
    world.stop()
    again = MemoryDevice(world.server, world.device.dev_unid, world.device.dev_refid)
    again.connect()  # its handshake was under way
    again.obey()
    assert world.server.result(response)["ecode"] == 0
    world.server.advance(1)
    assert world.has_stopped()


# -- what would go on after the end


ABANDONED = {"ecode": 1005030002, "enote": "the server stops; what was under way is settled when it starts again"}


def test_what_cannot_be_settled_is_left_to_the_next_start(
    world: Stopping, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    response = world.post()
    with monkeypatch.context() as broken:
        broken.setattr(journal, "settle", None)
        world.device.obey()
        world.stop()
        while not world.has_stopped():
            world.server.advance(0.05)
    assert world.server.result(response) == ABANDONED
    assert world.server.clock.getDelayedCalls() == []
    logged_errors.expect(TypeError)  # each time that it was tried
    assert world.unsettled == []


def test_a_stop_does_not_wait_until_all_that_a_crash_has_left_is_settled(world: Stopping) -> None:
    for name in ("gate", "door", "wall"):
        world.post(name)
    server = world.server
    server.crash()
    server.runner = InlineRunner(server.clock, latency=1.0)
    server.service = server._make()
    server.service.startService()
    server.advance(1.5)  # the first is being settled
    ready = server.service.when_ready()
    world.stop()
    server.advance(1)
    assert world.has_stopped()
    failures: list[str] = []
    ready.addErrback(lambda failure: failures.append(failure.getErrorMessage()))
    assert failures == ["the service was stopped before it was ready"]
    with closing(sqlite3.connect(server.path)) as reader:
        settled = reader.execute("SELECT count(settled_at), count(*) FROM commands WHERE command LIKE '%/tasks'")
        assert settled.fetchall() == [(1, 3)]


def test_a_stop_while_it_starts_takes_no_requests_of_the_host(world: Stopping) -> None:
    """What a crash has left is not settled yet."""
    world.post()
    server = world.server
    server.crash()
    server.runner = InlineRunner(server.clock, latency=1.0)
    server.service = server._make()
    server.service.startService()
    server.advance(0.5)
    world.stop()
    user = {"user_name": "ann", "role": "viewer", "password": "secret"}
    refused = server.service.request("post users", user)
    assert server.result(refused)["ecode"] == 1005030002
    server.advance(3)
    assert world.has_stopped()
    with closing(sqlite3.connect(server.path)) as reader:
        assert reader.execute("SELECT count(*) FROM users").fetchall() == [(0,)]


class SlowPasswords:
    """Passwords of which each is right once ``compared`` says so."""

    def __init__(self, compared: Deferred[bool]) -> None:
        self._compared = compared

    def verify(self, _stored: str, _password: str) -> Deferred[bool]:
        return self._compared


def test_a_login_that_is_under_way_is_refused_when_the_store_is_closed(world: Stopping) -> None:
    """It comes by the site of a host, which goes on."""
    world.server.ask("post users", {"user_name": "ann", "role": "viewer", "password": "secret"})
    compared: Deferred[bool] = Deferred()
    world.server.service.auth._passwords = SlowPasswords(compared)
    login = Deferred.fromCoroutine(world.server.service.auth.login_user("ann", "secret"))
    world.stop()
    world.server.advance(1)
    assert world.has_stopped()
    compared.callback(True)
    failures: list[str] = []
    login.addErrback(lambda failure: failures.append(str(failure.value)))
    assert failures == ["the server has stopped, and nothing was done; ask it when it runs"]


async def test_http_connections_end_with_the_service(start: Start) -> None:
    server = await start()
    idle, half = await raw(server), await raw(server)
    idle.transport.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    half.transport.write(b"GET /healthz HTTP/1.1\r\n")
    await server.until(lambda: b"ok\n" in idle.heard)
    assert len(connections(server)) == 2
    await server.stop()
    assert connections(server) == []
    await idle.ended
    await half.ended
    assert half.heard == b""
