"""Commands over HTTP, the backup, and who is counted as a stranger, over real sockets (``docs/protocol.md`` §5)."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from zope.interface import implementer

from devconf import client
from devconf.config import Limits
from devconf.devices.link import IDeviceTransport
from devconf.model import Identity, Role
from devconf.store import accounts, backup
from tests.running import PASSWORD, Raw, Running, Start, connections, raw

HERE = "/webapi/v1/devconf_fx/"


async def an_admin(server: Running) -> str:
    """The atoken of an admin."""
    await server.service.store.run(accounts.insert_user, 0.0, "u2", "root", Role.ADMIN, f"plain {PASSWORD}")
    _, answer = await server.ask(
        "POST", "/webapi/v1/login", {"user_type": "user", "user_name": "root", "password": PASSWORD}
    )
    return str(answer["atoken"])


def ok(**fields: Any) -> tuple[int, dict[str, Any]]:
    return 200, {"ecode": 0, "enote": "ok", **fields}


async def test_params_in_the_body_or_in_the_query(start: Start) -> None:
    server = await start()
    atoken = await server.log_in()
    status, made = await server.ask(
        "POST", HERE + "tasks", {"name": "gate", "task_type": "video"}, authorization=f"Bearer {atoken}"
    )
    assert (status, made["ecode"], made["rev"]) == (200, 0, 1)
    assert "command" not in made
    task_id = made["task_id"]
    _, everything = await server.ask("GET", HERE + "tasks", authorization=atoken)
    assert [task["task_id"] for task in everything["tasks"]] == [task_id]
    for how in (
        ("GET", HERE + f"tasks?task_id={task_id}&limit=10", None),
        ("GET", HERE + "tasks", {"task_id": task_id, "limit": 10}),
        ("GET", HERE + "tasks?task_id=another&limit=1&limit=10", {"task_id": task_id}),
    ):
        assert await server.ask(*how, authorization=atoken) == (200, everything)
    assert await server.ask("GET", HERE + "devices?online=true", authorization=atoken) == ok(devices=[], next=None)
    status, gone = await server.ask("DELETE", HERE + f"tasks?task_id={task_id}&force=true", authorization=atoken)
    assert (status, gone["task_id"]) == (200, task_id)
    assert set(gone) == {"ecode", "enote", "task_id", "command_id"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "ecode", "enote"),
    [
        ("GET", "tasks?limit=ten", None, 400, 1004000002, "$.params.limit must be an integer"),
        ("GET", "tasks?limit=0", None, 400, 1004000002, "$.params.limit"),
        ("GET", "tasks?colour=red", None, 400, 1004000002, "$.params.colour"),
        ("GET", "tasks?task_id=%FF", None, 400, 1004000001, "the query is not UTF-8"),
        # In a body a text is a text.
        ("GET", "tasks", {"limit": "10"}, 400, 1004000002, "$.params.limit must be an integer"),
        ("POST", "tasks", b"[]", 400, 1004000001, "the message is an array"),
        ("POST", "tasks", b"{", 400, 1004000001, ""),
        # What is asked for in the query counts with GET and DELETE only.
        ("POST", "tasks?name=gate&task_type=video", None, 400, 1004000002, "$.params.name is missing"),
        ("GET", "cats", None, 400, 1004000003, "$.command 'get /wsapi/v1/devconf_fx/cats' is not known"),
        ("PATCH", "tasks", None, 400, 1004000003, "there is no such address or method here"),
        ("GET", "", None, 400, 1004000003, "there is no such address or method here"),
        ("POST", "subscriptions", {"topics": ["devices"]}, 400, 1004000003, "events come over a WebSocket only"),
        ("GET", "users", None, 403, 1004030001, "this takes the role admin; yours is operator"),
        ("PUT", "tasks", {"task_id": "x", "name": "y"}, 404, 1004040001, "there is no task 'x'"),
    ],
)
async def test_what_is_wrong_is_said(
    start: Start, method: str, path: str, body: Any, status: int, ecode: int, enote: str
) -> None:
    server = await start()
    found, answer = await server.ask(method, HERE + path, body, authorization=await server.log_in())
    assert (found, answer["ecode"]) == (status, ecode)
    assert answer["enote"].startswith(enote)


async def test_who_may(start: Start) -> None:
    server = await start()
    missing = {"ecode": 1004010001, "enote": "the `authorization` header is missing; send the atoken of a login in it"}
    assert await server.ask("GET", HERE + "tasks") == (401, missing)
    wrong = {"ecode": 1004010001, "enote": "this token is not valid; log in again"}
    assert await server.ask("GET", HERE + "tasks", authorization="wrong") == (401, wrong)


async def test_a_body_may_be_as_large_as_a_message(start: Start) -> None:
    server = await start(limits=Limits(store_conf_max=1000))
    atoken = await server.log_in()
    limit = server.service._config.limits.operator_message_max
    for extra, expected in ((0, 1004000002), (1, 1004130001)):
        body = {"name": "", "file_ext": "txt", "file_b64": "", "x": ""}
        body["x"] = "x" * (limit - len(json.dumps(body)) + extra)
        _, answer = await server.ask("POST", HERE + "store_confs", body, authorization=atoken)
        assert answer["ecode"] == expected


@implementer(IDeviceTransport)
class Box:
    """A device's connection that keeps what it is sent."""

    writable = True
    ended_here = False

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def send(self, *parts: bytes) -> None:
        self.told.append(json.loads(b"".join(parts)))

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"closed: {code} {reason}")


