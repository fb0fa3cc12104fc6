"""Configuring a picture task (§20.2): all devices take the new algorithms, or none keeps them."""

from __future__ import annotations

import pytest
from kit import (
    Behaviour,
    Client,
    Device,
    Json,
    World,
    algos,
    combo,
    drop_connection,
    failed,
    hold,
    normally,
    ok,
    payload,
    refuse,
    silent,
    states,
)

SERVER = {"device_timeout": 1.5}
NO_TASK, WRONG_KIND, CANNOT_RUN = 1004040001, 1004090002, 1004090005
REFUSED, OFFLINE, SILENT = 1005020001, 1005030001, 1005040001
CONFIRMED = ("confirmed", 0)
CONFIGURE = "post tasks/pic_task_config"
OLD, NEW = combo("a1", speed=1), combo("a2", "a3", speed=2)


def runs(device: Device, task_id: str, algo_comb: list[Json]) -> bool:
    task = device.holding(task_id)
    return task is not None and algos(task["algo_comb"]) == algo_comb


def comes_to_run(device: Device, task_id: str, algo_comb: list[Json]) -> None:
    device.wait_for(lambda: runs(device, task_id, algo_comb), what=f"it runs {algo_comb}")


def stored(world: World, task_id: str) -> list[Json]:
    return algos(world.task(task_id)["algo_comb"])


def configure(client: Client, task_id: str, **more: object) -> str:
    return client.send(CONFIGURE, {"task_id": task_id, "algo_comb": NEW} | more)


def test_all_devices_take_it(world: World) -> None:
    devices = [world.device() for _ in range(3)]
    task_id = world.pic_task(*devices, algo_comb=OLD)
    before = world.task(task_id)
    answer = world.operator.call(CONFIGURE, {"task_id": task_id, "algo_comb": NEW}, src_page="xxxx")
    told = payload(answer)
    assert set(told) == {"task_id", "rev", "algo_comb", "devices"}
    assert told["task_id"] == task_id
    assert algos(told["algo_comb"]) == NEW
    assert states(answer) == {device.dev_unid: CONFIRMED for device in devices}
    for device in devices:
        (order,) = device.heard("put")
        assert set(order.params) == {"task_id", "rev", "algo_comb"}, "only what changed goes down"
        assert order.rev == told["rev"]
        assert runs(device, task_id, NEW)
    after = world.task(task_id)
    assert after["rev"] == told["rev"] > before["rev"]
    assert algos(after["algo_comb"]) == NEW
    same = {"name", "store_conf_unid", "dev_unids", "state", "task_type", "created_at", "subtask_count"}
    assert {k: after[k] for k in same} == {k: before[k] for k in same}


