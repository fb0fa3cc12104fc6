"""Subscriptions (protocol §4): the events of each topic for each cause, counted for each connection."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from kit import NO_TASK, Client, Json, World, combo, eventually, failed, hold, late, ok, payload, refuse, silent, twice
from kit_events import TOPICS, assert_no_gap, data_of, events, subscribe, unsubscribe, wait_events
from kit_http import Mirror
from kit_people import Person

SERVER = {"device_timeout": 1.5}
BAD_FIELD, REFUSED, SILENT = 1004000002, 1005020001, 1005040001


def without_note(found: Json) -> Json:
    assert isinstance(found.get("enote"), str), found
    return {name: value for name, value in found.items() if name != "enote"}


# -- devices


def test_devices(world: World) -> None:
    """One for each thing that happens to it, in that order."""
    client = subscribe(world.client("viewer"), "devices")
    device = world.device()
    named = {"dev_unid": device.dev_unid, "dev_refid": device.dev_refid}
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "dev_name": "other"}))
    world.disconnect(device)
    world.connect(device)
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "enabled": False}))
    device.sockets[-1].wait_closed()
    eventually(lambda: not world.is_online(device), "it is offline")
    ok(world.admin.call("delete devices", {"dev_unid": device.dev_unid}))
    found = data_of(wait_events(client, 8))
    changes = [event["change"] for event in found]
    assert changes[:5] == ["enrolled", "connected", "changed", "disconnected", "connected"]
    assert sorted(changes[5:7]) == ["changed", "disconnected"]
    assert changes[7] == "deleted"
    assert found == [named | {"change": change} for change in changes]
    assert_no_gap(client)
    stamps = [event["at"] for event in events(client)]
    assert stamps == sorted(stamps)


def test_other_hardware(world: World) -> None:
    """Who listens hears of the name that it has now."""
    device = world.device(connect=False)
    client = subscribe(world.client("operator"), "devices")
    params = {"dev_unid": device.dev_unid, "dev_refid": f"new-{secrets.token_hex(4)}"}
    ok(world.admin.call("put devices", params))
    (found,) = data_of(wait_events(client, 1))
    assert found == params | {"change": "changed"}


def test_connected_anew_while_the_old_connection_is_open(world: World) -> None:
    """It was there and is there: whatever is said of it, the last word is that it is connected."""
    device = world.device()
    client = subscribe(world.client("operator"), "devices")
    device.connect(keep_old=True)
    assert device.sockets[0].wait_closed() == 4001
    device.barrier()
    ok(client.call("get tasks"))
    assert [event["change"] for event in data_of(events(client))][-1:] == ["connected"]
    assert world.is_online(device)
    assert_no_gap(client)


# -- deliveries


def delivery(device: Any, task_id: str, rev: int, state: str, ecode: int = 0, **more: Any) -> Json:
    entry = {"dev_unid": device.dev_unid, "task_id": task_id, "rev": rev, "state": state, "ecode": ecode}
    return entry | {"late": False} | more


def test_deliveries_of_a_task(world: World) -> None:
    """Added, changed, refused, brought back and deleted."""
    one, other = world.device(), world.device()
    client = subscribe(world.client("viewer"), "deliveries")
    task_id = world.pic_task(one, other)
    other.behave(refuse(77, "not today"), verb="put", times=1)
    answer = world.operator.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    assert answer["ecode"] == REFUSED
    one.wait_heard(3, task_id=task_id)
    world.settled(task_id)
    ok(world.operator.call("delete tasks", {"task_id": task_id}))
    found = data_of(wait_events(client, 7))
    assert [event["enote"] for event in found if event["ecode"] == 77] == ["not today"]
    found = [without_note(event) for event in found]
    assert sorted(found[:2], key=str) == sorted([delivery(d, task_id, 1, "confirmed") for d in (one, other)], key=str)
    assert delivery(one, task_id, 2, "confirmed") in found[2:4]
    assert delivery(other, task_id, 2, "refused", 77) in found[2:4]
    assert found[4] == delivery(one, task_id, 3, "confirmed")
    assert {(event["dev_unid"], event["rev"], event["ecode"]) for event in found[5:]} == {
        (device.dev_unid, 4, 0) for device in (one, other)
    }
    assert_no_gap(client)


def test_delivery_of_a_subtask(world: World) -> None:
    device, video = world.device(), world.video_task()
    client = subscribe(world.client("viewer"), "deliveries")
    subtask_id = world.subtask(video, device, vchan={"url": "rtsp://user:secret@x"})
    (event,) = wait_events(client, 1)
    assert without_note(event["data"]) == delivery(device, video, 2, "confirmed", subtask_id=subtask_id)


def test_a_late_delivery(world: World) -> None:
    """Nobody waits any longer; it is an old order's, so the device is pending until it answers the newest."""
    device = world.device(warm=True)
    task_id = world.pic_task(device)
    client = subscribe(world.client("viewer"), "deliveries")
    device.behave(hold, verb="put")
    answer = world.operator.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    assert answer["ecode"] == SILENT
    assert events(client) == []
    device.wait_heard(2, "put")
    with device.changed:
        newest = device.held_back.pop()
    device.release()
    (first,) = data_of(wait_events(client, 1))
    assert without_note(first) == delivery(device, task_id, 2, "pending", late=True)
    assert world.task(task_id)["state"] == "pending"
    device.reply(*newest)
    second = data_of(wait_events(client, 2))[1]
    assert without_late(second) == without_late(delivery(device, task_id, 3, "confirmed", enote="ok"))
    assert world.task(task_id)["state"] == "confirmed"


