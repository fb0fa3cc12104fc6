"""A client that stays, and a server that is cut off and ends: what is asked for is done once (``docs/clients.md``)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.python.failure import Failure

from devconf.client import LastingClient, RequestFailed
from devconf.testing import MemoryServer
from tests.delivering import online


@pytest.fixture
def client(server: MemoryServer) -> LastingClient:
    account = server.client("alice")
    account.close()
    lasting = LastingClient(server.reactor, server.url, "alice", account.password, fraction=lambda: 0.5)
    lasting.start()
    server.advance(1)
    return lasting


def outcome(asked: Any) -> list[Any]:
    got: list[Any] = []
    asked.addBoth(got.append)
    return got


def tasks(server: MemoryServer) -> list[str]:
    return [task["task_id"] for task in server.ask("get tasks")["tasks"]]


def end(server: MemoryServer, client: LastingClient) -> None:
    client.stop()
    server.advance(10)


def test_a_lost_connection(server: MemoryServer, client: LastingClient) -> None:
    device = online(server, "a")
    params = {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]}
    got = outcome(client.request("post tasks", params))
    server.advance(1)
    server.reactor.cut()
    server.advance(2)
    assert got == []
    device.obey()
    server.advance(1)
    assert [tasks(server), [len(device.heard)]] == [[got[0]["task_id"]], [1]]
    end(server, client)


@pytest.mark.parametrize("answered", [False, True])
def test_a_server_that_crashes(server: MemoryServer, client: LastingClient, answered: bool) -> None:
    device = online(server, "a")
    params = {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]}
    got = outcome(client.request("post tasks", params))
    server.advance(1)
    if answered:
        server.eager = False
        device.obey()
        server.eager = True
    server.crash()
    server.advance(20)
    server.restart()
    device.connect()
    server.advance(60)
    device.obey()
    assert got[0]["ecode"] == 0
    assert tasks(server) == [got[0]["task_id"]]
    end(server, client)


def test_what_was_refused_meanwhile_is_refused(server: MemoryServer, client: LastingClient) -> None:
    got = outcome(client.request("post users", {"user_name": "alice", "role": "admin", "password": "x"}))
    server.reactor.cut()
    server.advance(5)
    [failure] = got
    assert isinstance(failure, Failure)
    assert isinstance(failure.value, RequestFailed)
    assert failure.value.ecode == 1004090003
    end(server, client)
