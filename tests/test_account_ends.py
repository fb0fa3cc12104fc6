"""An account or a login that ends: what it has asked for and that still waits is not done (``docs/protocol.md`` §4)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory

from devconf.model import Role
from devconf.testing import MemoryClient, MemoryDevice, MemoryServer
from tests.delivering import configure, online, pic_task, stored
from tests.keyed import kept
from tests.running import Raw

ENDED = {"ecode": 1004010001, "enote": "the account or its tokens ended while this request waited; log in again"}


class _Only(ClientFactory):
    noisy = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def buildProtocol(self, addr: object) -> Any:  # noqa: ARG002
        return self._connection


class Http:
    """A request of an account over HTTP, in memory."""

    def __init__(self, server: MemoryServer, atoken: str, line: str, params: dict[str, Any], *headers: str) -> None:
        self._server = server
        self._connection = Raw()
        server.reactor.connectTCP("127.0.0.1", 8080, _Only(self._connection))
        server.finish()
        method, _, resource = line.partition(" ")
        body = json.dumps(params)
        head = [
            f"{method.upper()} /webapi/v1/devconf_fx/{resource} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: {atoken}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *headers,
        ]
        self._connection.transport.write("\r\n".join([*head, "", body]).encode())  # type: ignore[union-attr]
        server.run()

    def answer(self) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None: there is no answer yet."""
        head, _, body = self._connection.heard.partition(b"\r\n\r\n")
        return (int(head.split()[1]), json.loads(body)) if body else None

    def outcome(self) -> tuple[int, int] | None:
        """Status and ``ecode``."""
        answer = self.answer()
        return None if answer is None else (answer[0], answer[1]["ecode"])


def log_in(server: MemoryServer, client: MemoryClient) -> str:
    """Another atoken of the account."""
    login = Deferred.fromCoroutine(server.service.auth.login_user(client.user_name, client.password))
    server.finish()
    return str(server.result(login)["atoken"])


ENDS: dict[str, tuple[str, dict[str, str]]] = {
    "demoted": ("put users", {"role": "viewer"}),
    "new password": ("put users", {"password": "another"}),
    "deleted": ("delete users", {}),
}


def end(server: MemoryServer, how: str) -> None:
    """End the account of bob."""
    command, more = ENDS[how]
    assert server.ask(command, {"user_name": "bob", **more}) == {"ecode": 0, "enote": "ok"}
    server.finish()


def waits(device: MemoryDevice) -> dict[str, Any]:
    """The params of a task that waits for ``device`` to connect."""
    return {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid], "connect_wait": 60}


def nothing_waits(server: MemoryServer) -> bool:
    service = server.service
    return not (service.arrivals._waiters or service.locks.waiting or service.sessions._requests)


@pytest.mark.parametrize("how", ENDS)
def test_what_waits_on_a_socket_is_dropped(server: MemoryServer, how: str) -> None:
    """Also if its client does not close the connection when it is told to."""
    awaited, device = server.enrol("a"), online(server, "b")
    task_id = pic_task(server, device)
    configured = configure(server, task_id)
    bob = server.client("bob", Role.OPERATOR)
    responses = [
        bob.call("post tasks", waits(awaited), idempotency_key="k"),
        bob.call("put tasks", {"task_id": task_id, "name": "of bob"}),
    ]
    bob._socket.transport.pauseProducing()
    end(server, how)
    assert nothing_waits(server)
    awaited.connect()
    device.obey()
    assert server.result(configured)["ecode"] == 0
    server.advance(60)
    assert not any(response.called for response in responses)
    assert [task["name"] for task in server.ask("get tasks")["tasks"]] == ["gate"]
    assert stored(server, task_id)["name"] == "gate"
    assert kept(server) == 0


