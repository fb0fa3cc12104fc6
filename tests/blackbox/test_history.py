"""The history (protocol §4, `get commands`): what it keeps of each command, how it is found, and who sees it."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import pytest
from kit import (
    Answer,
    Client,
    Device,
    Json,
    World,
    b64,
    combo,
    failed,
    full_command,
    hold,
    late,
    ok,
    payload,
    refuse,
    unknown,
)
from kit_events import TIME, subscribe, wait_events
from kit_http import Mirror
from kit_people import Person

SERVER = {"device_timeout": 1.5}
BAD_FIELD, NOT_ALLOWED, NO_TASK, OFFLINE, REFUSED = 1004000002, 1004030001, 1004040001, 1005030001, 1005020001
FIELDS = {
    "command_id",
    "command",
    "user_unid",
    "user_name",
    "params",
    "at",
    "outcome",
    "ecode",
    "enote",
    "devices",
    "duration",
}
SECRET = ("password", "old_password", "file_b64", "vchan")


def history(client: Client | Mirror, **params: Any) -> list[Json]:
    found = payload(client.call("get commands", params))
    assert set(found) == {"commands", "next"}
    items: list[Json] = found["commands"]
    assert all(set(item) - {"completed_at"} == FIELDS for item in items)
    return items


def newest(world: World, **params: Any) -> Json:
    return history(world.admin, limit=1, **params)[0]


def kept(world: World, client: Client, command: str, params: Json, *, made: Json | None = None) -> Answer:
    """Give a command, and find it whole as the newest of the history."""
    answer = client.call(command, params)
    item = newest(world)
    assert item["command"] == full_command(command)
    login = client.login
    names = {world.admin.login["user_unid"]: "admin", world.operator.login["user_unid"]: "operator"}
    assert (item["user_unid"], item["user_name"]) == (login["user_unid"], names[login["user_unid"]])
    assert item["outcome"] == ("ok" if answer["ecode"] == 0 else "failed")
    assert (item["ecode"], item["enote"]) == (answer["ecode"], answer["enote"])
    assert TIME.fullmatch(item["at"])
    assert isinstance(item["duration"], float)
    assert item["duration"] >= 0
    if "command_id" in answer:
        assert item["command_id"] == answer["command_id"]
    if "devices" in answer and command != "put store_confs":  # that answers only those that did not confirm
        assert item["devices"] == answer["devices"]
    expected = {k: v for k, v in params.items() if k not in (*SECRET, "params", "timeout")} | (made or {})
    assert {k: item["params"].get(k) for k in expected} == expected
    assert not set(SECRET) & set(item["params"])
    return answer


def test_each_command_that_changes_something(world: World) -> None:
    """What it named is there, and what it answered; what is secret or large is not."""
    admin, operator = world.admin, world.operator
    device = world.device()
    one = {"name": "c", "file_ext": "xml", "file_b64": b64(b"<one/>")}
    sum_of_one = {"size": 6, "sha256": hashlib.sha256(b"<one/>").hexdigest()}
    unid = kept(world, operator, "post store_confs", one, made=sum_of_one)["unid"]
    pic_params = {"name": "n", "task_type": "pic", "algo_comb": combo("a1"), "dev_unids": [device.dev_unid]}
    task_id = kept(world, operator, "post tasks", pic_params | {"store_conf_unid": unid})["task_id"]
    kept(world, operator, "put tasks", {"task_id": task_id, "name": "other"})
    ok(kept(world, operator, "post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")}))
    two = {"unid": unid, "name": "c", "file_ext": "xml", "file_b64": b64(b"<two/>")}
    ok(kept(world, operator, "put store_confs", two, made={"sha256": hashlib.sha256(b"<two/>").hexdigest()}))
    video = ok(kept(world, operator, "post tasks", {"name": "v", "task_type": "video"}))["task_id"]
    sub_params = {"task_id": video, "dev_unid": device.dev_unid, "vchan": {"url": "rtsp://user:secret@x"}}
    subtask_id = ok(kept(world, operator, "post subtasks", sub_params))["subtask_id"]
    ok(kept(world, operator, "post devices/resync", {"dev_unid": device.dev_unid}))
    call = {"dev_unid": device.dev_unid, "command": "get /x", "params": {"a": "b"}, "timeout": 5}
    ok(kept(world, admin, "post devices/call", call))
    assert "params" not in newest(world)["params"]
    ok(kept(world, operator, "delete subtasks", {"subtask_id": subtask_id}))
    ok(kept(world, operator, "delete tasks", {"task_id": video}))
    ok(kept(world, operator, "delete tasks", {"task_id": task_id, "force": True}))
    ok(kept(world, operator, "delete store_confs", {"unid": unid}))
    made = ok(kept(world, admin, "post devices", {"dev_refid": f"r-{unknown()}", "dev_type": "box"}))
    assert made["dev_key"] not in repr(newest(world))
    kept(world, admin, "put devices", {"dev_unid": made["dev_unid"], "enabled": False, "new_key": True})
    ok(kept(world, admin, "delete devices", {"dev_unid": made["dev_unid"]}))
    user = {"user_name": f"u-{unknown()}", "role": "viewer", "password": "one"}
    ok(kept(world, admin, "post users", user))
    ok(kept(world, admin, "put users", user | {"role": "operator", "password": "two"}))
    ok(kept(world, admin, "delete users", {"user_name": user["user_name"]}))


def test_what_devices_said(world: World) -> None:
    """A failure at devices is in it as it was answered."""
    good, bad = world.device(), world.device()
    task_id = world.pic_task(good, bad)
    bad.behave(refuse(77, "not today"), verb="put", times=1)
    answer = kept(world, world.operator, "post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    assert answer["ecode"] == REFUSED
    assert [entry["state"] for entry in newest(world)["devices"]] == ["confirmed", "refused"]
    unid = world.store_conf()
    ok(world.operator.call("put tasks", {"task_id": task_id, "store_conf_unid": unid}))
    world.disconnect(bad)
    new = {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "AAAA"}
    answer = world.operator.call("put store_confs", new)
    assert answer["ecode"] == OFFLINE
    item = newest(world)
    assert (item["command_id"], item["outcome"], item["ecode"]) == (answer["command_id"], "failed", OFFLINE)
    assert answer["devices"][0] in item["devices"]


def test_a_command_that_still_runs(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device)
    device.behave(hold, verb="put", times=1)
    sent = world.operator.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    device.wait_heard(1, "put")
    item = newest(world, task_id=task_id)
    assert (item["outcome"], item["command"]) == ("running", full_command("post tasks/pic_task_config"))
    assert [item[name] for name in ("ecode", "enote", "devices", "duration")] == [None] * 4
    device.release()
    answer = ok(world.operator.answer(sent))
    settled = newest(world, task_id=task_id)
    assert settled["command_id"] == item["command_id"] == answer["command_id"]
    assert {k: settled[k] for k in ("at", "params", "user_name")} == {k: item[k] for k in ("at", "params", "user_name")}
    assert (settled["outcome"], settled["devices"]) == ("ok", answer["devices"])


def test_over_http_it_is_the_same(world: World) -> None:
    mirror = Mirror(world.http, world.operator.atoken)
    answer = ok(mirror.call("post tasks", {"name": "n", "task_type": "video"}))
    item = newest(world)
    assert item["command"] == full_command("post tasks")
    assert (item["command_id"], item["user_name"]) == (answer["command_id"], "operator")
    assert history(mirror, command_id=item["command_id"]) == [item]


# -- what is not kept


def test_what_changes_nothing_is_not_kept(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device)
    world.disconnect(device)
    with world.server.unchanged(leave_out=()):
        before = newest(world)
        for command in ("tasks", "subtasks", "store_confs", "devices", "commands"):
            ok(world.viewer.call(f"get {command}"))
        ok(world.admin.call("get users"))
        ok(world.viewer.call("post subscriptions", {"topics": ["devices"]}))
        ok(world.viewer.call("delete subscriptions", {"topics": ["devices"]}))
        failed(world.operator.call("delete tasks", {"task_id": unknown()}), NO_TASK)
        failed(world.operator.call("delete tasks", {"task_id": task_id}), OFFLINE, stored=True, maybe=("devices",))
        failed(world.operator.call("delete tasks", {"colour": 1}), BAD_FIELD)
        failed(world.viewer.call("delete tasks", {"task_id": task_id}), NOT_ALLOWED)
        failed(world.admin.call("post devices/call", {"dev_unid": device.dev_unid, "command": "x"}), OFFLINE)
        assert newest(world) == before


def test_a_change_to_what_it_is_already_is_kept_too(world: World) -> None:
    """`put tasks` with values that are stored already is 0, with the same `rev`: it was carried out."""
    task_id = world.pic_task(name="same")
    answer = ok(world.operator.call("put tasks", {"task_id": task_id, "name": "same"}))
    assert (answer["rev"], answer["devices"]) == (world.task(task_id)["rev"], [])
    kept = newest(world)
    assert (kept["command"].rpartition("/")[2], kept["params"]) == ("tasks", {"task_id": task_id, "name": "same"})


# -- found again


@pytest.fixture(scope="module")
def story(world: World) -> dict[str, Any]:
    """Commands about two tasks and two devices, the newest first."""
    one, other = world.device(keep=True), world.device(keep=True)
    first, second = world.pic_task(one), world.pic_task(one, other)
    video = world.video_task()
    subtask = world.subtask(video, other)
    unid = world.store_conf()
    ok(world.operator.call("put tasks", {"task_id": second, "store_conf_unid": unid}))
    file = {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "AAAA"}
    ok(world.operator.call("put store_confs", file))
    ok(world.operator.call("delete subtasks", {"subtask_id": subtask}))
    ok(world.operator.call("delete tasks", {"task_id": first}))
    world.call_device(one, "get /x")
    return {"one": one, "other": other, "first": first, "second": second, "video": video}


def verbs(items: list[Json]) -> list[str]:
    return [str(item["command"]).replace("/wsapi/v1/devconf_fx/", "") for item in items]


def test_by_task(world: World, story: dict[str, Any]) -> None:
    """Those that named it, and the one that made it; also when it is gone."""
    assert verbs(history(world.viewer)) == []
    assert verbs(history(world.operator, task_id=story["first"])) == ["delete tasks", "post tasks"]
    assert verbs(history(world.operator, task_id=story["second"])) == ["put tasks", "post tasks"]
    found = verbs(history(world.operator, task_id=story["video"]))
    assert found in (["post subtasks", "post tasks"], ["delete subtasks", "post subtasks", "post tasks"])
    assert history(world.operator, task_id=unknown()) == []


def test_by_device(world: World, story: dict[str, Any]) -> None:
    """Those that named it, and those that went to it without."""
    one: Device = story["one"]
    other: Device = story["other"]
    both = ["put store_confs", "put tasks"]
    expected = ["post devices/call", "delete tasks", *both, "post tasks", "post tasks", "post devices"]
    assert verbs(history(world.operator, dev_unid=one.dev_unid)) == expected
    expected = ["delete subtasks", *both, "post subtasks", "post tasks", "post devices"]
    assert verbs(history(world.operator, dev_unid=other.dev_unid)) == expected


def test_by_user_and_id(world: World, story: dict[str, Any]) -> None:
    everything = history(world.admin, limit=1000)
    for name in ("admin", "operator"):
        expected = [item for item in everything if item["user_name"] == name]
        assert history(world.operator, user_name=name, limit=1000) == expected
        assert expected
    some = everything[3]
    assert history(world.operator, command_id=some["command_id"]) == [some]
    both = {"command_id": some["command_id"], "user_name": "nobody"}
    assert history(world.operator, **both) == []
    assert history(world.operator, command_id=unknown()) == []
    task = {"task_id": story["first"], "user_name": "operator", "dev_unid": story["one"].dev_unid}
    assert verbs(history(world.operator, **task)) == ["delete tasks", "post tasks"]


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_in_pages(world: World, story: dict[str, Any], limit: int) -> None:
    """The newest first; what is made meanwhile shifts nothing."""
    everything = history(world.admin, limit=1000)[:9]
    found: list[Json] = []
    after: str | None = None
    while len(found) < 9:
        more = {"after": after} if after is not None else {}
        page = payload(world.admin.call("get commands", {"limit": limit} | more))
        found += page["commands"]
        after = page["next"]
        assert after is not None or len(found) >= 9
        world.video_task()
    assert found[:9] == everything
    assert [item["at"] for item in found] == sorted((item["at"] for item in found), reverse=True)


# -- a viewer's own


def test_a_viewer_sees_their_own(world: World) -> None:
    """Not even with a filter more, and not what somebody of the same name did before."""
    person = Person(world, "viewer")
    assert history(person.client()) == []
    new = secrets.token_hex(8)
    change = {"user_name": person.user_name, "password": new, "old_password": person.password}
    ok(person.client().call("put users", change))
    person.password = new
    login = person.login()
    for client in (person.client(login), person.mirror(login)):
        (item,) = history(client)
        assert (item["user_name"], item["command"]) == (person.user_name, full_command("put users"))
        assert item["user_unid"] == login["user_unid"]
        assert history(client, user_name="admin") == []
        assert history(client, command_id=newest(world, user_name="admin")["command_id"]) == []
        assert history(client, user_name=person.user_name) == [item]
    assert history(world.operator, user_name=person.user_name) == [item]
    person.delete()
    namesake = Person(world, "viewer", person.user_name)
    assert history(namesake.client()) == []
    namesake.delete()


def test_a_late_answer_changes_nothing_of_it(world: World) -> None:
    """What the client was told stays what is kept."""
    device = world.device(warm=True)
    task_id = world.pic_task(device)
    device.behave(late(2.5), verb="put", times=1)
    answer = world.operator.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    assert answer["ecode"] == 1005040001
    item = newest(world, task_id=task_id)
    assert item["devices"] == answer["devices"]
    world.settled(task_id)
    assert newest(world, task_id=task_id) == item
    assert "completed_at" not in item


def test_what_stays_is_completed_by_a_late_answer(world: World) -> None:
    """And a restart in between forgets nothing."""
    device = world.device(warm=True)
    unid = world.store_conf()
    world.pic_task(device, store_conf_unid=unid)
    world.disconnect(device)
    new = {"unid": unid, "name": "conf", "file_ext": "xml", "file_b64": b64(b"<new/>")}
    answer = world.operator.call("put store_confs", new)
    assert answer["ecode"] == OFFLINE
    before = newest(world, command_id=answer["command_id"])
    assert "completed_at" not in before
    world.restart(kill=True)
    client = subscribe(world.client("viewer"), "commands")
    hears = subscribe(world.client("operator"), "commands")
    world.connect(device)
    (event,) = wait_events(hears, 1)
    after = newest(world, command_id=answer["command_id"])
    assert after == {**before, "completed_at": event["data"]["completed_at"]}
    del after["devices"]
    assert event["data"] == after
    assert wait_events(client, 0) == []
