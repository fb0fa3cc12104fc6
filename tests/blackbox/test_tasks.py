"""Tasks and subtasks: made, changed and deleted (§20.1), and what devices hear of it."""

from __future__ import annotations

from typing import Any

import pytest
from kit import (
    Device,
    Json,
    Order,
    World,
    algos,
    b64,
    combo,
    drop_connection,
    failed,
    ok,
    payload,
    refuse,
    silent,
    states,
)

SERVER = {"device_timeout": 1.5}
HAS_SUBTASKS, CANNOT_RUN = 1004090001, 1004090005
REFUSED, OFFLINE, SILENT = 1005020001, 1005030001, 1005040001
CONFIRMED = ("confirmed", 0)


def nothing_heard(before: int, *devices: Device) -> None:
    for device in devices:
        device.barrier()
        assert len(device.orders) == before


def added(order: Order, expected: Json) -> None:
    """An "add" carries exactly this, and its `rev`; parts that are not set may be left out or null."""
    assert order.verb == "post"
    params = {k: v for k, v in order.params.items() if v is not None}
    assert isinstance(params.pop("rev"), int)
    if "algo_comb" in params:
        params["algo_comb"] = algos(params["algo_comb"])
    assert params == expected


# -- making


def test_picture_task_goes_to_its_devices(world: World) -> None:
    devices = [world.device(), world.device()]
    conf = world.store_conf(b"<a>1</a>", "keep it", "xml")
    params: dict[str, Any] = {
        "name": "Bilder",
        "task_type": "pic",
        "algo_comb": [{"algo_id": "a1"}, {"algo_id": "a2", "enabled": False, "params": {"x": [1.5, None]}}],
        "store_conf_unid": conf,
        "dev_unids": [device.dev_unid for device in devices],
    }
    answer = world.operator.call("post tasks", params, src_page="page")
    assert set(payload(answer)) == {"task_id", "rev", "devices"}
    assert states(answer) == dict.fromkeys(params["dev_unids"], CONFIRMED)
    full = algos(params["algo_comb"])
    for device in devices:
        (order,) = device.heard()
        assert order.rev == answer["rev"]
        assert order.message["src_page"] == order.req_id
        file = {"unid": conf, "name": "keep it", "file_ext": "xml", "file_b64": b64(b"<a>1</a>")}
        whole = {"task_id": answer["task_id"], "task_type": "pic", "name": "Bilder", "algo_comb": full}
        added(order, whole | {"store_conf": file})
    item = world.task(answer["task_id"])
    assert (item["state"], item["rev"], item["subtask_count"]) == ("confirmed", answer["rev"], 0)
    assert (item["name"], item["task_type"], item["store_conf_unid"]) == ("Bilder", "pic", conf)
    assert algos(item["algo_comb"]) == full
    assert sorted(item["dev_unids"]) == sorted(params["dev_unids"])
    assert set(item) >= {"created_at", "updated_at"}


def test_picture_task_of_an_offline_device_is_pending(world: World) -> None:
    here, away = world.device(), world.device(connect=False)
    dev_unids = [here.dev_unid, away.dev_unid]
    answer = ok(world.operator.call("post tasks", {"name": "n", "task_type": "pic", "dev_unids": dev_unids}))
    assert states(answer) == {here.dev_unid: CONFIRMED, away.dev_unid: ("pending", OFFLINE)}
    assert world.task(answer["task_id"])["state"] == "pending"
    world.connect(away)
    away.wait_heard(1, "post")
    world.settled(answer["task_id"])
    assert away.holding(answer["task_id"])


def test_picture_task_that_one_refuses_is_undone(world: World) -> None:
    devices = [world.device() for _ in range(3)]
    devices[1].behave(refuse(77, "no room"))
    dev_unids = [device.dev_unid for device in devices]
    answer = world.operator.call("post tasks", {"name": "n", "task_type": "pic", "dev_unids": dev_unids})
    failed(answer, REFUSED, maybe=("devices", "task_id", "rev"))
    entry = next(entry for entry in answer["devices"] if entry["dev_unid"] == devices[1].dev_unid)
    assert (entry["state"], entry["ecode"], entry["enote"]) == ("refused", 77, "no room")
    for device in devices:
        device.wait_for(lambda device=device: not device.held, what="it was told to delete")  # type: ignore[misc]
        assert world.tasks_of(device) == []