@pytest.mark.parametrize("how", ENDS)
def test_what_waits_over_http_is_refused(server: MemoryServer, how: str) -> None:
    awaited, device = server.enrol("a"), online(server, "b")
    task_id = pic_task(server, device)
    configured = configure(server, task_id)
    atoken = log_in(server, server.client("bob", Role.OPERATOR))
    requests = [
        Http(server, atoken, "post tasks", waits(awaited), "Idempotency-Key: k"),
        Http(server, atoken, "put tasks", {"task_id": task_id, "name": "of bob"}),
    ]
    assert [request.answer() for request in requests] == [None, None]
    end(server, how)
    assert [request.answer() for request in requests] == [(401, ENDED), (401, ENDED)]
    assert nothing_waits(server)
    awaited.connect()
    device.obey()
    assert server.result(configured)["ecode"] == 0
    assert [task["name"] for task in server.ask("get tasks")["tasks"]] == ["gate"]
    assert kept(server) == 0


def test_a_logout_ends_what_came_with_its_tokens(server: MemoryServer) -> None:
    awaited = server.enrol("a")
    bob = server.client("bob", Role.OPERATOR)
    mine, other = log_in(server, bob), log_in(server, bob)
    requests = [Http(server, atoken, "post tasks", waits(awaited)) for atoken in (mine, other)]
    on_a_socket = bob.call("post tasks", waits(awaited))
    logged_out = Deferred.fromCoroutine(server.service.auth.log_out("atoken", mine))
    server.finish()
    assert logged_out.called
    assert requests[0].answer() == (401, ENDED)
    awaited.connect()
    awaited.obey()
    server.finish()
    assert requests[1].outcome() == (200, 0)
    assert server.result(on_a_socket)["ecode"] == 0


@pytest.mark.parametrize("how", ENDS)
def test_what_is_planned_goes_on_and_is_answered_over_http(server: MemoryServer, how: str) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    atoken = log_in(server, server.client("bob", Role.OPERATOR))
    request = Http(server, atoken, "put tasks", {"task_id": task_id, "name": "of bob"})
    end(server, how)
    assert request.answer() is None
    device.obey()
    server.finish()
    assert request.outcome() == (200, 0)
    assert stored(server, task_id)["name"] == "of bob"


def test_who_changes_their_own_account_over_http_is_answered_first(server: MemoryServer) -> None:
    atoken = log_in(server, server.client("bob"))
    request = Http(server, atoken, "put users", {"user_name": "bob", "password": "another"})
    server.finish()
    assert request.answer() == (200, {"ecode": 0, "enote": "ok"})
    assert nothing_waits(server)


@pytest.mark.parametrize("how", ENDS)
def test_a_call_that_waits_for_its_turn_is_not_made(server: MemoryServer, how: str) -> None:
    """Over a socket and over HTTP, with a key and without; one that its device has heard is answered."""
    device = online(server, "a")  # one message at a time: it has sent no req_id back yet
    server.client("the last one", Role.ADMIN)
    bob = server.client("bob", Role.ADMIN)
    atoken = log_in(server, bob)

    def params(name: str) -> dict[str, Any]:
        return {"dev_unid": device.dev_unid, "command": f"post /{name}", "timeout": 60}

    heard = Http(server, atoken, "post devices/call", params("heard"))
    requests = [
        Http(server, atoken, "post devices/call", params("unheard")),
        Http(server, atoken, "post devices/call", params("unheard"), "Idempotency-Key: k"),
    ]
    responses = [
        bob.call("post devices/call", params("unheard")),
        bob.call("post devices/call", params("unheard"), idempotency_key="l"),
    ]
    of_another = server.call("post devices/call", params("of_another"))
    server.finish()
    end(server, how)
    assert [request.answer() for request in requests] == [(401, ENDED), (401, ENDED)]
    assert kept(server) == 0
    for _ in range(6):
        device.obey()
        server.finish()
    assert [message["command"] for message in device.heard] == ["post /heard", "post /of_another"]
    assert heard.outcome() == (200, 0)
    assert server.result(of_another)["ecode"] == 0
    assert not any(response.called for response in responses)
    assert nothing_waits(server)
