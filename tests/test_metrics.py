"""Figures for Prometheus: what was counted, under which names, and who can read it."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import fail
from twisted.internet.task import deferLater
from twisted.web.test.requesthelper import DummyRequest

from devconf.client import connect
from devconf.config import Limits
from devconf.errors import CommandFailed, Ecode
from devconf.passwords import PlainPasswords
from devconf.service import DevconfService
from devconf.testing import MemoryDevice, MemoryServer
from tests.delivering import WAIT, configure, online, pic_task
from tests.running import PASSWORD, Start, raw


def page(service: DevconfService) -> str:
    request: Any = DummyRequest([b"metrics"])
    text = service.metrics.render_GET(request).decode()
    assert request.responseHeaders.getRawHeaders("content-type")[0].startswith("text/plain; version=")
    return text


def figures(service: DevconfService) -> dict[str, float]:
    """What is not 0, but for the process."""
    found = {}
    for family in text_string_to_metric_families(page(service)):
        for sample in family.samples:
            if sample.value and not sample.name.startswith("process_"):
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_server_that_has_just_started(server: MemoryServer) -> None:
    assert figures(server.service) == {}
    names = {family.name for family in text_string_to_metric_families(page(server.service))}
    assert {"process_resident_memory_bytes", "process_open_fds", "devconf_devices_online"} <= names


def test_a_command_and_its_devices(server: MemoryServer) -> None:
    first, second = online(server, "gate"), online(server, "yard")
    task_id = pic_task(server, first, second)
    response = configure(server, task_id)
    assert figures(server.service)["devconf_requests_running"] == 1
    first.obey()
    second.refuse(7, "no")
    assert server.result(response)["ecode"] == 1005020001
    first.obey()
    assert figures(server.service) == {
        "devconf_devices_online": 2,
        "devconf_orders_sent_total": 5,
        "devconf_order_answers_total{outcome=applied}": 4,
        "devconf_order_answers_total{outcome=refused}": 1,
        "devconf_responses_total{ecode=0}": 3,
        "devconf_responses_total{ecode=1005020001}": 1,
    }


def test_a_device_that_is_silent(server: MemoryServer) -> None:
    response = configure(server, pic_task(server, online(server, "gate")))
    server.advance(WAIT)
    assert server.result(response)["ecode"] == 1005040001
    found = figures(server.service)
    assert found["devconf_orders_silent_total"] == 1
    assert found["devconf_lanes"] == 1
    assert "devconf_requests_running" not in found


def test_two_boxes_with_one_identity(server: MemoryServer) -> None:
    box = server.enrol("gate")
    box.address = "192.0.2.1"
    other = MemoryDevice(server, box.dev_unid, box.dev_refid, address="192.0.2.2")
    for _ in range(2):
        box.connect()
        other.connect()
    found = figures(server.service)
    assert found["devconf_devices_duplicate"] == 1
    assert found["devconf_duplicates_found_total"] == 1
    assert found["devconf_duplicates_kept_out_total"] == 1
    server.advance(601)
    assert "devconf_devices_duplicate" not in figures(server.service)


async def test_it_is_served_where_the_configuration_says_and_nothing_else_is(start: Start) -> None:
    server = await start(metrics=("tcp:0:interface=127.0.0.1",))
    port = server.service._ports[1].getHost().port  # type: ignore[attr-defined]
    connection = await raw(server, port)
    connection.transport.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await connection.ended
    assert b"\ndevconf_devices_online 0.0\n" in connection.heard
    for address in (b"/", b"/webapi/v1/login", b"/readyz", b"/metrics/more"):
        connection = await raw(server, port)
        connection.transport.write(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % address)
        await connection.ended
        assert connection.heard.startswith(b"HTTP/1.1 404 ")
    assert await server.ask("GET", "/metrics") == (404, "There is nothing here.\n")


async def test_sockets_and_what_ends_them(start: Start) -> None:
    server = await start()
    atoken = await server.log_in()
    upgrade = (
        b"GET /wsapi/v1/devconf_fx HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        b"authorization: %b\r\n\r\n" % atoken.encode()
    )
    connection = await raw(server)
    connection.transport.write(upgrade)
    while b"\r\n\r\n" not in connection.heard:
        await deferLater(server.reactor, 0.01)
    assert figures(server.service)["devconf_connections{peer=operator}"] == 1
    connection.transport.write(b"\x82\x80\0\0\0\0")  # an empty binary message
    await connection.ended
    found = figures(server.service)
    assert found["devconf_closed_total{code=1003,peer=operator}"] == 1
    assert "devconf_connections{peer=operator}" not in found


async def test_a_connection_for_which_there_is_no_room(start: Start) -> None:
    server = await start(limits=Limits(connections_per_address_before_login=1))
    first = await raw(server)
    second = await raw(server)
    await second.ended
    assert figures(server.service)["devconf_connections_refused_total{bound=of one address before login}"] == 1
    first.transport.loseConnection()
    await first.ended


def test_a_list_that_is_made_twice_is_one_response(server: MemoryServer) -> None:
    large = {"name": "t", "task_type": "video", "algo_comb": [{"algo_id": "a", "params": {"text": "y" * 200_000}}]}
    assert server.ask("post tasks", large)["ecode"] == 0
    client = server.client()
    before = figures(server.service)["devconf_responses_total{ecode=0}"]
    server.eager = False
    asked = [client.call("get tasks") for _ in range(3)]
    server.finish()
    assert [len(server.result(each)["tasks"]) for each in asked] == [1] * 3
    assert figures(server.service)["devconf_responses_total{ecode=0}"] == before + 3


async def test_bounds_that_are_told_of_over_http(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await start(limits=Limits(connections=1))
    login = {"user_type": "user", "user_name": "alice", "password": "x" * 5000}
    assert (await server.ask("POST", "/webapi/v1/login", login))[0] == 413
    # A body that is not even read to its end.
    assert (await server.ask("POST", "/webapi/v1/login", b"x" * 2_000_000))[0] == 413
    monkeypatch.setattr(PlainPasswords, "verify", lambda *_: fail(CommandFailed(Ecode.TOO_MANY, "too many")))
    assert (await server.ask("POST", "/webapi/v1/login", {**login, "password": "x"}))[0] == 429
    monkeypatch.undo()
    atoken = await server.log_in()
    client = await connect(server.reactor, server.url, "alice", PASSWORD)
    assert (await server.ask("GET", "/wsapi/v1/devconf_fx", authorization=atoken))[0] == 503
    found = figures(server.service)
    client.close()
    told = {name: value for name, value in found.items() if name.startswith("devconf_responses")}
    assert told == {
        "devconf_responses_total{ecode=1004130001}": 2,
        "devconf_responses_total{ecode=1004290001}": 1,
        "devconf_responses_total{ecode=1005030002}": 1,
    }
