"""``connect_wait``: commands wait for devices that are offline, before lock and plan (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from devconf.commands import arrivals
from devconf.commands.asker import Asker, Dropped
from devconf.testing import MemoryDevice, MemoryServer
from tests.delivering import NEW, online, pic_task, states, stored

Ask = tuple[str, dict[str, Any]]


def away(server: MemoryServer, *names: str) -> tuple[str, list[MemoryDevice]]:
    """A picture task, and its devices that have it and are offline now."""
    devices = [online(server, name) for name in names]
    task_id = pic_task(server, *devices)
    for device in devices:
        device.lose()
    return task_id, devices


def delete(server: MemoryServer, task_id: str, wait: float = 60, **options: Any) -> Deferred[dict[str, Any]]:
    return server.call("delete tasks", {"task_id": task_id, "connect_wait": wait}, **options)


def idle(server: MemoryServer) -> bool:
    """Nothing of what waited is left."""
    service = server.service
    return not service.arrivals._waiters and not service.arrivals._awaited and not service.registry.running


def test_it_waits_until_all_are_connected(server: MemoryServer) -> None:
    task_id, [first, second] = away(server, "a", "b")
    response = delete(server, task_id)
    server.advance(59)
    first.connect()
    assert first.heard[-1]["command"].startswith("post")
    second.connect()
    first.obey()
    second.obey()
    assert server.result(response)["ecode"] == 0
    assert idle(server)
    [command] = server.ask("get commands", {"limit": 1})["commands"]
    assert command["params"] == {"task_id": task_id, "force": False, "connect_wait": 60.0}
    assert command["duration"] == 0.0


def test_then_it_is_as_without(server: MemoryServer) -> None:
    task_id, [first, _] = away(server, "a", "b")
    response = delete(server, task_id)
    first.connect()
    server.advance(59.9)
    assert not response.called
    server.advance(0.1)
    assert server.result(response) == server.ask("delete tasks", {"task_id": task_id}) | {
        "command_id": server.result(response)["command_id"]
    }
    assert server.result(response)["ecode"] == 1005030001
    assert idle(server)


def test_one_that_comes_and_goes_is_waited_for(server: MemoryServer) -> None:
    task_id, [first, second] = away(server, "a", "b")
    response = delete(server, task_id)
    first.connect()
    first.lose()
    second.connect()
    server.advance(1)
    assert second.inbox == []
    first.connect()
    first.obey()
    second.obey()
    assert server.result(response)["ecode"] == 0


def test_nobody_is_waited_for_where_all_are_there_or_may_not_come(server: MemoryServer) -> None:
    task_id, [disabled, _] = away(server, "a", "b")
    server.ask("put devices", {"dev_unid": disabled.dev_unid, "enabled": False})
    response = delete(server, task_id)
    assert not response.called
    server.advance(60)
    server.result(response)
    other, [gone] = away(server, "c")
    server.ask("put devices", {"dev_unid": gone.dev_unid, "enabled": False})
    assert server.result(delete(server, other))["ecode"] == 1005030001
    assert server.ask("delete tasks", {"task_id": "none", "connect_wait": 60})["ecode"] == 1004040001
    made = server.ask("post tasks", {"name": "x", "task_type": "video", "connect_wait": 60})
    assert made["ecode"] == 0


def test_others_may_change_the_same_meanwhile(server: MemoryServer) -> None:
    """The lock is not held, and the plan decides anew."""
    task_id, [device] = away(server, "a")
    response = delete(server, task_id)
    assert server.ask("put tasks", {"task_id": task_id, "dev_unids": []})["ecode"] == 0
    assert not response.called
    device.connect()
    device.obey()
    assert server.result(response)["ecode"] == 0


def asked(server: MemoryServer, device: MemoryDevice) -> dict[str, Ask]:
    """Every command that goes down to devices, each about ``device`` alone, which is offline then."""
    device.connect()
    pic, idle_task = pic_task(server, device), pic_task(server)
    other = pic_task(server, device)
    video = server.ask("post tasks", {"name": "v", "task_type": "video"})["task_id"]
    subtask = server.call("post subtasks", {"task_id": video, "dev_unid": device.dev_unid})
    device.obey()
    conf = {"name": "c", "file_ext": "bin", "file_b64": "AAAA"}
    unid = server.ask("post store_confs", conf)["unid"]
    server.call("put tasks", {"task_id": other, "store_conf_unid": unid})
    device.obey()
    device.lose()
    dev_unid = device.dev_unid
    return {
        "post tasks": ("post tasks", {"name": "n", "task_type": "pic", "dev_unids": [dev_unid]}),
        "put tasks": ("put tasks", {"task_id": pic, "name": "n"}),
        "put tasks, joins": ("put tasks", {"task_id": idle_task, "dev_unids": [dev_unid]}),
        "put tasks, leaves": ("put tasks", {"task_id": pic, "dev_unids": []}),
        "delete tasks": ("delete tasks", {"task_id": pic}),
        "pic_task_config": ("post tasks/pic_task_config", {"task_id": pic, "algo_comb": NEW}),
        "post subtasks": ("post subtasks", {"task_id": video, "dev_unid": dev_unid}),
        "delete subtasks": ("delete subtasks", {"subtask_id": server.result(subtask)["subtask_id"]}),
        "put store_confs": ("put store_confs", {**conf, "unid": unid, "file_b64": "BBBB"}),
        "devices/call": ("post devices/call", {"dev_unid": dev_unid, "command": "get /uptime"}),
    }


@pytest.mark.parametrize(
    "name",
    [
        "post tasks",
        "put tasks",
        "put tasks, joins",
        "put tasks, leaves",
        "delete tasks",
        "pic_task_config",
        "post subtasks",
        "delete subtasks",
        "put store_confs",
        "devices/call",
    ],
)
def test_every_command_that_goes_down_to_devices_can_wait(server: MemoryServer, name: str) -> None:
    device = server.enrol("a")
    command, params = asked(server, device)[name]
    response = server.call(command, {**params, "connect_wait": 300})
    server.advance(299)
    assert not response.called
    device.connect()
    device.obey()
    answer = server.result(response)
    assert answer["ecode"] == 0
    assert [item["state"] for item in answer.get("devices", [])] == ["confirmed"] * len(answer.get("devices", []))


def test_a_change_of_devices_waits_for_those_that_change(server: MemoryServer) -> None:
    task_id, [stays] = away(server, "a")
    joins = online(server, "b")
    params = {"task_id": task_id, "dev_unids": [stays.dev_unid, joins.dev_unid], "connect_wait": 60}
    response = server.call("put tasks", params)
    joins.obey()
    assert states(server.result(response)) == [("confirmed", 0)]


@pytest.mark.parametrize(("wait", "ecode"), [(0, 1005030001), (-1, 1004000002), (301, 1004000002), ("5", 1004000002)])
def test_how_long_it_may_be(server: MemoryServer, wait: Any, ecode: int) -> None:
    task_id, _ = away(server, "a")
    assert server.ask("delete tasks", {"task_id": task_id, "connect_wait": wait})["ecode"] == ecode


# -- what ends it ---------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_ends_it(server: MemoryServer) -> None:
    task_id, [device] = away(server, "a")
    asker = Asker()
    response = delete(server, task_id, asker=asker)
    failed: list[Any] = []
    response.addErrback(failed.append)
    asker.leave()
    assert [failure.type for failure in failed] == [Dropped]
    assert idle(server)
    device.connect()
    assert device.inbox == []
    assert stored(server, task_id)["state"] == "confirmed"


def test_a_connection_that_is_lost_ends_it(server: MemoryServer) -> None:
    task_id, [device] = away(server, "a")
    client = server.client()
    client.call("delete tasks", {"task_id": task_id, "connect_wait": 60}, idempotency_key="k")
    client.lose()
    assert idle(server)
    client.connect()
    # Nothing was done, and so it is asked anew.
    again = client.call("delete tasks", {"task_id": task_id, "connect_wait": 60}, idempotency_key="k")
    device.connect()
    device.obey()
    assert server.result(again)["ecode"] == 0


def test_one_of_several_that_wait_may_go(server: MemoryServer) -> None:
    task_id, [device] = away(server, "a")
    askers = [Asker(), Asker()]
    responses = [delete(server, task_id, asker=asker, idempotency_key="k") for asker in askers]
    failed: list[Any] = []
    responses[0].addErrback(failed.append)
    askers[0].leave()
    assert [failure.type for failure in failed] == [Dropped]
    device.connect()
    device.obey()
    assert server.result(responses[1])["ecode"] == 0
    assert idle(server)


def test_a_server_that_stops_ends_it(server: MemoryServer) -> None:
    task_id, _ = away(server, "a")
    response = delete(server, task_id)
    server.stop()
    assert server.result(response) == {
        "ecode": 1005030002,
        "enote": "the server is stopping; nothing was done: try again later",
        "task_id": task_id,
    }
    server.restart()
    assert stored(server, task_id)["state"] == "confirmed"


def test_a_device_that_is_deleted_is_not_waited_for(server: MemoryServer) -> None:
    task_id, [device] = away(server, "a")
    response = server.call("put tasks", {"task_id": task_id, "name": "n", "connect_wait": 60})
    server.ask("put tasks", {"task_id": task_id, "dev_unids": []})
    assert server.ask("delete devices", {"dev_unid": device.dev_unid})["ecode"] == 0
    assert server.result(response)["ecode"] == 0


def ends(server: MemoryServer, device: MemoryDevice, how: str) -> None:
    command, more = {
        "deleted": ("delete devices", {}),
        "disabled": ("put devices", {"enabled": False}),
    }[how]
    assert server.ask(command, {"dev_unid": device.dev_unid, **more})["ecode"] == 0
    server.advance(1)


@pytest.mark.parametrize("how", ["deleted", "disabled"])
@pytest.mark.parametrize("is_there", [True, False])
def test_one_that_is_deleted_or_disabled_meanwhile_is_not_waited_for(
    server: MemoryServer, how: str, is_there: bool
) -> None:
    """Neither if it was there, and goes because of that."""
    awaited, other = server.enrol("a"), server.enrol("b")
    if is_there:
        other.connect()
    dev_unids = [awaited.dev_unid, other.dev_unid]
    params = {"name": "x", "task_type": "pic", "dev_unids": dev_unids, "connect_wait": 300}
    response = server.call("post tasks", params)
    ends(server, other, how)
    assert other.link is None
    assert not response.called
    awaited.connect()
    awaited.obey()
    answer = server.result(response)
    if how == "deleted":
        assert answer["ecode"] == 1004040004
    else:
        assert states(answer) == [("confirmed", 0), ("pending", 1005030001)]
    assert idle(server)


@pytest.mark.parametrize("how", ["deleted", "disabled"])
def test_the_last_one_that_is_deleted_or_disabled_ends_it(server: MemoryServer, how: str) -> None:
    device = server.enrol("a")
    params = {"name": "x", "task_type": "pic", "dev_unids": [device.dev_unid], "connect_wait": 300}
    response = server.call("post tasks", params)
    ends(server, device, how)
    assert server.result(response)["ecode"] == (1004040004 if how == "deleted" else 0)
    assert idle(server)


def test_what_is_waited_for_is_bounded(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "AWAITED_AT_MOST", 3)
    task_id, devices = away(server, "a", "b")
    first = delete(server, task_id)
    assert server.result(delete(server, task_id))["ecode"] == 1004290001
    for device in devices:
        device.connect()
        device.obey()
    for device in devices:
        device.obey()
    assert server.result(first)["ecode"] == 0
    assert idle(server)