def test_task_for_what_a_device_cannot_run(world: World) -> None:
    device = world.device(algos=["a1"])
    params = {"name": "n", "task_type": "pic", "dev_unids": [device.dev_unid], "algo_comb": combo("a1", "a2")}
    with world.server.unchanged():
        failed(world.operator.call("post tasks", params), CANNOT_RUN, maybe=("devices",))
    nothing_heard(0, device)


def test_no_algorithms_declared_means_anything_goes(world: World) -> None:
    device = world.device(algos=[])
    assert device.holding(world.pic_task(device, algo_comb=combo("whatever")))


def test_video_task_goes_to_devices_by_its_subtasks(world: World) -> None:
    device = world.device()
    made = world.operator.call("post tasks", {"name": "v", "task_type": "video", "algo_comb": combo("a1")})
    assert payload(made)["devices"] == []
    task_id = made["task_id"]
    vchan = {"url": "rtsp://x/1", "深": [1, {"a": None}]}
    params = {"task_id": task_id, "dev_unid": device.dev_unid, "vchan": vchan}
    answer = world.operator.call("post subtasks", params)
    assert set(payload(answer)) - {"task_id"} == {"subtask_id", "rev", "devices"}
    assert states(answer) == {device.dev_unid: CONFIRMED}
    assert answer["rev"] > made["rev"]
    (order,) = device.heard()
    subtask_id = answer["subtask_id"]
    ids = {"task_id": task_id, "subtask_id": subtask_id}
    added(order, ids | {"task_type": "video", "name": "v", "algo_comb": combo("a1"), "vchan": vchan})
    item = world.subtask_item(subtask_id)
    assert item == ids | {"dev_unid": device.dev_unid, "vchan": vchan, "rev": item["rev"], "state": "confirmed"}
    assert world.task(task_id)["subtask_count"] == 1
    for seen in ok(world.viewer.call("get subtasks", {"subtask_id": subtask_id}))["subtasks"]:
        assert not seen.get("vchan")  # operators only


# -- changing


def test_new_name_goes_down_alone(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device)
    answer = world.operator.call("put tasks", {"task_id": task_id, "name": "other"})
    assert set(payload(answer)) == {"task_id", "rev", "devices"}
    assert states(answer) == {device.dev_unid: CONFIRMED}
    order = device.heard("put")[0]
    assert order.params == {"task_id": task_id, "rev": answer["rev"], "name": "other"}
    assert world.task(task_id)["name"] == "other"


def test_new_name_of_a_video_task_goes_to_every_subtask(world: World) -> None:
    devices = [world.device() for _ in range(5)]
    task_id = world.video_task()
    subtasks = [world.subtask(task_id, device) for device in devices]
    answer = ok(world.operator.call("put tasks", {"task_id": task_id, "name": "other"}))
    assert [(e["subtask_id"], e["state"]) for e in answer["devices"]] == [(s, "confirmed") for s in subtasks]
    for device, subtask_id in zip(devices, subtasks, strict=True):
        ids = {"task_id": task_id, "subtask_id": subtask_id}
        assert device.heard("put")[0].params == ids | {"rev": answer["rev"], "name": "other"}


def test_storage_configuration_changed_and_taken_away(world: World) -> None:
    device = world.device()
    first, second = world.store_conf(b"<a>1</a>"), world.store_conf(b"<a>2</a>")
    task_id = world.pic_task(device, store_conf_unid=first)
    ok(world.operator.call("put tasks", {"task_id": task_id, "store_conf_unid": second}))
    (order,) = device.heard("put")
    assert set(order.params) == {"task_id", "rev", "store_conf"}
    assert order.params["store_conf"]["unid"] == second
    ok(world.operator.call("put tasks", {"task_id": task_id, "store_conf_unid": None}))
    device.wait_heard(2, "put")
    assert device.heard("put")[1].params["store_conf"] is None
    assert world.task(task_id)["store_conf_unid"] is None
    assert (world.conf(first)["task_ids"], world.conf(second)["task_ids"]) == ([], [])


