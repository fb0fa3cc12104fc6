"""The client: logging in, requests and their ends, the connection and its end."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from devconf.client import (
    CannotConnect,
    Client,
    Disconnected,
    NoResponse,
    RequestFailed,
    connect,
    connect_with_token,
    whole_command,
)
from tests.fake_server import OK, TASKS, URL, FakeServer, Json, Socket


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def connected(server: FakeServer) -> tuple[Client, Socket]:
    client: Client = server.run(connect(server.reactor, URL, "alice", "secret"))
    return client, server.sockets[-1]


def outcome(deferred: Deferred[Any]) -> list[Any]:
    """A list that gets the result, or the exception, once there is one."""
    found: list[Any] = []
    deferred.addCallbacks(found.append, lambda failure: found.append(failure.value))
    return found


def test_it_logs_in_and_connects_with_the_ticket(server: FakeServer) -> None:
    connected(server)
    assert server.asked == [
        (
            "POST",
            "/webapi/v1/login",
            None,
            {"user_type": "user", "user_name": "alice", "password": "secret"},
        ),
        ("GET", "/webapi/v1/devconf_fx/users/u%2F1/ws_url?type=devconf_fx", "token-1", None),
    ]
    assert len(server.sockets) == 1
    assert server.tickets == set()


def test_a_slash_at_the_end_of_the_address_does_no_harm(server: FakeServer) -> None:
    server.run(connect(server.reactor, URL + "/", "alice", "secret"))
    assert server.asked[0][1] == "/webapi/v1/login"


def test_an_address_of_ipv6(server: FakeServer) -> None:
    server.run(connect(server.reactor, "http://[::1]:8080", "alice", "secret"))
    assert len(server.sockets) == 1


def test_it_connects_with_a_token(server: FakeServer) -> None:
    server.tokens.add("mine")
    # The fake server has its sockets on a port of their own.
    client = server.run(connect_with_token(server.reactor, "http://127.0.0.1:8081", "mine"))
    assert isinstance(client, Client)
    assert server.asked == []


def test_a_wrong_token_cannot_connect(server: FakeServer) -> None:
    with pytest.raises(CannotConnect, match=r"^the server did not open the socket: .*401"):
        server.run(connect_with_token(server.reactor, "http://127.0.0.1:8081", "wrong"))


def test_a_refused_login_has_the_answer(server: FakeServer) -> None:
    answer = {"ecode": 1004010003, "enote": "wrong name or password"}
    server.answers["login"] = [answer]
    with pytest.raises(RequestFailed, match=r"^1004010003: wrong name or password$") as refused:
        server.run(connect(server.reactor, URL, "alice", "wrong"))
    assert (refused.value.ecode, refused.value.enote, refused.value.response) == (
        1004010003,
        "wrong name or password",
        answer,
    )
    assert server.sockets == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "http://[::1",
        "http://a:99999",
        "http://user:secret@a",
        "http://b\xfccher.example",
    ],
)
def test_what_is_no_address_is_named(server: FakeServer, url: str) -> None:
    with pytest.raises(CannotConnect, match="is not the address of a server"):
        server.run(connect(server.reactor, url, "alice", "secret"))


def test_nobody_listens(server: FakeServer) -> None:
    server.up = False
    ended = outcome(connect(server.reactor, URL, "alice", "secret"))
    server.flush()
    server.advance(1)
    assert isinstance(ended[0], CannotConnect)
    assert str(ended[0]) == "http://127.0.0.1:8080 cannot be reached: Connection was refused by other side"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"<html>", "answered with HTTP status 200 and no JSON object; is it a devconf server?"),
        (b"[]", "answered with HTTP status 200 and no JSON object; is it a devconf server?"),
        (OK, "answered without user_unid; is it a devconf server?"),
        ({**OK, "user_unid": "u"}, "answered without atoken; is it a devconf server?"),
        ({**OK, "user_unid": 7, "atoken": "a"}, "answered without user_unid; is it a devconf server?"),
    ],
)
def test_an_answer_of_something_else(server: FakeServer, answer: Any, says: str) -> None:
    server.answers["login"] = [answer]
    with pytest.raises(CannotConnect) as refused:
        server.run(connect(server.reactor, URL, "alice", "secret"))
    assert str(refused.value) == f"{URL} {says}"


def test_a_missing_ecode_reads_as_0(server: FakeServer) -> None:
    server.answers["login"] = [{"user_unid": "u", "atoken": "a"}]
    connected(server)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8081/x", "nonsense"])
def test_a_ws_url_that_is_none(server: FakeServer, address: str) -> None:
    server.answers["ws_url"] = [{**OK, "ws_url": address}]
    with pytest.raises(CannotConnect, match="is not the address of a socket"):
        server.run(connect(server.reactor, URL, "alice", "secret"))


def test_a_server_that_never_answers_is_given_up(server: FakeServer) -> None:
    ended = outcome(connect(server.reactor, URL, "alice", "secret"))
    server.reactor.advance(29)
    assert ended == []
    server.reactor.advance(2)
    assert [str(error) for error in ended] == [f"{URL} did not answer within 30 s"]


def test_a_socket_that_never_opens_is_given_up(server: FakeServer) -> None:
    ended = outcome(connect_with_token(server.reactor, "http://127.0.0.1:8081", "mine"))
    server.reactor.advance(31)
    assert [str(error) for error in ended] == ["127.0.0.1:8081 did not open the socket within 30 s"]
    assert isinstance(ended[0], CannotConnect)


# -- requests


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("get tasks", f"get {TASKS}"),
        ("post tasks/pic_task_config", f"post {TASKS}/pic_task_config"),
        (f"delete {TASKS}", f"delete {TASKS}"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_commands_may_be_short(short: str, whole: str) -> None:
    assert whole_command(short) == whole


def test_a_request_and_its_response(server: FakeServer) -> None:
    client, socket = connected(server)
    got = outcome(client.request("get tasks", {"limit": 5}))
    assert socket.heard() == [{"command": f"get {TASKS}", "req_id": "1", "params": {"limit": 5}}]
    answer = {"command": f"get {TASKS}", "req_id": "1", **OK, "tasks": [], "next": None}
    socket.tell(answer)
    server.flush()
    assert got == [answer]


def test_params_are_left_out_where_there_are_none(server: FakeServer) -> None:
    client, socket = connected(server)
    client.request("get tasks")
    assert socket.heard() == [{"command": f"get {TASKS}", "req_id": "1"}]


def test_answers_come_in_any_order(server: FakeServer) -> None:
    client, socket = connected(server)
    got = [outcome(client.request("get tasks")) for _ in range(3)]
    for number in (3, 1, 2):
        socket.tell({"req_id": str(number), **OK, "n": number})
    server.flush()
    assert [found[0]["n"] for found in got] == [1, 2, 3]


def test_an_error_of_the_server(server: FakeServer) -> None:
    client, socket = connected(server)
    got = outcome(client.request("delete tasks", {"task_id": "t"}))
    answer = {"req_id": "1", "ecode": 1004040001, "enote": "no such task", "task_id": "t"}
    socket.tell(answer)
    server.flush()
    assert isinstance(got[0], RequestFailed)
    assert got[0].response == answer
    assert str(got[0]) == "1004040001: no such task"


def test_progress(server: FakeServer) -> None:
    client, socket = connected(server)
    seen: list[tuple[int, int]] = []
    got = outcome(client.request("put store_confs", {}, progress=lambda done, total: seen.append((done, total))))
    assert socket.heard() == [
        {"command": "put /wsapi/v1/devconf_fx/store_confs", "req_id": "1", "progress": True, "params": {}}
    ]
    socket.tell({"req_id": "1", "progress": {"done": 1, "total": 4}})
    socket.tell({"req_id": "1", "progress": {"done": 3, "total": 4}})
    server.flush()
    assert (seen, got) == ([(1, 4), (3, 4)], [])
    socket.tell({"req_id": "1", **OK})
    socket.tell({"req_id": "1", "progress": {"done": 4, "total": 4}})
    server.flush()
    assert (seen, got) == ([(1, 4), (3, 4)], [{"req_id": "1", **OK}])


def test_a_failing_progress_does_not_end_the_connection(server: FakeServer, logged_errors: Any) -> None:
    client, socket = connected(server)

    def fails(_done: int, _total: int) -> None:
        raise ZeroDivisionError

    got = outcome(client.request("get tasks", progress=fails))
    socket.tell({"req_id": "1", "progress": {"done": 1, "total": 4}})
    socket.tell({"req_id": "1", **OK})
    server.flush()
    logged_errors.expect(ZeroDivisionError)
    assert got == [{"req_id": "1", **OK}]


def test_a_timeout_ends_the_waiting_only(server: FakeServer) -> None:
    client, socket = connected(server)
    got = outcome(client.request("get tasks", timeout=2.5))
    other = outcome(client.request("get tasks", timeout=9))
    server.advance(2.4)
    assert got == []
    server.advance(0.2)
    assert [str(error) for error in got] == ["the server did not answer within 2.5 s"]
    assert isinstance(got[0], NoResponse)
    socket.tell({"req_id": "1", **OK})
    socket.tell({"req_id": "2", **OK})
    server.flush()
    assert (len(got), other) == (1, [{"req_id": "2", **OK}])
    assert len(server.reactor.getDelayedCalls()) == 1, "only the keep-alive is left"


def test_a_cancelled_request_is_forgotten(server: FakeServer) -> None:
    client, socket = connected(server)
    request = client.request("get tasks")
    got = outcome(request)
    request.cancel()
    socket.tell({"req_id": "1", **OK})
    server.flush()
    assert len(got) == 1


@pytest.mark.parametrize(
    "junk",
    [
        b"{",
        b"[1]",
        {"req_id": ["1"], **OK},
        {"req_id": "9", **OK},
        OK,
        {"event": "devices", "seq": 1, "at": "", "data": {}},
    ],
)
def test_what_answers_nothing_is_dropped(server: FakeServer, junk: Json | bytes) -> None:
    client, socket = connected(server)
    got = outcome(client.request("get tasks"))
    socket.tell(junk)
    server.flush()
    assert got == []
    socket.tell({"req_id": "1", **OK})
    server.flush()
    assert got == [{"req_id": "1", **OK}]


def test_params_that_are_no_json(server: FakeServer) -> None:
    client, socket = connected(server)
    with pytest.raises(TypeError):
        client.request("get tasks", {"limit": object()})
    assert socket.heard() == []


# -- the end


def test_what_waits_fails_when_the_server_closes(server: FakeServer) -> None:
    client, socket = connected(server)
    order: list[str] = []
    failed = outcome(client.request("get tasks", timeout=60))
    client.when_closed().addCallback(lambda why: order.append(f"closed {why}"))
    again: list[Any] = []

    def ask_again(_failure: Any) -> None:
        order.append("failed")
        again.extend(outcome(client.request("get tasks")))

    client.request("get tasks").addErrback(ask_again)
    socket.drop(1008, "logged out")
    assert str(failed[0]) == "the connection is closed (1008: logged out)"
    assert isinstance(failed[0], Disconnected)
    assert order == ["failed", "closed the connection is closed (1008: logged out)"]
    assert [type(error) for error in again] == [Disconnected]
    assert server.reactor.getDelayedCalls() == []


def test_what_waits_fails_when_the_connection_is_cut(server: FakeServer) -> None:
    client, socket = connected(server)
    failed = outcome(client.request("get tasks"))
    socket.transport.abortConnection()
    server.flush()
    assert str(failed[0]).startswith("the connection is closed (1006: peer dropped the TCP connection")
    assert server.run(client.when_closed()).code == 1006


def test_requests_after_the_end_fail_at_once(server: FakeServer) -> None:
    client, _ = connected(server)
    server.run(client.close())
    with pytest.raises(Disconnected):
        server.run(client.request("get tasks"))
    client.send({"req_id": "1"})


def test_closing(server: FakeServer) -> None:
    client, socket = connected(server)
    failed = outcome(client.request("get tasks"))
    ended = outcome(client.close())
    server.flush()
    assert socket.ended == (1000, None)
    assert str(ended[0]) == "the connection is closed (1000)"
    assert isinstance(failed[0], Disconnected)
    assert server.run(client.close()) is ended[0]
    assert server.reactor.getDelayedCalls() == []


def test_a_server_that_does_not_close_is_dropped(server: FakeServer) -> None:
    client, socket = connected(server)
    socket.answers_close = False
    ended = outcome(client.close())
    server.advance(4.9)
    assert ended == []
    server.advance(0.2)
    assert ended[0].code == 1006
    assert socket.ended is not None


# -- keep-alive


def test_a_server_that_answers_pings_stays(server: FakeServer) -> None:
    client, socket = connected(server)
    ended = outcome(client.when_closed())
    for _ in range(40):
        server.advance(10)
    assert ended == []
    assert socket.pings == 400 // 30


def test_a_server_that_talks_is_not_pinged(server: FakeServer) -> None:
    _, socket = connected(server)
    for _ in range(40):
        server.advance(10)
        socket.tell({"event": "devices"})
        server.flush()
    assert socket.pings == 0


def test_a_dead_server_is_dropped(server: FakeServer) -> None:
    client, socket = connected(server)
    socket.answers_pings = False
    failed = outcome(client.request("get tasks"))
    server.advance(30)
    server.advance(9.9)
    assert (socket.pings, failed) == (1, [])
    server.advance(0.2)
    assert isinstance(failed[0], Disconnected)
    assert server.reactor.getDelayedCalls() == []


def test_the_modules_leave_the_global_reactor_alone() -> None:
    code = "import sys, devconf.client, devconf.simulator; print('twisted.internet.reactor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
