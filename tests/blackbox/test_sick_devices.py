"""Devices that are sick, over real sockets: two boxes with one identity, and one that dies of a message."""

from __future__ import annotations

from kit import Device, Order, World, eventually, normally

HERE, THERE = "127.0.0.1", "127.0.0.2"


def test_two_boxes_with_one_identity(world: World) -> None:
    """The third time within a minute that one throws the other out, the one that is there stays."""
    first = world.device()
    second = Device(world.http.seen_from(THERE), first.dev_refid, first.dev_key, first.dev_unid)
    second.connect()
    assert first.sockets[-1].wait_closed() == 4001
    first.connect()
    assert second.sockets[-1].wait_closed() == 4001
    second.connect()
    assert second.sockets[-1].wait_closed() == 4002
    eventually(lambda: world.device_item(first).get("duplicate") == THERE, "it is shown as a duplicate")
    item = world.device_item(first)
    assert (item["online"], item["addr"]) == (True, HERE)
    task_id = world.pic_task(first)
    assert first.holding(task_id)
    assert not second.holding(task_id)
    assert world.server.log().count("there are two boxes with the identity") == 1
    second.close()


def dies_of_it(device: Device, order: Order) -> None:
    """Cut the connection at one task, without a word."""
    if order.params.get("name") == "deadly":
        order.socket.drop()
    else:
        normally(device, order)


def test_a_device_that_dies_of_a_message(world: World) -> None:
    """It gets everything else, and that one no more; so it is after a restart of the server."""
    device = world.device(warm=True)
    world.disconnect(device)
    names = ["one", "two", "three", "deadly", "four", "five"]
    tasks = {name: world.pic_task(device, name=name) for name in names}
    device.behave(dies_of_it)
    for _ in range(3):
        device.connect()
        device.wait_for(lambda: not device.connected, what="it has died")
        eventually(lambda: not world.is_online(device), "the server has noticed")
    world.settled(tasks["deadly"], "refused")
    assert len(device.heard(task_id=tasks["deadly"])) == 3
    for killed in (False, True):
        if killed:
            world.restart(kill=True)
        world.connect(device)
        for name in set(names) - {"deadly"}:
            world.settled(tasks[name])
        device.barrier()
        assert len(device.heard(task_id=tasks["deadly"])) == 3
        item = world.device_item(device)
        assert (item["online"], item["pending"], item["refused"]) == (True, 0, 1)
    assert not device.holding(tasks["deadly"])