def without_late(found: Json) -> Json:
    """Whether an order that no command waits for can be late is left open."""
    return {name: value for name, value in found.items() if name != "late"}


def test_one_answer_is_one_delivery(world: World) -> None:
    """Said twice it is written once; an answer to nothing is none; what it lacks is sent, and then it has it."""
    device = world.device(warm=True)
    client = subscribe(world.client("viewer"), "deliveries")
    device.behave(twice)
    task_id = world.pic_task(device)
    device.behave_normally()
    device.send(device.sockets[-1], {"req_id": "never asked", "ecode": 0})
    device.barrier()
    with device.changed:
        device.held.clear()
    device.behave(refuse(NO_TASK, "I have no such task"), verb="put", times=1)
    ok(world.operator.call("put tasks", {"task_id": task_id, "name": "other"}))
    assert device.heard()[-1].verb == "post"
    found = data_of(wait_events(client, 2))
    assert [(event["rev"], event["state"], event["ecode"]) for event in found] == [
        (1, "confirmed", 0),
        (2, "confirmed", 0),
    ]


def test_silence_is_no_delivery(world: World) -> None:
    device = world.device(warm=True)
    task_id = world.pic_task(device)
    client = subscribe(world.client("viewer"))
    device.behave(silent(), verb="put")
    answer = world.operator.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    assert answer["ecode"] == SILENT
    assert wait_events(client, 0) == []


# -- commands


def in_history(world: World, command_id: str) -> Json:
    """As in `get commands`, without `devices`."""
    (item,) = payload(world.operator.call("get commands", {"command_id": command_id}))["commands"]
    del item["devices"]
    return dict(item)


def test_commands(world: World) -> None:
    """One when it is over, not before; a failure is one too, and what is not in the history is none."""
    device = world.device()
    client = subscribe(world.client("operator"), "commands")
    task_id = world.pic_task(device)
    device.behave(hold, verb="put", times=1)
    params = {"task_id": task_id, "algo_comb": combo("a2")}
    sent = world.operator.send("post tasks/pic_task_config", params)
    device.wait_heard(1, "put")
    wait_events(client, 1)
    device.release()
    second = ok(world.operator.answer(sent))
    device.behave(refuse(8, "no"), verb="put", times=1)
    third = world.operator.call("put tasks", {"task_id": task_id, "name": "other"})
    assert third["ecode"] == REFUSED
    ok(world.operator.call("get commands"))
    ok(world.operator.call("post devices/resync", {"dev_unid": device.dev_unid}))
    world.call_device(device, "get /x")
    failed(world.operator.call("put tasks", {"task_id": task_id}), BAD_FIELD)
    found = wait_events(client, 5)
    assert [event["data"]["command_id"] for event in found[1:3]] == [second["command_id"], third["command_id"]]
    assert [event["data"]["outcome"] for event in found] == ["ok", "ok", "failed", "ok", "ok"]
    assert_no_gap(client)
    for event in found:
        assert event["data"] == in_history(world, event["data"]["command_id"])


def test_a_viewer_hears_of_their_own_commands_only(world: World) -> None:
    """And of all devices and deliveries."""
    viewer, operator = subscribe(world.client("viewer")), subscribe(world.client("operator"))
    device = world.device()
    world.pic_task(device)
    assert [event["event"] for event in wait_events(operator, 5)].count("commands") == 2
    assert sorted(event["event"] for event in wait_events(viewer, 3)) == ["deliveries", "devices", "devices"]
    assert_no_gap(viewer)
    assert_no_gap(operator)


