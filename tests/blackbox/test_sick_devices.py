"""Devices that are sick, over real sockets: two boxes with one identity."""

from __future__ import annotations

from kit import Device, World, eventually

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
    eventually(lambda: world.device_item(first)["duplicate"] == THERE, "it is shown as a duplicate")
    item = world.device_item(first)
    assert (item["online"], item["addr"]) == (True, HERE)
    task_id = world.pic_task(first)
    assert first.holding(task_id)
    assert not second.holding(task_id)
    assert world.server.log().count("there are two boxes with the identity") == 1
    second.close()
