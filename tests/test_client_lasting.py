"""The client that stays: how it comes back, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from devconf.client import CannotConnect, Disconnected, LastingClient, RequestFailed
from tests.client_bench import Bench
from tests.fake_server import OK

LOGIN, TOKEN, LOGOUT = (f"/webapi/v1/{name}" for name in ("login", "token", "logout"))
WS_URL = "/webapi/v1/devconf_fx/users/u%2F1/ws_url?type=devconf_fx"
ENDED = [1004010001, 1004010002]


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
