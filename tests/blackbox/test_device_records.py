"""What a device says and asks of itself, and what operators do about one: call, resync, its record."""

from __future__ import annotations

import uuid

from kit import (
    TASKS,
    Device,
    Json,
    World,
    algos,
    combo,
    eventually,
    failed,
    handshake_status,
    ok,
    payload,
    refuse,
    reply_with,
    silent,
    unknown,
)
from kit_http import line

SERVER = {"device_timeout": 1.5}
OFFLINE, SILENT = 1005030001, 1005040001
OLD, NEW = combo("a1", speed=1), combo("a2", speed=2)


def runs(device: Device, task_id: str, algo_comb: list[Json]) -> bool:
    task = device.holding(task_id)
    return task is not None and algos(task["algo_comb"]) == algo_comb


# -- what a device asks and says of itself


def test_own_get_tasks(world: World) -> None:
    device, other = world.device(), world.device()
    conf = world.store_conf(b"<mine/>")
    pic = world.pic_task(device, algo_comb=OLD, store_conf_unid=conf)
    video = world.video_task(name="v")
    subtask_id = world.subtask(video, device, vchan={"url": "rtsp://x"})
    world.pic_task(other)
    heard = len(device.heard())
    answer = device.request(f"get {TASKS}")
    assert answer["ecode"] == 0
    found = {(task["task_id"], task.get("subtask_id")): task for task in answer["tasks"]}
    assert len(found) == len(answer["tasks"])
    assert set(found) == {(pic, None), (video, subtask_id)}
    for key, task in found.items():
        held = device.holding(*key)
        assert held is not None
        assert {k: v for k, v in task.items() if v is not None} == {k: v for k, v in held.items() if v is not None}
    assert len(device.heard()) == heard


def test_register_tells_what_it_has(world: World) -> None:
    """What differs is sent when it connects, what is equal is not, and what is unknown is deleted there."""
    device = world.device()
    equal, stale, missing = (world.pic_task(device, algo_comb=OLD) for _ in range(3))
    stranger = unknown()
    ok(world.operator.call("put tasks", {"task_id": stale, "name": "newer"}))
    world.disconnect(device)
    with device.changed:
        device.held[stale, None]["rev"] -= 1
        device.revs[stale, None] -= 1
        device.held[stale, None]["algo_comb"] = NEW
        del device.held[missing, None], device.revs[missing, None]
        device.held[stranger, None] = {"task_id": stranger, "rev": 3}
        device.revs[stranger, None] = 3
    heard = len(device.heard())
    device.register(tasks=device.inventory())
    world.connect(device)
    device.wait_for(lambda: set(device.held) == {(t, None) for t in (equal, stale, missing)})
    device.wait_for(lambda: runs(device, stale, OLD))
    assert equal not in {order.params["task_id"] for order in device.heard()[heard:]}
    eventually(lambda: world.device_item(device)["pending"] == 0, "nothing is pending")


def test_register_describes_it(world: World) -> None:
    device = world.device(connect=False)
    device.register(algos=["a1", "a2"], dev_type="other box")
    item = world.device_item(device)
    assert (item["algos"], item["dev_type"], item["dev_refid"]) == (["a1", "a2"], "other box", device.dev_refid)
    assert item["online"] is False


# -- devices/call and devices/resync


def test_call(world: World) -> None:
    device = world.device()
    secret = uuid.uuid4().hex
    device.behave(reply_with(lambda order: {"req_id": order.req_id, "ecode": 0, "enote": "fine", "data": [secret]}))
    params = {"dev_unid": device.dev_unid, "command": "post /any/Thing", "params": {"深": [secret, None]}}
    answer = world.admin.call("post devices/call", params)
    assert set(payload(answer)) - {"devices", "dev_unid"} == {"answer"}
    said = answer["answer"]
    assert (said["ecode"], said["enote"], said["data"]) == (0, "fine", [secret])
    (order,) = device.heard()
    assert order.command == params["command"]
    assert order.params == params["params"]
    assert secret not in repr(world.server.dump(leave_out=()))
    assert secret not in world.server.log()


def test_call_of_a_device_that_says_no(world: World) -> None:
    device = world.device()
    device.behave(refuse(77, "no"))
    params = {"dev_unid": device.dev_unid, "command": "get /x"}
    said = ok(world.admin.call("post devices/call", params))["answer"]
    assert (said["ecode"], said["enote"]) == (77, "no")
    assert device.heard()[0].params == {}