async def test_a_command_goes_on_without_its_client(start: Start) -> None:
    server = await start()
    atoken = await an_admin(server)
    _, device = await server.ask("POST", HERE + "devices", {"dev_refid": "box-1"}, authorization=atoken)
    dev_unid = device["dev_unid"]
    box = Box()
    link = server.service.hub.opened(Identity(dev_unid, "box-1", Role.DEVICE), "192.0.2.1", box)
    await server.until(lambda: dev_unid in server.service.hub)
    asking: Raw = await raw(server)
    body = json.dumps({"name": "gate", "task_type": "pic", "dev_unids": [dev_unid]}).encode()
    asking.transport.write(  # type: ignore[union-attr]
        b"POST /webapi/v1/devconf_fx/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (atoken.encode(), len(body), body)
    )
    await server.until(lambda: bool(box.told))
    asking.transport.abortConnection()  # type: ignore[union-attr]
    await asking.ended
    link.received(json.dumps({"req_id": box.told[0]["req_id"], "ecode": 0, "enote": "ok"}).encode())

    async def is_over() -> bool:
        _, answer = await server.ask("GET", HERE + "commands?limit=1", authorization=atoken)
        return bool(answer["commands"][0]["outcome"] == "ok")

    while not await is_over():
        pass
    _, answer = await server.ask("GET", HERE + "tasks", authorization=atoken)
    assert [(task["name"], task["state"]) for task in answer["tasks"]] == [("gate", "confirmed")]


async def test_a_command_waits_for_devices_until_its_client_goes(start: Start) -> None:
    server = await start()
    atoken = await an_admin(server)
    _, device = await server.ask("POST", HERE + "devices", {"dev_refid": "box-1"}, authorization=atoken)
    dev_unid = device["dev_unid"]
    _, task = await server.ask(
        "POST", HERE + "tasks", {"name": "gate", "task_type": "pic", "dev_unids": [dev_unid]}, authorization=atoken
    )
    task_id = task["task_id"]
    asking: Raw = await raw(server)
    asking.transport.write(  # type: ignore[union-attr]
        b"DELETE /webapi/v1/devconf_fx/tasks?task_id=%s&connect_wait=300 HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: %s\r\n\r\n" % (task_id.encode(), atoken.encode())
    )
    await server.until(lambda: server.service.registry.running == 1)
    asking.transport.abortConnection()  # type: ignore[union-attr]
    await asking.ended
    await server.until(lambda: server.service.registry.running == 0)
    waiting = server.ask(
        "DELETE", HERE + f"tasks?task_id={task_id}&connect_wait=7.5e1&force=true", authorization=atoken
    )
    answer = Deferred.fromCoroutine(waiting)
    await server.until(lambda: server.service.registry.running == 1)
    server.service.hub.opened(Identity(dev_unid, "box-1", Role.DEVICE), "192.0.2.1", Box())
    status, gone = await answer
    assert (status, gone["ecode"], gone["task_id"]) == (200, 0, task_id)


# -- the backup