def test_defaults_of_an_algorithm(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    ok(world.operator.call(CONFIGURE, {"task_id": task_id, "algo_comb": [{"algo_id": "a7"}]}))
    assert stored(world, task_id) == combo("a7")
    assert runs(device, task_id, combo("a7"))


def test_a_task_without_devices(world: World) -> None:
    task_id = world.pic_task(algo_comb=OLD)
    answer = ok(world.operator.call(CONFIGURE, {"task_id": task_id, "algo_comb": NEW}))
    assert answer["devices"] == []
    assert stored(world, task_id) == NEW


def test_not_for_video_tasks(world: World) -> None:
    device = world.device()
    task_id = world.video_task()
    world.subtask(task_id, device)
    with world.server.unchanged():
        failed(world.operator.answer(configure(world.operator, task_id)), WRONG_KIND, stored=True)
    device.barrier()
    assert len(device.orders) == 1


@pytest.mark.parametrize("force", [False, True])
def test_an_algorithm_that_one_device_lacks(world: World, force: bool) -> None:
    able, unable = world.device(), world.device(algos=["a1", "a2"])
    task_id = world.pic_task(able, unable, algo_comb=OLD)
    with world.server.unchanged():
        answer = world.operator.answer(configure(world.operator, task_id, force=force))
        failed(answer, CANNOT_RUN, stored=True, maybe=("devices",))
    for device in (able, unable):
        device.barrier()
        assert not device.heard("put")


def test_one_offline_and_no_device_hears_of_it(world: World) -> None:
    here, also_here, away = (world.device() for _ in range(3))
    task_id = world.pic_task(here, also_here, away, algo_comb=OLD)
    world.disconnect(away)
    with world.server.unchanged():
        answer = world.operator.answer(configure(world.operator, task_id))
        failed(answer, OFFLINE, stored=True, maybe=("devices",))
    for device in (here, also_here):
        device.barrier()
        assert not device.heard("put")
    world.connect(away)
    away.barrier()
    assert not away.heard("put")
    ok(world.operator.answer(configure(world.operator, task_id)))
    assert all(runs(device, task_id, NEW) for device in (here, also_here, away))


def test_one_of_three_refuses(world: World) -> None:
    good, bad, fine = (world.device() for _ in range(3))
    task_id = world.pic_task(good, bad, fine, algo_comb=OLD)
    bad.behave(refuse(4711, "too warm"), verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id))
    failed(answer, REFUSED, stored=True, maybe=("devices", "rev", "algo_comb"))
    entry = next(entry for entry in answer["devices"] if entry["dev_unid"] == bad.dev_unid)
    assert entry == {"dev_unid": bad.dev_unid, "state": "refused", "ecode": 4711, "enote": "too warm"}
    assert stored(world, task_id) == OLD
    for device in (good, fine):
        comes_to_run(device, task_id, OLD)
        orders = device.heard("put")
        assert algos(orders[0].params["algo_comb"]) == NEW
        assert orders[-1].rev > orders[0].rev, "brought back by an order with a new rev"
    assert runs(bad, task_id, OLD)


@pytest.mark.parametrize("takes", [False, True])
def test_one_is_silent(world: World, takes: bool) -> None:
    good, bad = world.device(), world.device()
    task_id = world.pic_task(good, bad, algo_comb=OLD)
    bad.behave(silent(takes=takes), verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id))
    failed(answer, SILENT, stored=True, maybe=("devices", "rev", "algo_comb"))
    entry = next(entry for entry in answer["devices"] if entry["dev_unid"] == bad.dev_unid)
    assert (entry["state"], entry["ecode"]) == ("pending", SILENT)
    assert stored(world, task_id) == OLD
    for device in (good, bad):
        comes_to_run(device, task_id, OLD)
    world.settled(task_id)


def test_one_is_lost_after_taking_it(world: World) -> None:
    good, bad = world.device(), world.device()
    task_id = world.pic_task(good, bad, algo_comb=OLD)
    bad.behave(drop_connection(takes=True), verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id))
    assert answer["ecode"] in (OFFLINE, SILENT)
    failed(answer, answer["ecode"], stored=True, maybe=("devices", "rev", "algo_comb"))
    assert stored(world, task_id) == OLD
    comes_to_run(good, task_id, OLD)
    assert runs(bad, task_id, NEW)
    world.connect(bad)
    comes_to_run(bad, task_id, OLD)
    world.settled(task_id)


@pytest.mark.parametrize(
    ("first", "second", "ecode"),
    [(refuse(), silent(), REFUSED), (silent(), drop_connection(), SILENT), (refuse(), drop_connection(), REFUSED)],
    ids=["refused before silent", "silent before lost", "refused before lost"],
)
def test_several_kinds_of_failure(world: World, first: Behaviour, second: Behaviour, ecode: int) -> None:
    devices = [world.device(), world.device()]
    task_id = world.pic_task(*devices, algo_comb=OLD)
    devices[1].behave(first, verb="put", times=1)
    devices[0].behave(second, verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id))
    failed(answer, ecode, stored=True, maybe=("devices", "rev", "algo_comb"))
    assert stored(world, task_id) == OLD