def test_devices_join_and_leave(world: World) -> None:
    leaving, staying, joining = (world.device() for _ in range(3))
    task_id = world.pic_task(leaving, staying)
    dev_unids = [staying.dev_unid, joining.dev_unid]
    answer = ok(world.operator.call("put tasks", {"task_id": task_id, "dev_unids": dev_unids}))
    assert states(answer)[joining.dev_unid] == CONFIRMED
    joining.wait_for(lambda: (task_id, None) in joining.held)
    leaving.wait_for(lambda: not leaving.held)
    assert staying.holding(task_id)
    assert not staying.heard("delete")
    assert not staying.heard("put")
    assert sorted(world.settled(task_id)["dev_unids"]) == sorted(dev_unids)


def test_joining_refused_is_undone(world: World) -> None:
    leaving, joining, refusing = (world.device() for _ in range(3))
    task_id = world.pic_task(leaving)
    refusing.behave(refuse(), verb="post")
    dev_unids = [joining.dev_unid, refusing.dev_unid]
    answer = world.operator.call("put tasks", {"task_id": task_id, "name": "other", "dev_unids": dev_unids})
    failed(answer, REFUSED, stored=True, maybe=("devices", "rev"))
    leaving.wait_for(lambda: (leaving.holding(task_id) or {}).get("name") == "pictures")
    joining.wait_for(lambda: not joining.held)
    refusing.behave_normally()
    item = world.task(task_id)
    assert (item["name"], item["dev_unids"]) == ("pictures", [leaving.dev_unid])


def test_change_for_an_offline_device_waits_for_it(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device)
    world.disconnect(device)
    answer = ok(world.operator.call("put tasks", {"task_id": task_id, "name": "other"}))
    assert states(answer) == {device.dev_unid: ("pending", OFFLINE)}
    ok(world.operator.call("put tasks", {"task_id": task_id, "name": "newest"}))
    world.connect(device)
    world.settled(task_id)
    assert [order.params["name"] for order in device.heard("put")] == ["newest"]


# -- deleting a task (§20.1)


def test_delete_fails_while_subtasks_are_left(world: World) -> None:
    device = world.device()
    task_id = world.video_task()
    subtask_id = world.subtask(task_id, device)
    for force in ({}, {"force": False}, {"force": True}):
        with world.server.unchanged():
            answer = world.operator.call("delete tasks", {"task_id": task_id} | force)
            failed(answer, HAS_SUBTASKS, stored=True)
        nothing_heard(1, device)
    answer = ok(world.operator.call("delete subtasks", {"subtask_id": subtask_id}))
    assert answer["subtask_id"] == subtask_id
    (order,) = device.heard("delete")
    assert order.params == {"task_id": task_id, "subtask_id": subtask_id, "rev": order.rev}
    assert not device.held
    answer = world.operator.call("delete tasks", {"task_id": task_id})
    assert payload(answer) == {"task_id": task_id}
    assert not world.has_task(task_id)


def test_delete_told_to_every_device(world: World) -> None:
    devices = [world.device(), world.device()]
    task_id = world.pic_task(*devices)
    answer = world.operator.call("delete tasks", {"task_id": task_id}, src_page="xxxx")
    assert payload(answer) == {"task_id": task_id}
    assert not world.has_task(task_id)
    for device in devices:
        (order,) = device.heard("delete")
        assert order.params == {"task_id": task_id, "rev": order.rev}
        assert not device.held


@pytest.mark.parametrize("ecode", [1004040001, 1004040003])
def test_delete_of_what_a_device_lacks_counts(world: World, ecode: int) -> None:
    device = world.device()
    task_id = world.pic_task(device)
    device.behave(refuse(ecode), verb="delete")
    ok(world.operator.call("delete tasks", {"task_id": task_id}))
    assert not world.has_task(task_id)


