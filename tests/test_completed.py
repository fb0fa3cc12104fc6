"""Commands that ended with an error and stay: a late answer completes them (``docs/protocol.md`` §4)."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from sqlalchemy import func, select, update

from devconf.model import Role
from devconf.store import awaited, journal
from devconf.store.tables import commands, orders
from devconf.testing import MemoryClient, MemoryDevice, MemoryServer
from tests.delivering import NEW, WAIT, online, pic_task

OFFLINE, SILENT = 1005030001, 1005040001


def conf(server: MemoryServer, *task_ids: str, devices: tuple[MemoryDevice, ...] = ()) -> str:
    """A storage configuration that the tasks use, and that ``devices`` have."""
    unid = server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "AAAA"})["unid"]
    for task_id in task_ids:
        server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
        for device in devices:
            device.obey()
    return str(unid)


def replace(server: MemoryServer, unid: str, content: str = "new", **options: Any) -> Any:
    params = {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": b64encode(content.encode()).decode()}
    return server.call("put store_confs", params, **options)


def replaced(server: MemoryServer, unid: str, content: str = "new", ecode: int = OFFLINE) -> str:
    """The ``command_id`` of a replacement that not all have got."""
    response = replace(server, unid, content)
    server.advance(WAIT)
    answer = server.result(response)
    assert answer["ecode"] == ecode
    return str(answer["command_id"])


def subscribed(server: MemoryServer, role: Role = Role.ADMIN) -> MemoryClient:
    client = server.client(f"a {role.title}", role)
    client.ask("post subscriptions", {"topics": ["commands"]})
    return client


def completed(client: MemoryClient) -> list[str]:
    return [each["data"]["command_id"] for each in client.events if "completed_at" in each["data"]]


def is_over(server: MemoryServer, command_id: str) -> bool:
    [command] = server.ask("get commands", {"command_id": command_id})["commands"]
    return "completed_at" in command


def rest(server: MemoryServer) -> tuple[int, int]:
    """How many orders are awaited, and how many commands await any."""

    def count(connection: Any) -> tuple[int, int]:
        return (
            connection.execute(select(func.count()).where(orders.c.awaited_by.is_not(None))).scalar(),
            connection.execute(select(func.count()).where(commands.c.awaits.is_not(None))).scalar(),
        )

    counted = server.service.store.run(count)
    server.finish()
    assert isinstance(counted.result, tuple)
    return counted.result


def test_the_last_device_completes_it(server: MemoryServer) -> None:
    devices = [online(server, name) for name in "abc"]
    unid = conf(server, pic_task(server, *devices), devices=tuple(devices))
    client = subscribed(server)
    for device in devices[1:]:
        device.lose()
    response = replace(server, unid)
    devices[0].obey()
    answer = server.result(response)
    assert (answer["ecode"], answer["delivered"]) == (OFFLINE, 1)
    [over] = client.events
    assert "completed_at" not in over["data"]
    assert rest(server) == (2, 1)
    server.advance(3600)
    devices[1].connect()
    devices[1].obey()
    assert completed(client) == []
    server.advance(5)
    devices[2].connect()
    devices[2].obey()
    event = client.events[-1]
    assert event == {
        "event": "commands",
        "seq": 2,
        "at": event["data"]["completed_at"],
        "data": {**over["data"], "completed_at": event["data"]["completed_at"]},
    }
    [command] = server.ask("get commands", {"command_id": answer["command_id"]})["commands"]
    assert command["completed_at"] == event["at"]
    assert (command["outcome"], command["ecode"]) == ("failed", OFFLINE)
    assert rest(server) == (0, 0)


def test_a_late_answer_on_the_same_connection(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    client = subscribed(server)
    command_id = replaced(server, unid, ecode=SILENT)
    device.obey()
    assert completed(client) == [command_id]


def test_it_outlives_a_restart_and_weeks(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    device.lose()
    command_id = replaced(server, unid)
    server.crash()
    server.advance(30 * 86400)
    server.restart()
    client = subscribed(server)
    device.connect()
    device.obey()
    assert completed(client) == [command_id]


def test_one_that_a_crash_has_settled(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    replace(server, unid)
    server.crash()
    server.restart()
    [command] = server.ask("get commands", {"limit": 1})["commands"]
    assert (command["ecode"], "completed_at" in command) == (SILENT, False)
    device.connect()
    device.obey()
    assert is_over(server, command["command_id"])


@pytest.mark.parametrize(("ecode", "counts"), [(7, True), (1004040001, False)])
def test_any_answer_is_a_delivery_but_i_lack_that(server: MemoryServer, ecode: int, counts: bool) -> None:
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    device.lose()
    command_id = replaced(server, unid)
    device.connect()
    device.refuse(ecode)
    if not counts:
        device.refuse(ecode)  # the add that followed
    assert is_over(server, command_id) is counts
    device.lose()
    device.wipe()
    device.connect()
    server.advance(10)  # a device is caught up once in a while
    device.obey()
    assert is_over(server, command_id)


def test_a_message_that_kills_its_device_is_not_delivered(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    device.lose()
    command_id = replaced(server, unid)
    while server.ask("get tasks")["tasks"][0]["state"] != "refused":
        device.connect()
        while not device.inbox:
            server.advance(1)
        device.lose()
    assert not is_over(server, command_id)
    device.connect()
    server.advance(3700)
    device.obey()
    assert is_over(server, command_id)


def test_an_answer_to_what_was_before_is_none(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    unid = conf(server, task_id, devices=(device,))
    server.call("put tasks", {"task_id": task_id, "name": "other"})
    before = device.inbox[0]
    command_id = replaced(server, unid, ecode=SILENT)
    device.act(before)
    assert not is_over(server, command_id)
    device.obey()
    assert is_over(server, command_id)


def test_a_newer_replacement_takes_over(server: MemoryServer) -> None:
    devices = [online(server, name) for name in "ab"]
    unid = conf(server, pic_task(server, *devices), devices=tuple(devices))
    client = subscribed(server)
    for device in devices:
        device.lose()
    first = replaced(server, unid, "first")
    devices[0].connect()
    devices[0].obey()
    devices[0].lose()
    second = replaced(server, unid, "second")
    assert rest(server) == (2, 2)
    for device in devices:
        assert completed(client) == []
        device.connect()
        device.obey()
    assert completed(client) == [first, second]
    assert rest(server) == (0, 0)


def test_a_newer_one_that_all_get_completes_the_older(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    first = replaced(server, unid, "first", SILENT)
    client = subscribed(server)
    device.inbox.clear()
    response = replace(server, unid, "second")
    device.lose()
    device.connect()
    device.obey()
    assert server.result(response)["ecode"] == 0
    assert completed(client) == [first]


def test_only_so_many_wait_for_the_same(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited, "AT_ONCE", 2)
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    client = subscribed(server)
    device.lose()
    told = [replaced(server, unid, f"number {number}") for number in range(4)]
    assert rest(server) == (1, 2)
    device.connect()
    device.obey()
    assert completed(client) == told[2:]


@pytest.mark.parametrize("how", ["other conf", "no device", "force", "delete"])
def test_a_device_that_is_not_to_have_it_any_more(server: MemoryServer, how: str) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    unid = conf(server, task_id, devices=(device,))
    client = subscribed(server)
    device.lose()
    command_id = replaced(server, unid)
    if how == "delete":
        device.connect()
        device.inbox.clear()
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "other conf": ("put tasks", {"store_conf_unid": conf(server)}),
        "no device": ("put tasks", {"dev_unids": []}),
        "force": ("delete tasks", {"force": True}),
        "delete": ("delete tasks", {}),
    }
    command, params = asked[how]
    response = server.call(command, {"task_id": task_id, **params})
    if how == "delete":
        device.lose()
        device.connect()
        device.obey()
    assert server.result(response)["ecode"] == 0
    assert completed(client) == [command_id]
    assert rest(server) == (0, 0)


@pytest.mark.parametrize("also_silent", [True, False])
def test_a_device_that_is_not_to_have_it_any_more_before_it_is_settled(server: MemoryServer, also_silent: bool) -> None:
    """It is offline, and another is waited for: what takes it away from the first is settled before."""
    away, waited = online(server, "a"), online(server, "b")
    one, two = pic_task(server, away), pic_task(server, waited)
    unid = conf(server, one, two, devices=(away, waited))
    client = subscribed(server)
    away.lose()
    response = replace(server, unid)
    assert server.ask("put tasks", {"task_id": one, "store_conf_unid": None})["ecode"] == 0
    if also_silent:
        server.advance(WAIT)
        assert rest(server) == (1, 1)
        assert completed(client) == []
    waited.obey()
    answer = server.result(response)
    assert (answer["ecode"], answer["delivered"]) == ((SILENT, 0) if also_silent else (OFFLINE, 1))
    assert completed(client) == [answer["command_id"]]
    assert rest(server) == (0, 0)


def test_a_deletion_that_is_undone_completes_nothing(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    unid = conf(server, task_id, devices=(device,))
    command_id = replaced(server, unid, ecode=SILENT)
    response = server.call("delete tasks", {"task_id": task_id})
    device.answer(device.inbox[-1], 7, "no")
    assert server.result(response)["ecode"] == 1005020001
    assert rest(server) == (1, 1)
    device.lose()
    device.connect()
    device.obey()
    assert is_over(server, command_id)


def test_another_configuration_that_is_undone_completes_nothing(server: MemoryServer) -> None:
    devices = [online(server, name) for name in "ab"]
    task_id = pic_task(server, *devices)
    unid, other = conf(server, task_id, devices=tuple(devices)), conf(server)
    devices[0].lose()
    response = replace(server, unid)
    devices[1].obey()
    command_id = server.result(response)["command_id"]
    devices[0].connect()
    devices[0].inbox.clear()
    changed = server.call("put tasks", {"task_id": task_id, "store_conf_unid": other})
    devices[0].lose()
    devices[0].connect()
    devices[0].obey()
    assert rest(server) == (1, 1)
    devices[1].refuse()
    assert server.result(changed)["ecode"] == 1005020001
    assert not is_over(server, command_id)
    devices[0].obey()
    assert is_over(server, command_id)


def test_what_was_undone_is_not_completed_by_a_late_answer(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    client = subscribed(server)
    response = server.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW})
    server.advance(WAIT)
    assert server.result(response)["ecode"] == SILENT
    device.obey()
    assert completed(client) == []
    assert not is_over(server, server.result(response)["command_id"])
    assert rest(server) == (0, 0)


def test_viewers_hear_of_their_own_only(server: MemoryServer) -> None:
    """And what awaits devices, only operators do."""
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    viewer, operator = subscribed(server, Role.VIEWER), subscribed(server, Role.OPERATOR)
    device.lose()
    command_id = replaced(server, unid)
    device.connect()
    device.obey()
    assert (completed(viewer), completed(operator)) == ([], [command_id])
    assert viewer.events == []


def test_what_the_history_has_lost_is_not_told(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    client = subscribed(server)
    device.lose()
    replaced(server, unid)
    server.service.store.run(journal.prune, 2e9, 1000)
    device.connect()
    device.obey()
    assert completed(client) == []
    assert rest(server) == (0, 0)


def test_an_answer_before_the_settling(server: MemoryServer) -> None:
    """The wait is over, and the answer is written before it is settled."""
    device = online(server, "a")
    unid = conf(server, pic_task(server, device), devices=(device,))
    client = subscribed(server)
    response = replace(server, unid)

    def acknowledge(connection: Any) -> None:
        connection.execute(update(orders).values(acked_rev=orders.c.wanted_rev, ecode=0))

    server.advance(WAIT - 0.2)
    server.eager = False
    server.service.store.run(acknowledge)
    server.service.delivery.end_waits()
    server.eager = True
    server.finish()
    answer = server.result(response)
    assert answer["ecode"] == SILENT
    assert ["completed_at" in event["data"] for event in client.events] == [False, True]
    assert rest(server) == (0, 0)