@pytest.mark.parametrize(
    ("behaviour", "allowed"),
    [
        (refuse(9, "no"), {("refused", 9)}),
        (silent(), {("pending", SILENT)}),
        (drop_connection(), {("pending", OFFLINE), ("pending", SILENT)}),
        (None, {("pending", OFFLINE)}),
    ],
    ids=["refused", "silent", "lost", "offline"],
)
def test_force_stores_it_whatever_happens(
    world: World, behaviour: Behaviour | None, allowed: set[tuple[str, int]]
) -> None:
    """`None` is a device that is offline from the start."""
    good, bad = world.device(), world.device()
    task_id = world.pic_task(good, bad, algo_comb=OLD)
    if behaviour is None:
        world.disconnect(bad)
    else:
        bad.behave(behaviour, verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id, force=True))
    told = payload(answer)
    assert set(told) == {"task_id", "rev", "algo_comb", "devices"}
    assert states(answer)[good.dev_unid] == CONFIRMED
    assert states(answer)[bad.dev_unid] in allowed
    assert stored(world, task_id) == NEW
    assert runs(good, task_id, NEW)
    if bad.connected:
        world.disconnect(bad)
    world.connect(bad)  # what it did not take it is sent anew when it connects
    comes_to_run(bad, task_id, NEW)
    world.settled(task_id)


def test_a_device_that_lost_the_task_gets_it_whole(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD, name="whole")
    device.wipe()
    answer = ok(world.operator.answer(configure(world.operator, task_id)))
    assert states(answer) == {device.dev_unid: CONFIRMED}
    assert [order.verb for order in device.heard()] == ["post", "put", "post"]
    task = device.holding(task_id)
    assert task is not None
    assert (task["name"], task["task_type"]) == ("whole", "pic")
    assert runs(device, task_id, NEW)


def test_a_device_with_a_newer_rev(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    with device.changed:
        newer = device.revs[task_id, None] + 100
        device.revs[task_id, None] = newer
    answer = ok(world.operator.answer(configure(world.operator, task_id)))
    orders = device.heard("put")
    assert len(orders) == 2
    assert orders[1].rev > newer
    assert runs(device, task_id, NEW)
    # Whether this answer tells the rev that was planned or the raised one is left open; the task's is the latter.
    assert answer["rev"] <= world.task(task_id)["rev"]
    assert world.task(task_id)["rev"] > newer


def test_a_late_answer_changes_nothing_of_what_was_told(world: World) -> None:
    good, slow = world.device(), world.device()
    task_id = world.pic_task(good, slow, algo_comb=OLD)
    slow.behave(hold, verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id))
    failed(answer, SILENT, stored=True, maybe=("devices", "rev", "algo_comb"))
    slow.release()
    for device in (good, slow):
        comes_to_run(device, task_id, OLD)
    world.settled(task_id)
    slow.barrier()
    assert stored(world, task_id) == OLD
    assert runs(slow, task_id, OLD)


def test_what_waits_for_the_same_task_comes_in_its_turn(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(hold, verb="put", times=1)
    first = configure(world.operator, task_id)
    device.wait_heard(1, "put")
    second = world.operator.send(CONFIGURE, {"task_id": task_id, "algo_comb": combo("a9")})
    third = world.operator.send("delete tasks", {"task_id": task_id})
    device.barrier()
    assert len(device.heard()) == 2, "one at a time"
    device.release()
    ok(world.operator.answer(first))
    ok(world.operator.answer(second))
    ok(world.operator.answer(third))
    assert [order.verb for order in device.heard()] == ["post", "put", "put", "delete"]


def test_same_configuration_again(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=NEW)
    device.behave(normally)
    ok(world.operator.answer(configure(world.operator, task_id)))
    assert runs(device, task_id, NEW)
    assert stored(world, task_id) == NEW