def test_nobody_hears_a_password_or_a_content(world: World) -> None:
    client = subscribe(world.client("admin"))
    person = Person(world, "viewer")
    ok(world.admin.call("put users", {"user_name": person.user_name, "password": "hidden-1"}))
    unid = world.store_conf(b"<hidden/>")
    ok(world.operator.call("put store_confs", {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "aGlkZGVu"}))
    device = world.device()
    world.subtask(world.video_task(), device, vchan={"url": "hidden-2"})
    world.call_device(device, "get /x", hidden="hidden-3")
    ok(client.call("get tasks"))
    heard = repr(events(client))
    assert "call" in heard
    for text in (person.password, "hidden", "aGlkZGVu", device.dev_key):
        assert text not in heard


def test_commands_over_http_are_heard_of(world: World) -> None:
    client = subscribe(world.client("operator"), "commands")
    made = ok(Mirror(world.http, world.operator.atoken).call("post tasks", {"name": "n", "task_type": "video"}))
    (event,) = wait_events(client, 1)
    assert event["data"] == in_history(world, made["command_id"])


# -- subscribed, and no longer


def test_topics_are_apart(world: World) -> None:
    """None after `delete subscriptions`; what counts is what this connection was told."""
    client = subscribe(world.client("operator"), "devices", "commands")
    world.device(connect=False)
    assert [event["event"] for event in sorted(wait_events(client, 2), key=str)] == ["commands", "devices"]
    unsubscribe(client, "commands", "deliveries")
    world.device(connect=False)
    assert [event["event"] for event in wait_events(client, 3)][2:] == ["devices"]
    subscribe(client, "devices", "deliveries")
    subscribe(client, "devices")
    world.pic_task(world.device())
    assert [event["event"] for event in wait_events(client, 6)][3:] == ["devices", "devices", "deliveries"]
    unsubscribe(client)
    world.pic_task(world.device())
    wait_events(client, 6)
    subscribe(client, "commands")
    world.video_task()
    wait_events(client, 7)
    assert_no_gap(client)


def test_two_connections_count_apart(world: World) -> None:
    """Also those of one account; and one that comes anew begins anew."""
    first = subscribe(world.client("operator"), "commands")
    world.video_task()
    second = subscribe(world.client("operator"), "commands")
    unsubscribed = world.client("operator")
    world.video_task()
    assert data_of(wait_events(first, 2))[1:] == data_of(wait_events(second, 1))
    assert_no_gap(first)
    assert_no_gap(second)
    wait_events(unsubscribed, 0)
    first.close()
    anew = subscribe(world.client("operator"), "commands")
    world.video_task()
    wait_events(anew, 1)
    assert_no_gap(anew)
    wait_events(second, 2)
    assert_no_gap(second)


def test_the_answer_comes_before_what_it_promises(world: World) -> None:
    """While others make things happen all the time."""
    client = world.client("operator")
    busy = [world.operator.send("post tasks", {"name": "n", "task_type": "video"}) for _ in range(30)]
    req_id = client.send("post subscriptions", {"topics": ["commands"]})
    for sent in busy:
        ok(world.operator.answer(sent))
    with client.changed:
        client.changed.wait_for(lambda: bool(client.inbox))
        first = client.inbox[0]
    assert isinstance(first, dict)
    assert first.get("req_id") == req_id
    ok(client.answer(req_id))
    assert_no_gap(client)


@pytest.mark.parametrize(
    "topics", [[], ["nothing"], ["devices", "nothing"], ["devices", "devices"], ["Devices"], [""], "devices", [None]]
)
@pytest.mark.parametrize("method", ["post", "delete"])
def test_topics_that_are_wrong(world: World, method: str, topics: object) -> None:
    client: Client = world.client("viewer")
    with world.server.unchanged(leave_out=()):
        failed(client.call(f"{method} subscriptions", {"topics": topics}), BAD_FIELD, "$.params.topics")
    world.device(connect=False)
    wait_events(client, 0)


def test_a_late_answer_of_a_deleted_device_is_nobodys(world: World) -> None:
    """Events say what is: of a task that is gone no delivery is told as if it were there."""
    device = world.device(warm=True)
    task_id = world.pic_task(device)
    client = subscribe(world.client("operator"), *TOPICS)
    device.behave(late(0.3), verb="delete", times=1)
    ok(world.operator.call("delete tasks", {"task_id": task_id, "force": True}))
    device.wait_heard(1, "delete", task_id)
    eventually(lambda: bool(events(client, "deliveries")), "its answer is written")
    (found,) = data_of(events(client, "deliveries"))
    assert (found["task_id"], found["ecode"]) == (task_id, 0)
    assert_no_gap(client)
