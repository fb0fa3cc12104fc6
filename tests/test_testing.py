"""What stands in for a server, a client and a device in tests behaves as the real ones do.

The same tests run in memory and over real sockets: what a client or a device hears, and how its connection ends, is
the same. Ids and times are compared by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred

from devconf.model import Role
from tests.places import InMemory, OverSockets, Place

TASKS = "/wsapi/v1/devconf_fx/tasks"
ALGOS = [{"algo_id": "face", "enabled": True, "params": {}}]


@pytest.fixture(params=[InMemory, OverSockets])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    # Nobody is waited for in vain but where a test is about that.
    place: Place = request.param(tmp_path, 3.0 if "silent" in request.node.name else 25.0)
    pytest_twisted.blockon(Deferred.fromCoroutine(place.start()))
    yield place
    pytest_twisted.blockon(Deferred.fromCoroutine(place.stop()))


async def answer(place: Place, response: Deferred[Any]) -> Any:
    await place.until(lambda: response.called)
    return await response


_MADE_UP = re.compile(r"(?P<id>[0-9a-f]{32}(-\d+)?)|(?P<at>\d{4}-\d\d-\d\dT[0-9:.]+Z)")


def named(value: Any, **names: str) -> Any:
    """``value`` with names for what the server makes up: given ones, and ``id`` and ``at`` for the others."""
    if isinstance(value, dict):
        return {key: named(item, **names) for key, item in value.items()}
    if isinstance(value, list):
        return [named(item, **names) for item in value]
    if isinstance(value, str):
        known = {made_up: name for name, made_up in names.items()}
        return _MADE_UP.sub(lambda match: known.get(match.group(), match.lastgroup or "id"), value)
    return value


async def a_task(place: Place, client: Any, *devices: Any) -> str:
    task = {
        "name": "gate",
        "task_type": "pic",
        "algo_comb": ALGOS,
        "dev_unids": [device.dev_unid for device in devices],
    }
    response = client.call("post tasks", task)
    for device in devices:
        await place.until(partial(getattr, device, "inbox"))
        device.obey()
    return str((await answer(place, response))["task_id"])


# -- requests and responses


async def test_a_response_repeats_the_envelope(place: Place) -> None:
    client = await place.client()
    response = await answer(place, client.call("get tasks", {"limit": 3}, src_page="list", req_id="mine"))
    assert response == {
        "command": f"get {TASKS}",
        "src_page": "list",
        "req_id": "mine",
        "ecode": 0,
        "enote": "ok",
        "tasks": [],
        "next": None,
    }
    assert client.heard == [response]


async def test_what_is_wrong_is_answered(place: Place) -> None:
    client = await place.client("vera", Role.VIEWER)
    client.say(b"\xff{")
    await place.until(lambda: client.heard)
    assert client.heard[0]["ecode"] == 1004000001
    wrong = [("patch tasks", {}), ("get tasks", {"limit": 0}), ("post users", {})]
    answers = [await answer(place, client.call(command, params)) for command, params in wrong]
    assert [response["ecode"] for response in answers] == [1004000003, 1004000002, 1004030001]
    assert client.closed is None


async def test_a_message_that_is_too_large_ends_the_connection(place: Place) -> None:
    client = await place.client()
    client.say(b" " * 100_000)
    await place.until(lambda: client.closed)
    assert client.closed == (1009, "a message has at most 66869 bytes, in at most 64 frames")


async def test_the_sockets_of_an_account_end_with_it(place: Place) -> None:
    admin, other = await place.client(), await place.client("bob", Role.OPERATOR)
    assert (await answer(place, admin.call("delete users", {"user_name": "bob"})))["ecode"] == 0
    await place.until(lambda: other.closed)
    assert other.closed[0] == 1008
    assert admin.closed is None


# -- devices


async def test_a_command_goes_down_and_is_answered_once_the_device_confirms(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    task = {"name": "gate", "task_type": "pic", "algo_comb": ALGOS, "dev_unids": [device.dev_unid]}
    response = client.call("post tasks", task)
    await place.until(lambda: device.inbox)
    assert not response.called
    [order] = device.inbox
    params = {"task_id": "id", "rev": 1, "task_type": "pic", "name": "gate", "algo_comb": ALGOS}
    assert named(order) == {"command": f"post {TASKS}", "req_id": "id", "src_page": "id", "params": params}
    device.obey()
    assert named(await answer(place, response), box=device.dev_unid) == {
        "command": f"post {TASKS}",
        "req_id": "1",
        "ecode": 0,
        "enote": "ok",
        "command_id": "id",
        "task_id": "id",
        "rev": 1,
        "devices": [{"dev_unid": "box", "state": "confirmed", "ecode": 0, "enote": "ok"}],
    }
    assert device.held == {(order["params"]["task_id"], ""): order["params"]}
    assert (device.heard, device.inbox) == ([order], [])


async def test_a_refusal_is_told(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    task_id = await a_task(place, client, device)
    new = [{"algo_id": "plate", "enabled": True, "params": {}}]
    response = client.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": new})
    await place.until(lambda: device.inbox)
    device.refuse(31, "no licence")
    told = await answer(place, response)
    assert (told["ecode"], told["devices"][0]["ecode"], told["devices"][0]["enote"]) == (1005020001, 31, "no licence")
    [task] = (await answer(place, client.call("get tasks", {"task_id": task_id})))["tasks"]
    assert task["algo_comb"] == ALGOS


async def test_what_a_device_misses_it_gets_when_it_is_back(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    task_id = await a_task(place, client, device)
    device.lose()
    there = client.call("get devices", {"online": True})
    while (await answer(place, there))["devices"]:
        there = client.call("get devices", {"online": True})
    told = await answer(place, client.call("delete tasks", {"task_id": task_id}))
    assert told["ecode"] == 1005030001
    assert (await answer(place, client.call("delete tasks", {"task_id": task_id, "force": True})))["ecode"] == 0
    device.connect()
    await place.until(lambda: device.inbox)
    assert device.inbox[0]["command"] == f"delete {TASKS}"
    device.obey()
    assert device.held == {}
    assert device.closed is None


async def test_a_silent_device_is_waited_for_and_no_longer(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    task_id = await a_task(place, client, device)
    response = client.call("delete tasks", {"task_id": task_id})
    assert (await answer(place, response))["ecode"] == 1005040001
    # It may have deleted the task, and is brought back.
    await place.until(lambda: len(device.inbox) == 2)
    assert [order["command"] for order in device.inbox] == [f"delete {TASKS}", f"post {TASKS}"]
    device.obey()
    assert list(device.held) == [(task_id, "")]


async def test_an_old_device_repeats_nothing_and_must_not_be_silent(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    response = client.call("post tasks", {"name": "a", "task_type": "pic", "dev_unids": [device.dev_unid]})
    await place.until(lambda: device.inbox)
    device.inbox.clear()
    device.say({"ecode": 0})
    assert (await answer(place, response))["devices"][0]["state"] == "confirmed"
    response = client.call("post tasks", {"name": "b", "task_type": "pic", "dev_unids": [device.dev_unid]})
    assert (await answer(place, response))["devices"][0]["state"] == "pending"
    await place.until(lambda: device.closed)
    assert device.closed == (4003, "no answer in time, and answers carry no req_id")


async def test_a_call_is_passed_through(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    call = {"dev_unid": device.dev_unid, "command": "get /ops/disks", "params": {"slot": 2}}
    response = client.call("post devices/call", call)
    await place.until(lambda: device.inbox)
    [asked] = device.inbox
    assert (asked["command"], asked["params"]) == ("get /ops/disks", {"slot": 2})
    device.answer(asked, 0, "ok", slots=4)
    told = await answer(place, response)
    assert told["answer"] == {"req_id": asked["req_id"], "ecode": 0, "enote": "ok", "slots": 4}


async def test_a_device_may_ask_what_it_should_have(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    task_id = await a_task(place, client, device)
    device.say({"command": f"get {TASKS}", "req_id": "mine"})
    await place.until(lambda: device.replies)
    task = {"task_id": "task", "rev": 1, "task_type": "pic", "name": "gate", "algo_comb": ALGOS}
    assert named(device.replies, task=task_id) == [
        {"command": f"get {TASKS}", "req_id": "mine", "ecode": 0, "enote": "ok", "tasks": [task], "next": None}
    ]


async def test_the_newest_connection_counts(place: Place) -> None:
    device = await place.device("box")
    twin = place.twin(device)
    twin.connect()
    await place.until(lambda: device.closed)
    assert device.closed == (4001, "replaced by a newer connection of this device")
    assert twin.closed is None


async def test_a_device_that_is_disabled_is_disconnected(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    change = {"dev_unid": device.dev_unid, "enabled": False}
    assert (await answer(place, client.call("put devices", change)))["ecode"] == 0
    await place.until(lambda: device.closed)
    assert device.closed[0] == 1008


# -- progress, events, the end


async def test_progress_comes_before_the_response(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    response = client.call(
        "post tasks", {"name": "a", "task_type": "pic", "dev_unids": [device.dev_unid]}, progress=True, src_page="p"
    )
    await place.until(lambda: client.progress)
    envelope = {"command": f"post {TASKS}", "src_page": "p", "req_id": "1"}
    assert {name: client.progress[0][name] for name in envelope} == envelope
    assert client.progress[0]["progress"]["done"] == 0
    assert not response.called
    device.obey()
    told = await answer(place, response)
    assert client.heard[-1] == told
    assert client.heard == [*client.progress, told]


async def test_events_come_to_those_who_subscribed(place: Place) -> None:
    client, other = await place.client(), await place.client("bob")
    await answer(place, client.call("post subscriptions", {"topics": ["devices", "deliveries", "commands"]}))
    device = await place.device("box")
    task_id = await a_task(place, client, device)
    device.lose()
    await place.until(lambda: len(client.events) == 6)
    told = [(event["event"], event["seq"], event["data"]) for event in client.events]
    assert sorted(name for name, _, _ in told) == ["commands"] * 2 + ["deliveries"] + ["devices"] * 3
    assert [seq for _, seq, _ in told] == [1, 2, 3, 4, 5, 6]
    delivery = {"dev_unid": "box", "task_id": "task", "rev": 1, "state": "confirmed", "ecode": 0, "enote": "ok"}
    assert [named(data, box=device.dev_unid, task=task_id) for name, _, data in told if name == "deliveries"] == [
        {**delivery, "late": False}
    ]
    assert [data["change"] for name, _, data in told if name == "devices"] == ["enrolled", "connected", "disconnected"]
    assert other.events == []


async def test_a_stopping_server_closes_all_connections(place: Place) -> None:
    client, device = await place.client(), await place.device("box")
    await place.stop()
    await place.until(lambda: client.closed and device.closed)
    assert client.closed == device.closed == (1001, "the server is stopping; retry after 5 s")
