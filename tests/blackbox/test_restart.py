"""The server stopped or killed in the middle: what it had planned is settled before it listens again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit import Device, Json, World, algos, combo, hold, ok, silent

OLD, NEW = combo("a1", speed=1), combo("a2", speed=2)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server of its own for each test; it waits long, so that it is killed before it gives up."""
    world = World(tmp_path_factory.mktemp("server"), device_timeout=30.0)
    try:
        yield world
    finally:
        world.close()


def runs(device: Device, task_id: str, algo_comb: list[Json]) -> bool:
    task = device.holding(task_id)
    return task is not None and algos(task["algo_comb"]) == algo_comb


def test_stopped(world: World) -> None:
    """Everybody is told 1001; tasks and devices are there afterwards and nothing is sent twice."""
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    before = world.task(task_id)
    client = world.client("operator")
    channel = device.sockets[-1]
    assert world.server.stop() in (0, -15)  # twistd ends itself by the signal it was stopped with
    assert client.wait_closed() == 1001
    assert channel.wait_closed() == 1001
    world.restart()
    assert world.task(task_id) == before
    world.connect(device)
    device.barrier()
    assert len(device.orders) == 1


def test_killed_while_it_configures(world: World) -> None:
    """As if the devices had been silent: the old configuration, brought back to who may have the new one."""
    good, mute = world.device(), world.device()
    task_id = world.pic_task(good, mute, algo_comb=OLD)
    mute.behave(silent(takes=True), verb="put", times=1)
    world.operator.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW})
    for device in (good, mute):
        device.wait_for(lambda device=device: runs(device, task_id, NEW))  # type: ignore[misc]
    world.restart(kill=True)
    assert algos(world.task(task_id)["algo_comb"]) == OLD
    (last,) = ok(world.operator.call("get commands", {"task_id": task_id, "limit": 1}))["commands"]
    assert (last["outcome"], last["ecode"]) == ("failed", 1005040001)
    for device in (good, mute):
        world.connect(device)
        device.wait_for(lambda device=device: runs(device, task_id, OLD))  # type: ignore[misc]
    world.settled(task_id)


def test_killed_while_it_deletes(world: World) -> None:
    good, mute = world.device(), world.device()
    task_id = world.pic_task(good, mute)
    mute.behave(silent(), verb="delete", times=1)
    world.operator.send("delete tasks", {"task_id": task_id})
    good.wait_for(lambda: not good.held)
    mute.wait_heard(1, "delete")
    world.restart(kill=True)
    assert world.has_task(task_id)
    for device in (good, mute):
        world.connect(device)
        device.wait_for(lambda device=device: (task_id, None) in device.held)  # type: ignore[misc]
    world.settled(task_id)


def test_killed_while_it_adds_a_subtask(world: World) -> None:
    """It is kept, pending, and goes down when the device is back."""
    device = world.device(warm=True)
    task_id = world.video_task()
    device.behave(silent(), verb="post", times=1)
    world.operator.send("post subtasks", {"task_id": task_id, "dev_unid": device.dev_unid})
    device.wait_heard(1, "post", task_id)
    world.restart(kill=True)
    (item,) = world.subtasks_of(task_id=task_id)
    assert item["state"] == "pending"
    world.connect(device)
    device.wait_for(lambda: (task_id, item["subtask_id"]) in device.held)
    world.settled(task_id)


def test_killed_while_it_replaces_a_storage_configuration(world: World) -> None:
    unid = world.store_conf(b"<one/>")
    device = world.device()
    task_id = world.pic_task(device, store_conf_unid=unid)
    device.behave(hold, verb="put", times=1)
    world.operator.send("put store_confs", {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "AA=="})
    device.wait_heard(1, "put")
    world.restart(kill=True)
    assert world.conf(unid, content=True)["file_b64"] == "AA=="
    world.connect(device)
    world.settled(task_id)
    task = device.holding(task_id)
    assert task is not None
    assert task["store_conf"]["file_b64"] == "AA=="


def test_killed_after_a_delete_by_force(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device)
    world.disconnect(device)
    ok(world.operator.call("delete tasks", {"task_id": task_id, "force": True}))
    world.restart(kill=True)
    assert not world.has_task(task_id)
    world.connect(device)
    device.wait_for(lambda: not device.held)