async def test_a_backup_is_the_whole_database(start: Start, tmp_path: Path) -> None:
    server = await start()
    atoken = await an_admin(server)
    await server.ask("POST", HERE + "tasks", {"name": "gate", "task_type": "video"}, authorization=atoken)
    response = await server.http.get(f"{server.url}/webapi/v1/backup", headers=Headers({"authorization": [atoken]}))
    assert response.code == 200
    assert response.headers.getRawHeaders("content-type") == ["application/vnd.sqlite3"]
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(await response.content())
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT name FROM tasks").fetchall() == [("gate",)]
    # Nothing of it stays behind.
    await server.until(lambda: not list(tmp_path.glob("*backup*")))


async def test_a_backup_that_nobody_waits_for_is_removed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start()
    begun, go_on, made = Event(), Event(), Event()

    def slow(*args: Any, copy: Any = backup.copy) -> Any:
        begun.set()
        go_on.wait(20)
        path = copy(*args)
        made.set()
        return path

    monkeypatch.setattr(backup, "copy", slow)
    atoken = await an_admin(server)
    asking: Raw = await raw(server)
    asking.transport.write(  # type: ignore[union-attr]
        b"GET /webapi/v1/backup HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n" % atoken.encode()
    )
    await server.until(begun.is_set)
    asking.transport.abortConnection()  # type: ignore[union-attr]
    await asking.ended
    await server.until(lambda: connections(server) == [])
    go_on.set()
    await server.until(made.is_set)
    await server.until(lambda: not list(tmp_path.glob("*backup*")))


async def test_a_backup_is_not_sent_if_its_tokens_end_while_it_is_made(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start()
    begun, go_on = Event(), Event()

    def slow(*args: Any, copy: Any = backup.copy) -> Any:
        begun.set()
        go_on.wait(20)
        return copy(*args)

    monkeypatch.setattr(backup, "copy", slow)
    atoken = await an_admin(server)
    response = server.http.get(f"{server.url}/webapi/v1/backup", headers=Headers({"authorization": [atoken]}))
    await server.until(begun.is_set)
    assert (await server.ask("POST", "/webapi/v1/logout", authorization=atoken))[0] == 200
    go_on.set()
    answer = await response
    body = await answer.content()
    assert (answer.code, body[:15] == b"SQLite format 3") == (401, False)
    assert json.loads(body)["ecode"] == 1004010001
    assert not list(tmp_path.glob("*backup*"))
    assert server.service.sessions._requests == {}


async def test_a_backup_is_for_admins(start: Start) -> None:
    server = await start()
    denied = {"ecode": 1004030001, "enote": "this takes the role admin; yours is operator"}
    assert await server.ask("GET", "/webapi/v1/backup", authorization=await server.log_in()) == (403, denied)


# -- strangers


async def test_only_so_many_connections_of_one_address_may_be_strange(start: Start) -> None:
    server = await start(limits=Limits(connections_per_address_before_login=3))
    atoken = await server.log_in()
    await server.until(lambda: connections(server) == [])
    strangers = [await raw(server) for _ in range(3)]
    await server.until(lambda: len(connections(server)) == 3)
    refused = await raw(server)
    await refused.ended
    assert refused.heard == b""
    # One that goes makes room, and so does one that shows a token.
    strangers[0].transport.loseConnection()
    await strangers[0].ended
    await server.until(lambda: len(connections(server)) == 2)
    opened = [await client.connect_with_token(server.reactor, server.url, atoken) for _ in range(4)]
    known = await raw(server)
    known.transport.write(
        b"GET %stasks HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n" % (HERE.encode(), atoken.encode())
    )
    await server.until(lambda: b'"tasks"' in known.heard)
    another = await raw(server)
    another.transport.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await server.until(lambda: b"ok\n" in another.heard)
    for each in opened:
        await each.close()
    for each in (*strangers[1:], known, another):
        each.transport.loseConnection()
        await each.ended
    await server.until(lambda: connections(server) == [])


async def test_what_comes_through_a_trusted_proxy_is_not_counted(start: Start) -> None:
    server = await start(
        limits=Limits(connections_per_address_before_login=1), trusted_proxies=(ip_network("127.0.0.0/8"),)
    )
    strangers = [await raw(server) for _ in range(5)]
    strangers[-1].transport.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await server.until(lambda: b"ok\n" in strangers[-1].heard)
    for each in strangers:
        each.transport.loseConnection()
        await each.ended
