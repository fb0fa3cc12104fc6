"""Tokens and their families, and what ends sockets, on a server in memory (``docs/protocol.md`` §1 and §4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from devconf import auth
from devconf.client import Disconnected, connect_with_token
from devconf.connection import open_client
from devconf.errors import CommandFailed
from devconf.model import Identity, Role
from devconf.store import accounts
from devconf.testing import MemoryServer

HOUR, DAY = 3600.0, 86400.0
GONE = (1004010001, "this token is not valid; log in again")


def do(server: MemoryServer, work: Coroutine[Any, Any, Any]) -> Any:
    """What ``work`` ends with."""
    done = Deferred.fromCoroutine(work)
    server.finish()
    results: list[Any] = []
    failures: list[Any] = []
    done.addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    return results[0]


def run(server: MemoryServer, function: Callable[..., Any], *args: Any) -> Any:
    """What a function of the store returns."""

    async def work() -> Any:
        return await server.service.store.run(function, *args)

    return do(server, work())


def add(server: MemoryServer, name: str, role: Role) -> str:
    """Make an account whose password is its name; return its unid."""

    def insert(connection: Connection) -> None:
        accounts.insert_user(connection, 0.0, f"unid of {name}", name, role, f"plain {name}")

    run(server, insert)
    return f"unid of {name}"


def log_in(server: MemoryServer, name: str, password: str = "") -> dict[str, Any]:
    return dict(do(server, server.service.auth.login_user(name, password or name)))


class Socket:
    """A socket that only notes how it was closed."""

    def __init__(self, server: MemoryServer, atoken: str) -> None:
        self.closed: tuple[int, str] | None = None
        self.identity: Identity = do(server, self._identified(server, atoken))
        server.service.sessions.add(self.identity, self.close)

    async def _identified(self, server: MemoryServer, atoken: str) -> Identity:
        return await server.service.auth.identify(atoken)

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


def refused(server: MemoryServer, work: Coroutine[Any, Any, Any]) -> tuple[int, str]:
    with pytest.raises(CommandFailed) as failed:
        do(server, work)
    return int(failed.value.ecode), failed.value.enote


# -- tokens


def test_an_rtoken_becomes_new_tokens_of_its_family(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    first = log_in(server, "ann")
    second = do(server, server.service.auth.renew(first["rtoken"]))
    assert set(second) == {"user_unid", "user_type", "atoken", "atoken_edt", "rtoken", "rtoken_edt"}
    assert (second["user_unid"], second["user_type"]) == ("unid of ann", "user")
    assert len({first["atoken"], first["rtoken"], second["atoken"], second["rtoken"]}) == 4
    old, new, other = (Socket(server, each["atoken"]) for each in (first, second, log_in(server, "ann")))
    assert old.identity.family == new.identity.family != other.identity.family


def test_an_rtoken_that_is_used_twice_ends_its_family_and_nothing_else(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    first, apart = log_in(server, "ann"), log_in(server, "ann")
    second = do(server, server.service.auth.renew(first["rtoken"]))
    sockets = [Socket(server, each["atoken"]) for each in (first, second, apart)]
    ticket = do(server, server.service.auth.ticket(sockets[1].identity))
    twice = (1004010001, "this rtoken has been used before; log in again")
    assert refused(server, server.service.auth.renew(first["rtoken"])) == twice
    ended = (1008, "an rtoken was used twice; log in again")
    assert [socket.closed for socket in sockets] == [ended, ended, None]
    for token in (first["rtoken"], second["rtoken"]):
        assert refused(server, server.service.auth.renew(token)) == GONE
    with pytest.raises(CommandFailed, match="1004010001"):
        Socket(server, second["atoken"])
    with pytest.raises(CommandFailed, match="1004010001"):
        run(server, accounts.redeem_ticket, ticket, 0.0)
    do(server, server.service.auth.renew(apart["rtoken"]))


def test_tokens_expire(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    tokens = log_in(server, "ann")
    server.advance(HOUR - 1)
    Socket(server, tokens["atoken"])
    server.advance(1)
    with pytest.raises(CommandFailed, match="1004010002: this token has expired"):
        Socket(server, tokens["atoken"])
    server.advance(30 * DAY - HOUR)
    expired = (1004010002, "this token has expired; log in again, or use the rtoken")
    assert refused(server, server.service.auth.renew(tokens["rtoken"])) == expired


def test_logging_out_ends_one_family(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    first, second, third = (log_in(server, "ann") for _ in range(3))
    sockets = [Socket(server, each["atoken"]) for each in (first, second, third)]
    do(server, server.service.auth.log_out("atoken", first["atoken"]))
    do(server, server.service.auth.log_out("rtoken", second["rtoken"]))
    out = (1008, "logged out")
    assert [socket.closed for socket in sockets] == [out, out, None]
    for tokens in (first, second):
        assert refused(server, server.service.auth.renew(tokens["rtoken"])) == GONE
        assert refused(server, server.service.auth.log_out("atoken", tokens["atoken"])) == GONE
    Socket(server, third["atoken"])


def test_an_rtoken_is_no_atoken_and_the_other_way_round(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    tokens = log_in(server, "ann")
    assert refused(server, server.service.auth.renew(tokens["atoken"])) == GONE
    with pytest.raises(CommandFailed, match="1004010001"):
        Socket(server, tokens["rtoken"])


def test_what_has_expired_is_forgotten_a_day_later(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    tokens = log_in(server, "ann")
    server.advance(2 * DAY + 2 * HOUR)
    with pytest.raises(CommandFailed, match="1004010001"):
        Socket(server, tokens["atoken"])
    do(server, server.service.auth.renew(tokens["rtoken"]))


# -- what happens between two steps


def identified(server: MemoryServer, tokens: dict[str, Any]) -> Identity:
    return Socket(server, tokens["atoken"]).identity


def test_there_is_no_ticket_for_tokens_that_have_ended_since_they_were_shown(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    first, second = log_in(server, "ann"), log_in(server, "ann")
    out, stays = identified(server, first), identified(server, second)
    do(server, server.service.auth.log_out("atoken", first["atoken"]))
    assert refused(server, server.service.auth.ticket(out)) == GONE
    do(server, server.service.auth.ticket(stays))
    assert server.ask("put users", {"user_name": "ann", "password": "new"})["ecode"] == 0
    again = log_in(server, "ann", "new")
    assert refused(server, server.service.auth.ticket(stays)) == GONE
    do(server, server.service.auth.ticket(identified(server, again)))


@pytest.mark.parametrize("change", [{"new_key": True}, {"enabled": False}, {"dev_refid": "box-2"}])
def test_nor_for_those_of_a_device_that_was_cut_off(server: MemoryServer, change: dict[str, Any]) -> None:
    device = server.enrol("box-1")
    login = server.service.auth.login_device("box-1", device.dev_key, "192.0.2.1")
    identity = identified(server, do(server, login))
    do(server, server.service.auth.ticket(identity))
    assert server.ask("put devices", {"dev_unid": device.dev_unid, **change})["ecode"] == 0
    assert refused(server, server.service.auth.ticket(identity)) == GONE


@pytest.mark.parametrize("by", ["ticket", "header"])
def test_a_socket_that_is_being_opened_while_its_tokens_end_is_closed(server: MemoryServer, by: str) -> None:
    add(server, "ann", Role.VIEWER)
    atoken = log_in(server, "ann")["atoken"]
    ticket = do(server, server.service.auth.ticket(identified(server, {"atoken": atoken})))
    server.runner.latency = 1.0
    if by == "ticket":
        address = f"ws://127.0.0.1:8080/wsapi/v1/devconf_fx/{ticket}"
        opening = Deferred.fromCoroutine(open_client(server.reactor, address))
    else:
        opening = connect_with_token(server.reactor, server.url, atoken)
    server.finish()
    # It is known who comes, and nobody has been told yet.
    logged_out = Deferred.fromCoroutine(server.service.auth.log_out("atoken", atoken))
    server.advance(3)
    assert logged_out.called
    ends: list[Disconnected] = []
    opening.addCallback(lambda client: client.when_closed()).addCallback(ends.append)
    server.finish()
    assert [(end.code, end.reason) for end in ends] == [(1008, "logged out")]


# -- clients that go away


def ask_and_leave(server: MemoryServer, path: bytes, body: bytes, atoken: str = "") -> None:
    """Send a request, and go away while the store carries it out."""
    server.runner.latency = 1.0
    visitor: Any = Protocol()
    connectProtocol(TCP4ClientEndpoint(server.reactor, "127.0.0.1", 8080), visitor)
    server.finish()
    head = (b"POST %s HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(body), b"Authorization: %s")
    visitor.transport.write(b"\r\n".join([*head, b"", body]) % atoken.encode())
    server.finish()
    visitor.transport.abortConnection()
    server.advance(1)
    server.runner.latency = 0.0


def test_a_logout_ends_the_sockets_of_a_client_that_does_not_wait_for_the_answer(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    by_header, by_rtoken, apart = (log_in(server, "ann") for _ in range(3))
    sockets = [Socket(server, each["atoken"]) for each in (by_header, by_rtoken, apart)]
    ask_and_leave(server, b"/webapi/v1/logout", b"", by_header["atoken"])
    ask_and_leave(server, b"/webapi/v1/logout", json.dumps({"rtoken": by_rtoken["rtoken"]}).encode())
    out = (1008, "logged out")
    assert [socket.closed for socket in sockets] == [out, out, None]


def test_a_second_use_of_an_rtoken_ends_the_sockets_though_the_thief_goes_away(server: MemoryServer) -> None:
    add(server, "ann", Role.VIEWER)
    first, apart = log_in(server, "ann"), log_in(server, "ann")
    do(server, server.service.auth.renew(first["rtoken"]))
    sockets = [Socket(server, each["atoken"]) for each in (first, apart)]
    ask_and_leave(server, b"/webapi/v1/token", json.dumps({"rtoken": first["rtoken"]}).encode())
    assert [socket.closed for socket in sockets] == [(1008, "an rtoken was used twice; log in again"), None]


# -- accounts


def test_who_changes_their_own_account_is_answered_first(server: MemoryServer) -> None:
    add(server, "ann", Role.ADMIN)
    add(server, "bob", Role.ADMIN)
    socket = Socket(server, log_in(server, "ann")["atoken"])
    server.eager = False
    response = server.call("put users", {"user_name": "ann", "password": "new"})
    while not response.called:
        assert socket.closed is None
        server.clock.advance(0)
    assert server.result(response) == {"ecode": 0, "enote": "ok"}
    server.finish()
    assert socket.closed == (1008, "this account has another role or password; log in again")
    assert refused(server, server.service.auth.login_user("ann", "ann"))[0] == 1004010003
    do(server, server.service.auth.login_user("ann", "new"))


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_the_others_change_their_own_password_only(server: MemoryServer, role: Role) -> None:
    add(server, "tester", role)  # whom the server in memory lets ask
    add(server, "bob", Role.VIEWER)
    denied = {
        "ecode": 1004030001,
        "enote": "this takes the role admin; your own password you may change with old_password",
    }
    for params in (
        {"user_name": "bob", "password": "x", "old_password": "bob"},
        {"user_name": "nobody", "password": "x", "old_password": "x"},
        {"user_name": "tester", "password": "x"},
        {"user_name": "tester", "password": "x", "old_password": "tester", "role": "admin"},
    ):
        assert server.ask("put users", params, role=role) == denied
    mine = {"user_name": "tester", "password": "new"}
    wrong = {"ecode": 1004010003, "enote": "$.params.old_password is wrong"}
    assert server.ask("put users", {**mine, "old_password": "old"}, role=role) == wrong
    assert server.ask("put users", {**mine, "old_password": "tester"}, role=role) == {"ecode": 0, "enote": "ok"}
    do(server, server.service.auth.login_user("tester", "new"))


def test_a_password_that_changes_while_it_is_compared_lets_nobody_in(server: MemoryServer) -> None:
    add(server, "ann", Role.ADMIN)
    server.eager = False
    login = Deferred.fromCoroutine(server.service.auth.login_user("ann", "ann"))
    change = server.call("put users", {"user_name": "ann", "password": "new"})
    server.finish()
    assert server.result(change)["ecode"] == 0
    failures: list[Any] = []
    login.addErrback(failures.append)
    assert [str(failure.value) for failure in failures] == ["1004010003: wrong user_name or password"]


def test_an_old_password_that_is_replaced_while_it_is_compared_changes_nothing(server: MemoryServer) -> None:
    add(server, "tester", Role.VIEWER)  # whom the server in memory lets ask
    server.eager = False
    stale = server.call(
        "put users", {"user_name": "tester", "old_password": "tester", "password": "mine"}, role=Role.VIEWER
    )
    meanwhile = server.call("put users", {"user_name": "tester", "password": "new"})
    server.finish()
    assert server.result(meanwhile) == {"ecode": 0, "enote": "ok"}
    assert server.result(stale) == {"ecode": 1004010003, "enote": "$.params.old_password is wrong"}
    log_in(server, "tester", "new")
    assert refused(server, server.service.auth.login_user("tester", "mine"))[0] == 1004010003


def test_nothing_to_change_is_wrong(server: MemoryServer) -> None:
    add(server, "ann", Role.ADMIN)
    nothing = {"ecode": 1004000002, "enote": "$.params must have what is to change: role or password"}
    assert server.ask("put users", {"user_name": "ann", "old_password": "ann"}) == nothing


def test_users_come_in_pages(server: MemoryServer) -> None:
    for name in ("ann", "bob", "cid"):
        add(server, name, Role.VIEWER)
    items = [{"user_unid": f"unid of {name}", "user_name": name, "role": "viewer"} for name in ("ann", "bob", "cid")]
    page = server.ask("get users", {"limit": 2})
    assert page["users"] == items[:2]
    assert server.ask("get users", {"after": page["next"]}) == {
        "ecode": 0,
        "enote": "ok",
        "users": items[2:],
        "next": None,
    }
    assert server.ask("get users", {"user_name": "bob"})["users"] == items[1:2]


# -- devices that are not enrolled


def knock(server: MemoryServer, dev_refid: str, address: str = "192.0.2.1") -> None:
    refused_with = refused(server, server.service.auth.login_device(dev_refid, "key", address))
    assert refused_with[0] == 1004010003


def test_devices_that_are_not_enrolled_are_remembered(server: MemoryServer) -> None:
    knock(server, "box-1")
    server.advance(60)
    knock(server, "box-2")
    knock(server, "box-1", "192.0.2.9")
    assert server.ask("get devices/unknown") == {
        "ecode": 0,
        "enote": "ok",
        "unknown": [
            {
                "dev_refid": "box-1",
                "first_at": "2025-06-15T15:06:40.000Z",
                "count": 2,
                "addr": "192.0.2.9",
                "last_at": "2025-06-15T15:07:40.000Z",
            },
            {
                "dev_refid": "box-2",
                "first_at": "2025-06-15T15:07:40.000Z",
                "count": 1,
                "addr": "192.0.2.1",
                "last_at": "2025-06-15T15:07:40.000Z",
            },
        ],
    }
    server.enrol("box-1")
    assert [each["dev_refid"] for each in server.ask("get devices/unknown")["unknown"]] == ["box-2"]
    knock(server, "box-1")  # with a wrong key now, and known
    assert [each["dev_refid"] for each in server.ask("get devices/unknown")["unknown"]] == ["box-2"]


def test_only_so_many_are_remembered(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 3)
    for number in range(5):
        knock(server, f"box-{number}")
        knock(server, "box-0")
    found = [each["dev_refid"] for each in server.ask("get devices/unknown")["unknown"]]
    assert found == ["box-0", "box-4", "box-3"]
