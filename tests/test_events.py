"""Events: published within the process, told to the connections that subscribed (``docs/protocol.md`` §4)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devconf.events import Event, Events
from devconf.model import Identity, Role
from devconf.operators.protocol import OperatorProtocol
from devconf.testing import MemoryDevice, MemoryServer


class Page(OperatorProtocol):
    """A connection of an operator without a socket.

    :ivar reads: whether what is sent is read.
    """

    def __init__(self, server: MemoryServer, role: Role = Role.ADMIN, unid: str = "u" * 32) -> None:
        super().__init__(Identity(unid, "tester", role))
        self.factory = server.service.operators
        self.server = server
        self.frames: list[dict[str, Any]] = []
        self.reads = True

    @property
    def writable(self) -> bool:
        return self.reads

    def send(self, *parts: bytes) -> None:
        self.frames.append(json.loads(b"".join(parts)))

    def ask(self, command: str, **params: Any) -> dict[str, Any]:
        method, _, resource = command.partition(" ")
        message = {"command": f"{method} /wsapi/v1/devconf_fx/{resource}", "params": params}
        self.received(json.dumps(message).encode())
        self.server.finish()
        return next(frame for frame in self.frames if "ecode" in frame)

    def events(self) -> list[dict[str, Any]]:
        """The events that have come since the last time."""
        found = [frame for frame in self.frames if "event" in frame]
        self.frames.clear()
        return found


OK = {"command": "post /wsapi/v1/devconf_fx/subscriptions", "ecode": 0, "enote": "ok"}


def test_devices_come_go_and_are_changed(server: MemoryServer) -> None:
    page = Page(server)
    assert page.ask("post subscriptions", topics=["devices"]) == OK
    device = server.enrol("box-1")
    device.connect()
    device.lose()
    server.ask("put devices", {"dev_unid": device.dev_unid, "dev_name": "gate"})
    server.ask("put devices", {"dev_unid": device.dev_unid, "dev_refid": "box-9"})
    server.ask("delete devices", {"dev_unid": device.dev_unid})
    happened = [
        ("box-1", "enrolled"),
        ("box-1", "connected"),
        ("box-1", "disconnected"),
        ("box-1", "changed"),
        ("box-9", "changed"),
        ("box-9", "deleted"),
    ]
    assert page.events() == [
        {
            "event": "devices",
            "seq": number,
            "at": "2025-06-15T15:06:40.000Z",
            "data": {"dev_unid": device.dev_unid, "dev_refid": dev_refid, "change": change},
        }
        for number, (dev_refid, change) in enumerate(happened, 1)
    ]


def test_a_device_that_is_replaced_by_its_newer_connection_goes_and_comes(server: MemoryServer) -> None:
    page = Page(server)
    device = server.enrol("box-1")
    device.connect()
    page.ask("post subscriptions", topics=["devices"])
    MemoryDevice(server, device.dev_unid, device.dev_refid).connect()
    assert [event["data"]["change"] for event in page.events()] == ["disconnected", "connected"]


def test_answers_of_devices_are_told_when_they_are_written(server: MemoryServer) -> None:
    page = Page(server)
    page.ask("post subscriptions", topics=["deliveries"])
    device = server.enrol("box-1")
    device.connect()
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.obey()
    task_id = server.result(response)["task_id"]
    told = {"dev_unid": device.dev_unid, "task_id": task_id}
    assert [event["data"] for event in page.events()] == [
        {**told, "rev": 1, "state": "confirmed", "ecode": 0, "enote": "ok", "late": False}
    ]
    algos = {"task_id": task_id, "algo_comb": [{"algo_id": "a"}]}
    response = server.call("post tasks/pic_task_config", algos)
    device.refuse(7, "no licence")
    assert [event["data"] for event in page.events()] == [
        {**told, "rev": 2, "state": "refused", "ecode": 7, "enote": "no licence", "late": False}
    ]
    response = server.call("post tasks/pic_task_config", algos)
    message = device.inbox[0]
    server.advance(11)
    assert server.result(response)["ecode"] == 1005040001
    device.act(message)
    assert page.events()[0]["data"] == {
        **told,
        "rev": message["params"]["rev"],
        "state": "pending",  # it is to have the old one back
        "ecode": 0,
        "enote": "ok",
        "late": True,
    }


def test_of_a_subtask_its_id_is_told(server: MemoryServer) -> None:
    page = Page(server)
    page.ask("post subscriptions", topics=["deliveries"])
    device = server.enrol("box-1")
    device.connect()
    task_id = server.ask("post tasks", {"name": "gate", "task_type": "video"})["task_id"]
    response = server.call("post subtasks", {"task_id": task_id, "dev_unid": device.dev_unid})
    device.obey()
    (event,) = page.events()
    assert event["data"]["subtask_id"] == server.result(response)["subtask_id"]


def test_what_the_device_lacks_or_has_newer_is_told_when_it_has_been_answered(server: MemoryServer) -> None:
    page = Page(server)
    device = server.enrol("box-1")
    device.connect()
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.obey()
    task_id = server.result(response)["task_id"]
    page.ask("post subscriptions", topics=["deliveries"])
    server.call("put tasks", {"task_id": task_id, "name": "door"})
    device.answer(device.inbox[0], 1004040001, "what task?")
    device.answer(device.inbox[0], 1004090008, "older", rev=40)
    assert page.events() == []
    device.obey()
    assert [event["data"]["rev"] for event in page.events()] == [41]


def test_commands_are_told_when_they_are_over(server: MemoryServer) -> None:
    page = Page(server)
    device = server.enrol("box-1")
    page.ask("post subscriptions", topics=["commands"])
    device.connect()
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    assert page.events() == []
    server.advance(1)
    device.obey()
    task_id = server.result(response)["task_id"]
    server.ask("put devices", {"dev_unid": device.dev_unid, "dev_name": "gate"})
    server.ask("delete tasks", {"task_id": task_id, "force": True})
    server.ask("get tasks")
    server.ask("delete tasks", {"task_id": task_id})  # there is none any longer
    kept = server.ask("get commands", {"limit": 3})["commands"]
    events = page.events()
    told = [event["data"] for event in events]
    assert [event["seq"] for event in events] == [1, 2, 3]
    for item in kept:
        del item["devices"]
    assert told == kept[::-1]


def test_a_viewer_hears_of_their_own_commands(server: MemoryServer) -> None:
    own, another = Page(server, Role.VIEWER), Page(server, Role.VIEWER, "another")
    operator = Page(server, Role.OPERATOR, "third")
    for page in (own, another, operator):
        page.ask("post subscriptions", topics=["commands", "devices"])
    server.enrol("box-1")  # as the one with the unid of `own`
    assert [event["event"] for event in own.events()] == ["commands", "devices"]
    assert [event["event"] for event in another.events()] == ["devices"]
    assert [event["event"] for event in operator.events()] == ["commands", "devices"]


def test_subscriptions_end(server: MemoryServer) -> None:
    page = Page(server)
    page.ask("post subscriptions", topics=["devices", "commands"])
    page.ask("post subscriptions", topics=["devices"])
    server.enrol("box-1")
    assert [event["seq"] for event in page.events()] == [1, 2]
    assert page.ask("delete subscriptions", topics=["commands", "deliveries"])["ecode"] == 0
    page.frames.clear()
    server.enrol("box-2")
    assert [(event["seq"], event["event"]) for event in page.events()] == [(3, "devices")]
    page.lost()
    server.enrol("box-3")
    assert page.events() == []
    page.subscribe("devices")  # a request that outlived its connection
    server.enrol("box-4")
    assert page.events() == []


def test_a_client_that_does_not_read_sees_a_gap(server: MemoryServer) -> None:
    page = Page(server)
    page.ask("post subscriptions", topics=["devices"])
    server.enrol("box-1")
    page.reads = False
    server.enrol("box-2")
    server.enrol("box-3")
    page.reads = True
    server.enrol("box-4")
    assert [event["seq"] for event in page.events()] == [1, 4]


@pytest.mark.parametrize(
    ("topics", "enote"),
    [
        ([], "$.params.topics"),
        (["devices", "devices"], "$.params.topics[1] 'devices' occurs a second time"),
        (["weather"], "$.params.topics[0]"),
        (None, "$.params.topics"),
    ],
)
def test_wrong_topics(server: MemoryServer, topics: Any, enote: str) -> None:
    response = Page(server).ask("post subscriptions", topics=topics)
    assert response["ecode"] == 1004000002
    assert response["enote"].startswith(enote)


def test_without_a_connection_there_are_no_events(server: MemoryServer) -> None:
    assert server.ask("post subscriptions", {"topics": ["devices"]}) == {
        "ecode": 1004000003,
        "enote": "events come over a WebSocket only; connect, and subscribe there",
    }


def test_an_observer_that_fails_does_not_stop_the_others(logged_errors: Any) -> None:
    events = Events(lambda: 5.0)
    heard: list[Event] = []

    def broken(_event: Event) -> None:
        raise RuntimeError("a bug")

    events.subscribe("devices", broken)
    events.subscribe("devices", heard.append)
    events.publish("devices", {"a": 1})
    events.publish("commands", {"a": 2})
    assert heard == [Event("devices", 5.0, {"a": 1})]
    assert [str(failure.value) for failure in logged_errors.expect(RuntimeError)] == ["a bug"]
