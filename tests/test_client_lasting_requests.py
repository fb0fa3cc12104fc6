"""The client that stays: what becomes of requests and subscriptions when the connection is lost."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from devconf.client import CannotConnect, Disconnected, NoResponse
from tests.client_bench import Bench
from tests.fake_server import OK, TASKS, URL, Json

SUBSCRIPTIONS = "/wsapi/v1/devconf_fx/subscriptions"


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- requests


def test_a_request_goes_out_at_once(bench: Bench) -> None:
    socket = bench.start()
    progress: list[tuple[int, int]] = []
    got = bench.outcome(
        bench.client.request("get tasks", {"limit": 5}, progress=lambda done, total: progress.append((done, total)))
    )
    assert socket.heard() == [{"command": f"get {TASKS}", "req_id": "1", "progress": True, "params": {"limit": 5}}]
    socket.tell({"req_id": "1", "progress": {"done": 1, "total": 2}})
    socket.tell({"req_id": "1", **OK, "tasks": []})
    bench.server.flush()
    assert (progress, got) == ([(1, 2)], [{"req_id": "1", **OK, "tasks": []}])


def test_a_request_waits_for_the_connection(bench: Bench) -> None:
    bench.start().drop()
    bench.server.up = False
    got = bench.outcome(bench.client.request("get tasks"))
    bench.pass_time(500)
    assert got == []
    bench.server.up = True
    bench.pass_time(60)
    socket = bench.server.sockets[-1]
    assert socket.heard() == [{"command": f"get {TASKS}", "req_id": "1"}]
    socket.tell({"req_id": "1", **OK})
    bench.server.flush()
    assert got == [{"req_id": "1", **OK}]


def test_it_waits_no_longer_than_its_timeout(bench: Bench) -> None:
    bench.server.up = False
    bench.client.start()
    got = bench.outcome(bench.client.request("get tasks", timeout=4))
    bench.server.advance(3.9)
    assert got == []
    bench.server.advance(0.2)
    assert [type(failure) for failure in got] == [CannotConnect]
    assert str(got[0]) == (
        f"there was no connection within 4 s: cannot connect: {URL} cannot be reached: "
        "Connection was refused by other side"
    )
    bench.server.up = True
    bench.pass_time(60)
    assert bench.server.sockets[-1].heard() == [], "it is not sent later"


def test_the_timeout_is_for_waiting_and_response_together(bench: Bench) -> None:
    got = bench.outcome(bench.client.request("get tasks", timeout=4))
    bench.server.advance(3)
    socket = bench.start()
    assert len(socket.heard()) == 1
    bench.server.advance(0.9)
    assert got == []
    bench.server.advance(0.2)
    assert [type(failure) for failure in got] == [NoResponse]


KEY = "0123456789abcdef"


def test_a_change_that_was_sent_is_sent_again_with_its_key(bench: Bench) -> None:
    socket = bench.start()
    got = bench.outcome(bench.client.request("post tasks", {"name": "a"}))
    (first,) = socket.heard()
    assert len(first["idempotency_key"]) == 32
    (second,) = bench.come_back().heard()
    assert second == {**first, "req_id": "1"}
    bench.server.sockets[-1].tell({"req_id": "1", **OK, "task_id": "t"})
    bench.server.flush()
    assert got == [{"req_id": "1", **OK, "task_id": "t"}]
    bench.client.request("post tasks", {"name": "a"})
    (third,) = bench.server.sockets[-1].heard()
    assert third["idempotency_key"] != first["idempotency_key"]


def test_a_key_of_the_callers_own(bench: Bench) -> None:
    socket = bench.start()
    bench.client.request("put tasks", {"task_id": "t"}, idempotency_key=KEY)
    sent = [*socket.heard(), *bench.come_back().heard()]
    assert [message["idempotency_key"] for message in sent] == [KEY, KEY]


def test_what_changes_nothing_is_sent_again_without_a_key(bench: Bench) -> None:
    socket = bench.start()
    got = bench.outcome(bench.client.request("GET tasks", {"limit": 1}))
    sent = [*socket.heard(), *bench.come_back().heard()]
    assert sent == [{"command": f"GET {TASKS}", "req_id": "1", "params": {"limit": 1}}] * 2
    assert got == []


def test_a_subscription_belongs_to_its_connection(bench: Bench) -> None:
    bench.start()
    got = bench.outcome(bench.client.request("post subscriptions", {"topics": ["devices"]}))
    assert bench.come_back().heard() == []
    assert [type(failure) for failure in got] == [Disconnected]


def test_what_is_too_large_is_not_sent_again_and_costs_others_nothing(bench: Bench) -> None:
    socket = bench.start()
    large = bench.outcome(bench.client.request("post tasks", {"name": "x" * 100_000}))
    bench.client.request("post tasks", {"name": "small"})
    small = socket.heard()[1]
    socket.drop(1009, "a message has at most 65537 bytes")
    bench.server.flush()
    assert [(type(failure), failure.code) for failure in large] == [(Disconnected, 1009)]
    bench.pass_time(60)
    assert bench.server.sockets[-1].heard() == [{**small, "req_id": "1"}]


def test_after_half_an_hour_it_is_sent_no_more(bench: Bench) -> None:
    """The server does not keep its key for ever, and it must not be carried out twice."""
    bench.start()
    got = bench.outcome(bench.client.request("post tasks", {}))
    bench.server.up = False
    bench.server.sockets[-1].drop()
    bench.pass_time(1790)
    assert got == []
    bench.pass_time(20)
    assert [type(failure) for failure in got] == [Disconnected]
    bench.server.up = True
    bench.pass_time(60)
    assert bench.server.sockets[-1].heard() == []


def test_what_was_sent_and_has_no_time_left_may_have_been_done(bench: Bench) -> None:
    bench.start()
    silent = bench.outcome(bench.client.request("post tasks", {}, timeout=30))
    bench.come_back()
    bench.server.advance(30)
    assert [type(failure) for failure in silent] == [NoResponse]
    lost = bench.outcome(bench.client.request("post tasks", {}, timeout=30))
    bench.server.up = False
    bench.server.sockets[-1].drop()
    bench.pass_time(31)
    assert [type(failure) for failure in lost] == [Disconnected]


def test_what_was_sent_when_the_client_stops(bench: Bench) -> None:
    bench.start()
    got = bench.outcome(bench.client.request("post tasks", {}))
    bench.server.run(bench.client.stop())
    assert [type(failure) for failure in got] == [Disconnected]


def test_asking_again_at_once_waits_for_the_next_connection(bench: Bench) -> None:
    bench.start()
    asked = bench.client.request("post subscriptions").addErrback(lambda _: bench.client.request("get tasks"))
    got = bench.outcome(asked)
    socket = bench.come_back()
    assert len(socket.heard()) == 1
    socket.tell({"req_id": "1", **OK})
    bench.server.flush()
    assert got == [{"req_id": "1", **OK}]


def test_one_that_waits_may_be_cancelled(bench: Bench) -> None:
    asked = bench.client.request("get tasks")
    got = bench.outcome(asked)
    asked.cancel()
    assert [type(failure) for failure in got] == [CancelledError]
    assert bench.start().heard() == []


def test_the_connection_itself(bench: Bench) -> None:
    got = bench.outcome(bench.client.when_connected())
    bench.start()
    assert got[0].is_open
    assert bench.outcome(bench.client.when_connected()) == got
    bench.server.sockets[-1].drop()
    assert not got[0].is_open
    assert bench.outcome(bench.client.when_connected()) == []


# -- subscriptions


def subscribe(bench: Bench, *topics: str) -> tuple[list[Json], list[int | None]]:
    """Subscribe, and return the lists that the events and the gaps go to."""
    events: list[Json] = []
    missed: list[int | None] = []
    asked = bench.client.subscribe(topics, events.append, missed.append)
    answer(bench, topics)
    assert bench.server.run(asked)["ecode"] == 0
    return events, missed


def answer(bench: Bench, topics: Any, result: Json = OK) -> None:
    """Take a request for ``topics`` and answer it."""
    bench.server.flush()
    socket = bench.server.sockets[-1]
    (request,) = socket.heard()
    assert (request["command"], request["params"]) == (f"post {SUBSCRIPTIONS}", {"topics": list(topics)})
    socket.tell({"req_id": request["req_id"], **result})
    bench.server.flush()


def event(bench: Bench, topic: str, seq: int) -> Json:
    event = {"event": topic, "seq": seq, "at": "2026-01-02T03:04:05.678Z", "data": {}}
    bench.server.sockets[-1].tell(event)
    bench.server.flush()
    return event


def test_it_subscribes_again(bench: Bench) -> None:
    bench.start()
    events, missed = subscribe(bench, "devices", "commands")
    subscribe(bench, "devices")
    first = event(bench, "devices", 1)
    bench.come_back()
    assert bench.heard == ["connected", "lost: 1000"]
    answer(bench, ["commands", "devices"])
    assert bench.heard == ["connected", "lost: 1000", "connected"]
    assert missed == [None], "what happened meanwhile, nobody knows"
    second = event(bench, "devices", 1)
    assert (events, missed) == ([first, second], [None])
    event(bench, "devices", 5)
    assert missed == [None, 3]
    bench.come_back(1)
    answer(bench, ["commands", "devices"])
    event(bench, "devices", 3)
    assert missed == [None, 3, None, 2], "the new connection counts from 1"


def test_requests_wait_until_it_is_subscribed_again(bench: Bench) -> None:
    bench.start()
    subscribe(bench, "devices")
    socket = bench.come_back()
    got = bench.outcome(bench.client.request("get tasks"))
    answer(bench, ["devices"])
    assert [asked["command"] for asked in socket.heard()] == [f"get {TASKS}"]
    assert got == []


@pytest.mark.parametrize("result", [{"ecode": 1004290001, "enote": "too many"}, None])
def test_without_its_subscriptions_it_is_not_connected(bench: Bench, result: Json | None) -> None:
    bench.start()
    events, missed = subscribe(bench, "devices")
    socket = bench.come_back()
    if result is None:
        bench.server.advance(31)
        why = "the server did not answer within 30 s"
    else:
        answer(bench, ["devices"], result)
        why = "1004290001: too many"
    bench.server.flush()
    assert bench.reports[-1] == f"cannot connect: the subscriptions cannot be renewed: {why}"
    assert socket.ended == (1000, None)
    bench.server.advance(1)
    answer(bench, ["devices"])
    assert bench.heard == ["connected", "lost: 1000", "connected"]
    assert (events, missed) == ([], [None])


def test_it_stops_while_it_subscribes_again(bench: Bench) -> None:
    bench.start()
    subscribe(bench, "devices")
    socket = bench.come_back()
    bench.server.run(bench.client.stop())
    assert socket.ended == (1000, None)
    assert bench.server.reactor.getDelayedCalls() == []


def test_subscribing_waits_and_outlasts_a_connection(bench: Bench) -> None:
    events: list[Json] = []
    asked = bench.outcome(bench.client.subscribe(["devices"], events.append))
    socket = bench.start()
    assert len(socket.heard()) == 1
    bench.come_back()
    answer(bench, ["devices"])
    assert [response["ecode"] for response in asked] == [0]
    assert [event(bench, "devices", 1)] == events


def test_a_refused_subscription_is_not_renewed(bench: Bench) -> None:
    bench.start()
    asked = bench.outcome(bench.client.subscribe(["nonsense"], print))
    answer(bench, ["nonsense"], {"ecode": 1004000002, "enote": "no such topic"})
    assert [str(failure) for failure in asked] == ["1004000002: no such topic"]
    assert bench.come_back().heard() == []


def test_subscribing_may_take_too_long(bench: Bench) -> None:
    asked = bench.outcome(bench.client.subscribe(["devices"], print, timeout=3))
    bench.server.advance(3)
    assert [type(failure) for failure in asked] == [CannotConnect]


def test_what_was_unsubscribed_is_not_renewed(bench: Bench) -> None:
    socket = bench.start()
    events, missed = subscribe(bench, "devices", "commands")
    done = bench.outcome(bench.client.unsubscribe(["devices"]))
    (request,) = socket.heard()
    assert (request["command"], request["params"]) == (f"delete {SUBSCRIPTIONS}", {"topics": ["devices"]})
    socket.tell({"req_id": request["req_id"], **OK})
    bench.server.flush()
    assert done == [None]
    bench.come_back()
    answer(bench, ["commands"])
    event(bench, "devices", 1)
    assert [event(bench, "commands", 2)] == events
    assert missed == [None]


def test_unsubscribing_needs_no_connection(bench: Bench) -> None:
    bench.start()
    subscribe(bench, "devices")
    bench.server.sockets[-1].drop()
    assert bench.outcome(bench.client.unsubscribe(["devices"])) == [None]
    bench.server.advance(0.5)
    assert bench.server.sockets[-1].heard() == []
    assert bench.heard[-1] == "connected"


def test_the_connection_may_be_lost_while_it_unsubscribes(bench: Bench) -> None:
    bench.start()
    subscribe(bench, "devices")
    done = bench.outcome(bench.client.unsubscribe(["devices"]))
    bench.server.sockets[-1].drop()
    assert done == [None]