def test_call_unanswered(world: World) -> None:
    device = world.device(warm=True)
    params = {"dev_unid": device.dev_unid, "command": "get /x", "timeout": 1}
    device.behave(silent(), times=1)
    failed(world.admin.call("post devices/call", params), SILENT, maybe=("devices", "dev_unid"))
    world.disconnect(device)
    failed(world.admin.call("post devices/call", params), OFFLINE, maybe=("devices", "dev_unid"))


def test_resync(world: World) -> None:
    device = world.device()
    pic = world.pic_task(device, algo_comb=OLD)
    video = world.video_task()
    subtask_id = world.subtask(video, device)
    before = dict(device.revs)
    device.wipe()
    assert payload(world.operator.call("post devices/resync", {"dev_unid": device.dev_unid}))["pending"] == 2
    device.wait_for(lambda: set(device.held) == {(pic, None), (video, subtask_id)})
    assert [order.verb for order in device.heard()[2:]] == ["post", "post"]
    assert all(device.revs[key] > rev for key, rev in before.items())
    world.settled(pic)
    world.settled(video)


def test_resync_sends_again_what_was_refused(world: World) -> None:
    conf = world.store_conf(b"<one/>")
    device = world.device()
    task_id = world.pic_task(device, store_conf_unid=conf)
    device.behave(refuse(5, "disk full"), verb="put", times=1)
    ok(world.operator.call("put store_confs", {"unid": conf, "name": "c", "file_ext": "bin", "file_b64": "AA=="}))
    assert world.task(task_id)["state"] == "refused"
    ok(world.operator.call("post devices/resync", {"dev_unid": device.dev_unid}))
    world.settled(task_id)
    task = device.holding(task_id)
    assert task is not None
    assert task["store_conf"]["file_b64"] == "AA=="


# -- who is not enrolled


def test_the_latest_thousand_unknown_devices(world: World) -> None:
    """The last one first; what came before them is forgotten, and so is all when the server stops."""
    with line(world.http) as connection:
        for number in range(1005):
            body = {"user_type": "dev", "dev_refid": f"knock-{number}", "dev_key": "x"}
            assert connection.ask("POST", "/webapi/v1/login", body).status == 401
    found = payload(world.admin.call("get devices/unknown"))["unknown"]
    assert [item["dev_refid"] for item in found] == [f"knock-{number}" for number in range(1004, 4, -1)]
    assert {item["count"] for item in found} == {1}
    world.restart()
    assert payload(world.admin.call("get devices/unknown")) == {"unknown": []}


# -- the record of a device


def test_disabled_device_is_shut_out(world: World) -> None:
    device = world.device()
    url = world.http.ws_url(device.dev_unid, device.atoken)
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "enabled": False}))
    assert device.sockets[-1].wait_closed() == 1008
    assert handshake_status(url) == 401
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "enabled": True}))
    device.login()
    world.connect(device)


def test_new_key_ends_the_old_one(world: World) -> None:
    device = world.device()
    answer = payload(world.admin.call("put devices", {"dev_unid": device.dev_unid, "new_key": True}))
    assert device.sockets[-1].wait_closed() == 1008
    assert answer["dev_key"] != device.dev_key
    body = {"user_type": "dev", "dev_refid": device.dev_refid, "dev_key": device.dev_key}
    assert world.http.request("POST", "/webapi/v1/login", body).json["ecode"] == 1004010003
    device.dev_key = answer["dev_key"]
    device.login()
    world.connect(device)


def test_other_hardware_gets_everything_again(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device)
    device.wipe()
    device.dev_refid = f"new-{uuid.uuid4().hex}"
    answer = ok(
        world.admin.call("put devices", {"dev_unid": device.dev_unid, "dev_refid": device.dev_refid, "new_key": True})
    )
    device.dev_key = answer["dev_key"]
    device.login()
    world.connect(device)
    device.wait_for(lambda: (task_id, None) in device.held)
    world.settled(task_id)


def test_device_that_nothing_binds_is_deleted(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device)
    ok(world.operator.call("delete tasks", {"task_id": task_id}))
    ok(world.admin.call("delete devices", {"dev_unid": device.dev_unid}))
    assert device.sockets[-1].wait_closed() == 1008
    assert ok(world.operator.call("get devices", {"dev_unid": device.dev_unid}))["devices"] == []
