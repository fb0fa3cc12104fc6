"""The chapter at work with fifty devices: what an operator sees, told line by line (``pytest -s`` shows it)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kit import Device, World, b64, combo, ok, refuse

SERVER = {"device_timeout": 5.0}
OLD, NEW = b"<conf><disk>1</disk></conf>", b"<conf><disk>2</disk></conf>"


@pytest.fixture(scope="module")
def fifty(world: World) -> list[Device]:
    return [world.device(keep=True) for _ in range(50)]


def ask(world: World, command: str, **params: Any) -> Any:
    """Send a request and show it with its answer."""
    answer = world.operator.call(command, params, src_page="page")
    shown = {name: value for name, value in params.items() if name != "file_b64"}
    print(f"\n> {command} {json.dumps(shown)}\n< {json.dumps(answer)}")
    return answer


def test_delete_without_and_with_subtasks(world: World, fifty: list[Device]) -> None:
    pic = world.pic_task(*fifty)
    assert all((pic, None) in device.held for device in fifty)
    assert ask(world, "delete tasks", task_id=pic)["ecode"] == 0
    assert not any((pic, None) in device.held for device in fifty)
    assert not world.has_task(pic)

    video = world.video_task()
    subtasks = [world.subtask(video, device) for device in fifty[:2]]
    heard = [len(device.heard()) for device in fifty]
    assert ask(world, "delete tasks", task_id=video)["ecode"] == 1004090001
    assert [len(device.heard()) for device in fifty] == heard
    for subtask_id in subtasks:
        assert ask(world, "delete subtasks", subtask_id=subtask_id)["ecode"] == 0
    assert ask(world, "delete tasks", task_id=video)["ecode"] == 0
    assert not any(device.held for device in fifty)


def test_a_picture_task_on_three_devices_one_of_which_refuses(world: World, fifty: list[Device]) -> None:
    three = fifty[:3]
    task_id = world.pic_task(*three)
    three[1].behave(refuse(501, "no licence for this algorithm"), verb="put", times=1)
    answer = ask(world, "post tasks/pic_task_config", task_id=task_id, algo_comb=combo("a2"))
    assert answer["ecode"] == 1005020001
    assert [(entry["state"], entry["ecode"]) for entry in answer["devices"]] == [
        ("confirmed", 0),
        ("refused", 501),
        ("confirmed", 0),
    ]
    world.settled(task_id)
    for device in three:
        assert device.held[(task_id, None)]["algo_comb"] == combo("a1")
    assert world.task(task_id)["algo_comb"] == combo("a1")
    assert [order.params["algo_comb"] for order in three[0].heard("put", task_id)] == [combo("a2"), combo("a1")]
    ok(world.operator.call("delete tasks", {"task_id": task_id}))


def test_a_storage_configuration_of_forty_subtasks_with_two_devices_away(world: World, fifty: list[Device]) -> None:
    unid = world.store_conf(OLD)
    video = world.video_task(store_conf_unid=unid)
    keys = {device: (video, world.subtask(video, device)) for device in fifty[:40]}
    away = fifty[38:40]
    for device in away:
        world.disconnect(device)
    file = {"unid": unid, "name": "conf", "file_ext": "xml", "file_b64": b64(NEW)}
    answer = ask(world, "put store_confs", **file)
    assert (answer["ecode"], answer["delivered"], answer["total"]) == (1005030001, 38, 40)
    assert answer["enote"] == "stored; 2 of 40 will get it when they return"
    assert {entry["dev_unid"] for entry in answer["devices"]} == {device.dev_unid for device in away}
    for device in away:
        world.connect(device)
    world.settled(video)
    assert {device.held[key]["store_conf"]["file_b64"] for device, key in keys.items()} == {b64(NEW)}
    assert ask(world, "get tasks", task_id=video)["tasks"][0]["state"] == "confirmed"
    again = ask(world, "put store_confs", **file)
    assert (again["ecode"], again["delivered"], again["total"]) == (0, 0, 0)