def test_delete_with_one_device_offline_is_heard_by_none(world: World) -> None:
    here, away = world.device(), world.device()
    task_id = world.pic_task(here, away)
    world.disconnect(away)
    with world.server.unchanged():
        answer = world.operator.call("delete tasks", {"task_id": task_id})
        failed(answer, OFFLINE, stored=True, maybe=("devices",))
    nothing_heard(1, here)


@pytest.mark.parametrize("what", ["tasks", "subtasks"])
@pytest.mark.parametrize(
    ("behaviour", "ecodes"),
    [
        (refuse(99, "busy"), {REFUSED}),
        (silent(), {SILENT}),
        (silent(takes=True), {SILENT}),
        (drop_connection(takes=True), {OFFLINE, SILENT}),
    ],
    ids=["refused", "silent", "silent, done", "lost"],
)
def test_delete_that_fails_leaves_everything_as_it_was(
    world: World, what: str, behaviour: Any, ecodes: set[int]
) -> None:
    good, bad = world.device(), world.device()
    if what == "tasks":
        task_id = world.pic_task(good, bad)
        keys: list[tuple[Device, str | None]] = [(good, None), (bad, None)]
        request: Json = {"task_id": task_id}
    else:
        task_id = world.video_task()
        keys = [(bad, world.subtask(task_id, bad))]
        request = {"subtask_id": keys[0][1]}
    bad.behave(behaviour, verb="delete", times=1)
    answer = world.operator.call(f"delete {what}", request)
    assert answer["ecode"] in ecodes
    failed(answer, answer["ecode"], stored=True, maybe=("devices",) if what == "tasks" else ("devices", "task_id"))
    if answer["ecode"] == REFUSED:
        entry = next(entry for entry in answer["devices"] if entry["dev_unid"] == bad.dev_unid)
        assert (entry["ecode"], entry["enote"]) == (99, "busy")
    if not bad.connected:
        world.connect(bad)
    for device, subtask_id in keys:
        device.wait_for(lambda device=device, subtask_id=subtask_id: device.holding(task_id, subtask_id))  # type: ignore[misc]
    if answer["ecode"] != REFUSED:  # what the state of the one that refused is, is left open
        world.settled(task_id)
    assert world.has_task(task_id)
    assert len(world.subtasks_of(task_id=task_id)) == (what == "subtasks")


def test_delete_by_force(world: World) -> None:
    here, away, stubborn = (world.device() for _ in range(3))
    task_id = world.pic_task(here, away, stubborn)
    world.disconnect(away)
    stubborn.behave(refuse(), verb="delete")
    answer = world.operator.call("delete tasks", {"task_id": task_id, "force": True})
    assert set(payload(answer)) <= {"task_id", "devices"}
    assert not world.has_task(task_id)
    here.wait_for(lambda: not here.held)
    world.connect(away)
    away.wait_for(lambda: not away.held, what="told when it came back")
    stubborn.wait_heard(1, "delete")
    stubborn.barrier()  # its answer has been read
    world.server.steady()
    world.disconnect(stubborn)
    world.connect(stubborn)
    stubborn.barrier()
    assert len(stubborn.heard("delete")) == 1, "any answer ends the matter"


def test_delete_of_a_subtask_by_force(world: World) -> None:
    device = world.device()
    task_id = world.video_task()
    subtask_id = world.subtask(task_id, device)
    world.disconnect(device)
    ok(world.operator.call("delete subtasks", {"subtask_id": subtask_id, "force": True}))
    assert world.subtasks_of(task_id=task_id) == []
    ok(world.operator.call("delete tasks", {"task_id": task_id}))
    world.connect(device)
    device.wait_for(lambda: not device.held)


def test_delete_of_a_task_without_devices(world: World) -> None:
    task_id = world.pic_task()
    ok(world.operator.call("delete tasks", {"task_id": task_id}))
    failed(world.operator.call("delete tasks", {"task_id": task_id}), 1004040001, task_id, stored=True)
