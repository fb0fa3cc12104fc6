"""What a host asks the service in its own code, without a connection, and what it is told of."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from devconf.config import Config
from devconf.events import Event
from devconf.model import Identity, Role
from devconf.service import DevconfService
from devconf.testing import MemoryServer
from tests.conftest import LoggedErrors


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_a_request_of_the_host_is_answered_as_any_other(server: MemoryServer) -> None:
    device = server.enrol("box")
    device.connect()
    params = {"name": "a", "task_type": "pic", "dev_unids": (device.dev_unid,)}
    response = server.service.request("post tasks", params)
    server.finish()
    assert not response.called
    device.obey()
    made = server.result(response)
    assert made == {
        "ecode": 0,
        "enote": "ok",
        "command_id": made["command_id"],
        "task_id": made["task_id"],
        "rev": 1,
        "devices": [{"dev_unid": device.dev_unid, "state": "confirmed", "ecode": 0, "enote": "ok"}],
    }
    assert type(response.result["ecode"]) is int  # type: ignore[index]


def ask(server: MemoryServer, *args: Any, **options: Any) -> dict[str, Any]:
    response = server.service.request(*args, **options)
    server.finish()
    return server.result(response)


def test_the_host_is_an_admin_and_may_be_somebody_else(server: MemoryServer) -> None:
    assert ask(server, "post devices", {"dev_refid": "one"})["ecode"] == 0
    alice = Identity("a" * 32, "alice", Role.OPERATOR)
    assert ask(server, "post devices", {"dev_refid": "two"}, identity=alice) == {
        "ecode": 1004030001,
        "enote": "this takes the role admin; yours is operator",
    }
    assert ask(server, "post tasks", {"name": "a", "task_type": "pic"}, identity=alice)["ecode"] == 0
    history = ask(server, "get commands")["commands"]
    assert [(command["user_name"], command["user_unid"]) for command in history] == [
        ("alice", "a" * 32),
        ("host", "host"),
    ]


@pytest.mark.parametrize(
    ("command", "params", "ecode"),
    [
        ("patch tasks", {}, 1004000003),
        ("tasks", {}, 1004000003),
        ("get tasks", {"limit": 0}, 1004000002),
        ("get tasks", ["limit"], 1004000002),
        ("get tasks", {"after": "\ud800"}, 1004000001),
        ("get tasks", {"after": nested(100)}, 1004000001),
        ("get tasks", {"after": nested(100_000)}, 1004000001),
        ("post subscriptions", {"topics": ["devices"]}, 1004000003),
    ],
)
def test_what_the_host_does_wrong_is_in_the_response(
    server: MemoryServer, command: str, params: Any, ecode: int
) -> None:
    assert ask(server, command, params)["ecode"] == ecode


def test_what_json_cannot_say_is_the_hosts_mistake(server: MemoryServer) -> None:
    with pytest.raises(TypeError):
        server.service.request("get tasks", {"limit": object()})


def test_a_service_that_does_not_run_says_so(server: MemoryServer) -> None:
    config = Config(listen=(), database=f"sqlite:///{server.path}")
    service = DevconfService(server.clock, config)
    assert server.result(service.request("get tasks")) == {
        "ecode": 1005030002,
        "enote": "the server is not running yet; ask again when it is",
    }
    server.stop()
    assert ask(server, "get tasks")["ecode"] == 1005030002


def test_the_host_may_do_with_a_response_what_it_likes(server: MemoryServer) -> None:
    comb = [{"algo_id": "face", "params": {"size": 1}}]
    task_id = ask(server, "post tasks", {"name": "a", "task_type": "pic", "algo_comb": comb})["task_id"]
    comb[0]["algo_id"] = "other"
    [task] = ask(server, "get tasks")["tasks"]
    task["algo_comb"][0]["params"]["size"] = 2
    [task] = ask(server, "get tasks", {"task_id": task_id})["tasks"]
    assert task["algo_comb"] == [{"algo_id": "face", "enabled": True, "params": {"size": 1}}]


def test_to_cancel_a_request_ends_the_waiting_and_not_the_command(server: MemoryServer) -> None:
    device = server.enrol("box")
    device.connect()
    response = server.service.request("post tasks", {"name": "a", "task_type": "pic", "dev_unids": [device.dev_unid]})
    server.finish()
    response.cancel()
    failures: list[Any] = []
    response.addErrback(failures.append)
    assert failures[0].check(CancelledError)
    device.obey()
    assert [task["state"] for task in ask(server, "get tasks")["tasks"]] == ["confirmed"]


def test_progress_is_told_to_the_host(server: MemoryServer, logged_errors: LoggedErrors) -> None:
    devices = [server.enrol(name) for name in "ab"]
    for device in devices:
        device.connect()
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        raise KeyError(done)

    params = {"name": "a", "task_type": "pic", "dev_unids": [device.dev_unid for device in devices]}
    response = server.service.request("post tasks", params, progress=progress)
    server.finish()
    for device in devices:
        device.obey()
    assert server.result(response)["ecode"] == 0
    assert told[-2:] == [(1, 2), (2, 2)]
    assert len(logged_errors.expect(KeyError)) == len(told)


def test_a_request_that_waits_is_answered_when_the_service_stops(server: MemoryServer) -> None:
    device = server.enrol("box")
    device.connect()
    call = {"dev_unid": device.dev_unid, "command": "get x", "timeout": 300}
    response = server.service.request("post devices/call", call)
    server.finish()
    server.stop()
    assert response.called
    assert server.result(response)["ecode"] in (1005030001, 1005030002)


def test_the_host_hears_of_events(server: MemoryServer) -> None:
    heard: list[tuple[str, Any]] = []

    def observer(event: Event) -> None:
        heard.append((event.topic, event.data))

    server.service.events.subscribe("devices", observer)
    device = server.enrol("box")
    device.connect()
    server.service.events.unsubscribe("devices", observer)
    device.lose()
    box = {"dev_unid": device.dev_unid, "dev_refid": "box"}
    assert heard == [("devices", {**box, "change": change}) for change in ("enrolled", "connected")]
