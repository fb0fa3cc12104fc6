"""The client that stays: how it comes back, and what becomes of requests and subscriptions meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from devconf.client import CannotConnect, Disconnected, LastingClient, NoResponse, RequestFailed
from tests.fake_server import OK, TASKS, URL, FakeServer, Json, Socket

LOGIN, TOKEN, LOGOUT = (f"/webapi/v1/{name}" for name in ("login", "token", "logout"))
WS_URL = "/webapi/v1/devconf_fx/users/u%2F1/ws_url?type=devconf_fx"
SUBSCRIPTIONS = "/wsapi/v1/devconf_fx/subscriptions"
ENDED = [1004010001, 1004010002]


@define
class Bench:
    """A client and a server."""

    server: FakeServer = field(factory=FakeServer)
    reports: list[str] = field(factory=list)
    heard: list[str] = field(factory=list)
    client: LastingClient = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.client = LastingClient(
            self.server.reactor,
            URL,
            "alice",
            "secret",
            connected=lambda: self.heard.append("connected"),
            lost=lambda why: self.heard.append(f"lost: {why.code}"),
            report=self.reports.append,
            fraction=lambda: 0.5,
        )

    def start(self) -> Socket:
        self.client.start()
        self.server.flush()
        return self.server.sockets[-1]

    def come_back(self, pause: float = 0.5) -> Socket:
        """Lose the connection, and wait for the next attempt."""
        self.server.asked.clear()
        self.server.sockets[-1].drop()
        self.server.advance(pause)
        return self.server.sockets[-1]

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.server.advance(1)

    def asked(self) -> list[tuple[str, str | None]]:
        """Address and ``authorization`` of what came over HTTP."""
        return [(path, authorization) for _, path, authorization, _ in self.server.asked]

    def outcome(self, deferred: Deferred[Any]) -> list[Any]:
        """A list that gets the result, or the exception, once there is one."""
        found: list[Any] = []
        deferred.addCallbacks(found.append, lambda failure: found.append(failure.value))
        self.server.flush()
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- coming back


def test_it_logs_in_and_connects_with_a_ticket(bench: Bench) -> None:
    bench.start()
    assert bench.server.asked == [
        ("POST", LOGIN, None, {"user_type": "user", "user_name": "alice", "password": "secret"}),
        ("GET", WS_URL, "token-1", None),
    ]
    assert (bench.reports, bench.heard) == (["connected"], ["connected"])


def test_it_comes_back_with_the_same_token(bench: Bench) -> None:
    bench.start()
    bench.come_back()
    assert bench.asked() == [(WS_URL, "token-1")]
    assert bench.heard == ["connected", "lost: 1000", "connected"]
    assert bench.reports == ["connected", "the connection is closed (1000)", "connected"]


@pytest.mark.parametrize("ecode", ENDED)
def test_a_token_that_has_ended_is_renewed(bench: Bench, ecode: int) -> None:
    bench.start()
    bench.server.answers["ws_url"] = [{"ecode": ecode, "enote": "expired"}]
    bench.come_back()
    assert bench.asked() == [(WS_URL, "token-1"), (TOKEN, None), (WS_URL, "token-2")]
    assert bench.server.asked[1][3] == {"rtoken": "rtoken-1"}
    assert bench.heard[-1] == "connected"
    bench.server.answers["ws_url"] = [{"ecode": ecode, "enote": "expired"}]
    bench.come_back(1)
    assert bench.server.asked[1][3] == {"rtoken": "rtoken-2"}, "an rtoken works once"


@pytest.mark.parametrize("ecode", ENDED)
def test_it_logs_in_when_the_token_cannot_be_renewed(bench: Bench, ecode: int) -> None:
    bench.start()
    bench.server.answers["ws_url"] = bench.server.answers["token"] = [{"ecode": ecode, "enote": "expired"}] * 2
    bench.come_back()
    assert bench.asked() == [(WS_URL, "token-1"), (TOKEN, None), (LOGIN, None), (WS_URL, "token-3")]
    assert bench.heard[-1] == "connected"


def test_an_rtoken_is_never_used_twice(bench: Bench) -> None:
    """Whether the server has seen it, when no answer came, nobody knows; a second use would end the family."""
    bench.start()
    bench.server.answers["ws_url"] = [{"ecode": 1004010002, "enote": "expired"}]
    bench.server.answers["token"] = [b"the answer is lost"]
    bench.come_back()
    assert bench.asked() == [(WS_URL, "token-1"), (TOKEN, None)]
    bench.server.asked.clear()
    bench.server.advance(1)
    assert bench.asked() == [(LOGIN, None), (WS_URL, "token-1")]


def test_a_server_without_rtoken(bench: Bench) -> None:
    bench.server.answers["login"] = [{**OK, "user_unid": "u/1", "atoken": "a"}]
    bench.start()
    bench.server.answers["ws_url"] = [{"ecode": 1004010002, "enote": "expired"}]
    bench.come_back()
    assert bench.asked() == [(WS_URL, "a"), (LOGIN, None), (WS_URL, "token-2")]


def test_the_pauses_grow_and_are_random(bench: Bench) -> None:
    bench.server.answers["login"] = [{"ecode": 1005030002, "enote": "overloaded"}] * 100
    bench.client.start()
    times: list[float] = []
    for _ in range(400):
        bench.server.flush()
        times += [bench.server.reactor.seconds()] * (len(bench.reports) - len(times))
        bench.server.advance(0.5)
    assert times[:9] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5]
    assert set(bench.reports) == {"cannot connect: 1005030002: overloaded"}
    assert bench.heard == []


def test_a_server_that_is_overloaded_is_tried_again(bench: Bench) -> None:
    bench.server.answers["login"] = [{"ecode": 1005030002, "enote": "stopping"}]
    bench.client.start()
    bench.server.flush()
    assert bench.reports == ["cannot connect: 1005030002: stopping"]
    bench.server.advance(0.5)
    assert bench.heard == ["connected"]


def test_an_address_that_is_none_is_said_at_once(bench: Bench) -> None:
    client = LastingClient(bench.server.reactor, "localhost:8080", "alice", "secret")
    with pytest.raises(CannotConnect, match="'localhost:8080' is not the address of a server"):
        client.start()


def test_starting_twice_connects_once(bench: Bench) -> None:
    bench.start()
    bench.start()
    assert len(bench.server.sockets) == 1


def test_a_failing_owner_ends_nothing(bench: Bench, logged_errors: Any) -> None:
    def fails(*_args: Any) -> None:
        raise ZeroDivisionError

    bench.client._connected = bench.client._lost = bench.client._report = fails
    bench.start()
    bench.come_back()
    assert len(logged_errors.expect(ZeroDivisionError)) == 6
    assert len(bench.server.sockets) == 2


def test_its_secrets_are_not_shown(bench: Bench) -> None:
    bench.start()
    assert "secret" not in repr(bench.client)
    assert "token-1" not in repr(bench.client)


# -- the end


def test_refused_credentials_end_it(bench: Bench) -> None:
    bench.server.answers["login"] = [{"ecode": 1004010003, "enote": "wrong name or password"}]
    waiting = bench.outcome(bench.client.request("get tasks"))
    ended = bench.outcome(bench.client.when_ended())
    bench.client.start()
    bench.server.flush()
    assert isinstance(ended[0], RequestFailed)
    assert str(ended[0]) == "1004010003: wrong name or password"
    assert [type(failure) for failure in waiting] == [CannotConnect]
    assert str(waiting[0]) == "1004010003: wrong name or password"
    assert bench.reports == ["name or password are refused: 1004010003: wrong name or password"]
    assert bench.server.reactor.getDelayedCalls() == []
    assert bench.outcome(bench.client.when_ended()) == ended
    with pytest.raises(CannotConnect, match="wrong name or password"):
        bench.server.run(bench.client.request("get tasks"))


def test_a_password_that_was_changed_ends_it(bench: Bench) -> None:
    bench.start()
    for name in ("ws_url", "token"):
        bench.server.answers[name] = [{"ecode": 1004010001, "enote": "no such token"}]
    bench.server.answers["login"] = [{"ecode": 1004010003, "enote": "wrong name or password"}]
    ended = bench.outcome(bench.client.when_ended())
    bench.server.sockets[-1].drop(1008, "new password")
    bench.server.advance(0.5)
    assert [failure.ecode for failure in ended] == [1004010003]
    assert bench.heard == ["connected", "lost: 1008"]


def test_it_may_be_started_again(bench: Bench) -> None:
    bench.server.answers["login"] = [{"ecode": 1004010003, "enote": "not yet"}]
    bench.client.start()
    bench.server.flush()
    bench.start()
    assert bench.heard == ["connected"]
    assert bench.outcome(bench.client.when_ended()) == []


def test_it_stops_while_connected(bench: Bench) -> None:
    socket = bench.start()
    ended = bench.outcome(bench.client.when_ended())
    asked = bench.outcome(bench.client.request("get tasks"))
    bench.server.run(bench.client.stop())
    assert socket.ended == (1000, None)
    assert ended == [None]
    assert [type(failure) for failure in asked] == [Disconnected]
    assert bench.server.reactor.getDelayedCalls() == []
    assert bench.heard == ["connected"], "the owner knows"
    assert bench.outcome(bench.client.when_ended()) == [None]
    with pytest.raises(CannotConnect, match="the client was stopped"):
        bench.server.run(bench.client.request("get tasks"))


def test_it_stops_while_it_waits(bench: Bench) -> None:
    bench.start().drop()
    waiting = bench.outcome(bench.client.request("get tasks"))
    bench.server.run(bench.client.stop())
    assert [str(failure) for failure in waiting] == ["the client was stopped"]
    assert bench.server.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("flushed", [False, True])
def test_it_stops_while_it_connects(bench: Bench, flushed: bool) -> None:
    bench.server.answers["login"] = [b""] if flushed else []
    bench.client.start()
    bench.server.run(bench.client.stop())
    bench.server.advance(100)
    assert bench.server.sockets == []
    assert bench.reports == []


def test_it_stops_when_it_is_told_that_it_is_connected(bench: Bench) -> None:
    bench.client._connected = bench.client.stop
    bench.client.start()
    bench.server.flush()
    bench.server.advance(100)
    assert [socket.ended for socket in bench.server.sockets] == [(1000, None)]
    assert bench.server.reactor.getDelayedCalls() == []


def test_it_may_begin_anew_when_it_is_told_that_it_is_connected(bench: Bench) -> None:
    def again() -> None:
        if len(bench.server.sockets) == 1:
            bench.client.stop()
            bench.client.start()

    bench.client._connected = again
    bench.start()
    bench.pass_time(10)
    assert [socket.ended for socket in bench.server.sockets] == [(1000, None), None]


def test_it_stops_when_it_is_told_that_it_was_lost(bench: Bench) -> None:
    bench.client._lost = lambda _why: bench.client.stop()
    bench.start().drop()
    bench.server.advance(100)
    assert len(bench.server.sockets) == 1
    assert bench.server.reactor.getDelayedCalls() == []


def test_one_that_was_never_started_stops(bench: Bench) -> None:
    bench.server.run(bench.client.stop())
    bench.server.run(bench.client.log_out())


def test_it_logs_out(bench: Bench) -> None:
    socket = bench.start()
    bench.server.run(bench.client.log_out())
    assert socket.ended == (1000, None)
    assert bench.server.asked[-1] == ("POST", LOGOUT, None, {"rtoken": "rtoken-1"})
    bench.server.asked.clear()
    bench.start()
    assert bench.asked()[0] == (LOGIN, None), "its tokens are gone"


def test_it_logs_out_while_it_is_not_connected(bench: Bench) -> None:
    bench.start().drop()
    bench.server.run(bench.client.log_out())
    assert bench.server.asked[-1] == ("POST", LOGOUT, None, {"rtoken": "rtoken-1"})


def test_logging_out_of_what_has_ended_is_fine(bench: Bench) -> None:
    bench.start()
    bench.server.answers["logout"] = [{"ecode": 1004010001, "enote": "no such token"}]
    bench.server.run(bench.client.log_out())


def test_logging_out_may_fail(bench: Bench) -> None:
    socket = bench.start()
    bench.server.answers["logout"] = [{"ecode": 1005030002, "enote": "overloaded"}]
    with pytest.raises(RequestFailed, match="overloaded"):
        bench.server.run(bench.client.log_out())
    assert socket.ended == (1000, None)


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


def test_a_request_that_was_sent_is_not_sent_again(bench: Bench) -> None:
    socket = bench.start()
    got = bench.outcome(bench.client.request("post tasks", {}))
    assert len(socket.heard()) == 1
    assert bench.come_back().heard() == []
    assert [type(failure) for failure in got] == [Disconnected]


def test_asking_again_at_once_waits_for_the_next_connection(bench: Bench) -> None:
    bench.start()
    again = bench.client.request("get tasks").addErrback(lambda _: bench.client.request("get tasks"))
    got = bench.outcome(again)
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
