"""The client's subscriptions: who is told of which event, and of those that were missed."""

from __future__ import annotations

from typing import Any

import pytest

from devconf.client import Client, Disconnected, RequestFailed, connect
from tests.fake_server import OK, URL, FakeServer, Json, Socket

SUBSCRIPTIONS = "/wsapi/v1/devconf_fx/subscriptions"


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def client(server: FakeServer) -> Client:
    client: Client = server.run(connect(server.reactor, URL, "alice", "secret"))
    return client


def subscribe(server: FakeServer, client: Client, *topics: str, **more: Any) -> list[Json]:
    """Subscribe, and return the list that the events go to."""
    events: list[Json] = []
    asked = client.subscribe(topics, more.pop("observer", events.append), **more)
    socket = server.sockets[-1]
    socket.tell({"req_id": socket.heard()[0]["req_id"], **OK})
    assert server.run(asked)["ecode"] == 0
    return events


def event(topic: str, seq: int) -> Json:
    return {"event": topic, "seq": seq, "at": "2026-01-02T03:04:05.678Z", "data": {"dev_unid": "d"}}


def tell(server: FakeServer, *events: Json) -> Socket:
    for one in events:
        server.sockets[-1].tell(one)
    server.flush()
    return server.sockets[-1]


def test_it_asks_for_the_topics(server: FakeServer, client: Client) -> None:
    client.subscribe(["devices", "commands"], print)
    assert server.sockets[-1].heard() == [
        {"command": f"post {SUBSCRIPTIONS}", "req_id": "1", "params": {"topics": ["devices", "commands"]}}
    ]


def test_events_go_to_the_observers_of_their_topic(server: FakeServer, client: Client) -> None:
    some = subscribe(server, client, "devices", "commands")
    other = subscribe(server, client, "devices")
    tell(server, event("devices", 1), event("commands", 2), event("deliveries", 3))
    assert some == [event("devices", 1), event("commands", 2)]
    assert other == [event("devices", 1)]


def test_the_first_event_may_come_with_the_response(server: FakeServer, client: Client) -> None:
    events: list[Json] = []
    client.subscribe(["devices"], events.append)
    tell(server, {"req_id": "1", **OK}, event("devices", 1))
    assert events == [event("devices", 1)]


def test_a_refused_subscription_hears_nothing(server: FakeServer, client: Client) -> None:
    events: list[Json] = []
    asked = client.subscribe(["nonsense"], events.append)
    tell(server, {"req_id": "1", "ecode": 1004000002, "enote": "no such topic"}, event("nonsense", 1))
    with pytest.raises(RequestFailed, match="no such topic"):
        server.run(asked)
    assert events == []


def test_unsubscribing_ends_a_topic_for_all(server: FakeServer, client: Client) -> None:
    some = subscribe(server, client, "devices", "commands")
    other = subscribe(server, client, "devices")
    asked = client.unsubscribe(["devices"])
    tell(server, event("devices", 1))
    assert server.sockets[-1].heard() == [
        {"command": f"delete {SUBSCRIPTIONS}", "req_id": "3", "params": {"topics": ["devices"]}}
    ]
    tell(server, {"req_id": "3", **OK}, event("commands", 2))
    assert server.run(asked) == {"req_id": "3", **OK}
    assert (some, other) == ([event("commands", 2)], [])


def test_a_gap_tells_how_many_were_missed(server: FakeServer, client: Client) -> None:
    missed: list[int] = []
    events = subscribe(server, client, "devices", missed=missed.append)
    subscribe(server, client, "commands", missed=missed.append)
    subscribe(server, client, "deliveries")
    tell(server, event("devices", 1), event("devices", 2))
    assert missed == []
    tell(server, event("devices", 7), event("devices", 8))
    assert missed == [4], "once, though it was given twice"
    assert [one["seq"] for one in events] == [1, 2, 7, 8]


def test_events_of_others_are_no_gap(server: FakeServer, client: Client) -> None:
    missed: list[int] = []
    subscribe(server, client, "devices", missed=missed.append)
    subscribe(server, client, "commands")
    tell(server, event("devices", 1), event("commands", 2), event("devices", 3))
    assert missed == []


def test_the_first_events_may_be_missed(server: FakeServer, client: Client) -> None:
    missed: list[int] = []
    subscribe(server, client, "devices", missed=missed.append)
    tell(server, event("devices", 3))
    assert missed == [2]


@pytest.mark.parametrize("name", ["observer", "missed"])
def test_a_failing_observer_ends_nothing(server: FakeServer, client: Client, logged_errors: Any, name: str) -> None:
    def fails(_what: Any) -> None:
        raise ZeroDivisionError

    subscribe(server, client, "devices", **{name: fails})
    events = subscribe(server, client, "devices")
    tell(server, event("devices", 2), event("devices", 3))
    logged_errors.expect(ZeroDivisionError)
    assert [one["seq"] for one in events] == [2, 3]


def test_an_observer_may_unsubscribe(server: FakeServer, client: Client) -> None:
    seen: list[Json] = []

    def once(one: Json) -> None:
        seen.append(one)
        client.unsubscribe(["devices"])

    subscribe(server, client, "devices", observer=once)
    tell(server, event("devices", 1), event("devices", 2))
    assert seen == [event("devices", 1)]


def test_an_event_without_a_number_is_an_event(server: FakeServer, client: Client) -> None:
    events = subscribe(server, client, "devices")
    tell(server, {"event": "devices", "data": {}}, event("devices", 1))
    assert events == [{"event": "devices", "data": {}}, event("devices", 1)]


def test_subscribing_to_what_is_gone_fails(server: FakeServer, client: Client) -> None:
    server.run(client.close())
    with pytest.raises(Disconnected):
        server.run(client.subscribe(["devices"], print))
