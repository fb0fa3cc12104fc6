"""The way out, where tokens end with the client; and what is too much: answers and messages that are too large."""

from __future__ import annotations

from typing import Any

import pytest

from devconf.client import CannotConnect, Client, RequestFailed, connect, connect_with_token
from devconf.dial import MESSAGE_MAX
from devconf.ways_in import ANSWER_MAX, Login
from tests.fake_server import OK, URL, FakeServer, Socket

LOGOUT = "/webapi/v1/logout"


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def connected(server: FakeServer) -> tuple[Client, Socket]:
    client: Client = server.run(connect(server.reactor, URL, "alice", "secret"))
    return client, server.sockets[-1]


def test_logging_out_closes_and_ends_the_login(server: FakeServer) -> None:
    client, socket = connected(server)
    ended = client.when_closed()
    assert server.run(client.log_out()) is None
    assert server.asked[-1] == ("POST", LOGOUT, None, {"rtoken": "rtoken-1"})
    assert (socket.ended, server.run(ended).code) == ((1000, None), 1000)
    assert server.reactor.getDelayedCalls() == []


def test_one_that_came_with_a_token_logs_out_with_it(server: FakeServer) -> None:
    server.tokens.add("mine")
    client = server.run(connect_with_token(server.reactor, "http://127.0.0.1:8081", "mine"))
    client._end_login.func.__self__.url = URL  # the fake server has its sockets on a port of their own
    server.run(client.log_out())
    assert server.asked == [("POST", LOGOUT, "mine", None)]


def test_logging_out_of_a_connection_that_is_lost(server: FakeServer) -> None:
    client, socket = connected(server)
    socket.drop()
    server.run(client.log_out())
    assert server.asked[-1][1] == LOGOUT


@pytest.mark.parametrize("ecode", [1004010001, 1004010002])
def test_a_login_that_has_ended_already_is_fine(server: FakeServer, ecode: int) -> None:
    client, _ = connected(server)
    server.answers["logout"] = [{"ecode": ecode, "enote": "no such token"}]
    server.run(client.log_out())


def test_logging_out_may_be_refused(server: FakeServer) -> None:
    client, socket = connected(server)
    server.answers["logout"] = [{"ecode": 1005030002, "enote": "overloaded"}]
    with pytest.raises(RequestFailed, match="overloaded"):
        server.run(client.log_out())
    assert socket.ended == (1000, None)


def test_an_answer_that_is_too_large_is_not_read_to_its_end(server: FakeServer) -> None:
    server.answers["login"] = [{**OK, "user_unid": "u", "atoken": "a" * ANSWER_MAX}]
    with pytest.raises(CannotConnect, match=rf"it answers with more than {ANSWER_MAX} bytes"):
        server.run(connect(server.reactor, URL, "alice", "secret"))


def test_a_message_that_is_too_large_closes_the_connection(server: FakeServer) -> None:
    client, socket = connected(server)
    # The length is in the head of the frame: nobody waits for the rest.
    socket.sendData(b"\x81\x7f" + (MESSAGE_MAX + 1).to_bytes(8, "big") + b"{")
    server.flush()
    assert socket.ended is not None
    assert socket.ended[0] == 1009
    assert not client.is_open


def test_a_message_may_be_large(server: FakeServer) -> None:
    client, socket = connected(server)
    asked: Any = client.request("get store_confs", {"content": True})
    socket.tell({"req_id": "1", **OK, "content": "x" * 2**22})
    assert len(server.run(asked)["content"]) == 2**22


def test_tokens_are_not_shown() -> None:
    assert repr(Login("u", "secret-a", "secret-r")) == "Login(unid='u')"
