"""Processes that are stopped (SIGSTOP) for longer than all timeouts, and go on: nothing is lost but what really was.

While the server is stopped all its clocks are moved by minutes: for the process that is the same as a long stop.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit import Device, World, combo, eventually, ok
from kit_crash import differences, in_step, unsettled
from kit_killing import Killing

SERVER: dict[str, Any] = {
    "faults": True,
    "device_timeout": 1.0,
    "limits": {"connections_per_address_before_login": 200},
}
OFFLINE, SILENT = 1005030001, 1005040001
MINUTES = 600.0


@contextmanager
def stopped(world: World, seconds: float) -> Iterator[None]:
    """The server sleeps for so long, as far as it can tell."""
    world.server.signal(signal.SIGSTOP)
    try:
        yield
        world.server.faults.move_all_clocks(seconds)
    finally:
        world.server.signal(signal.SIGCONT)


def all_in_step(world: World, devices: list[Device]) -> None:
    for device in devices:
        eventually(lambda device=device: in_step(world, device), "it is in step", 45)  # type: ignore[misc]
        assert differences(world, device) == []
    assert unsettled(world) == []


@pytest.mark.parametrize("seconds", [5.0, MINUTES])
def test_nobody_is_thrown_out(world: World, seconds: float) -> None:
    """Peers that had nothing to say are still there: none is taken for lost because the server did not listen."""
    devices = [world.device(warm=True) for _ in range(20)]
    clients = [world.client("operator") for _ in range(5)]
    since = [world.device_item(device)["since"] for device in devices]
    with stopped(world, seconds):
        pass
    assert all(client.works() for client in clients)
    for device in devices:
        device.barrier()
    assert [world.device_item(device)["since"] for device in devices] == since
    # Its questions whether they live have been answered by now.
    assert all(device.connected for device in devices)
    ok(world.operator.call("put tasks", {"task_id": world.pic_task(*devices), "name": "after"}))
    all_in_step(world, devices)


def test_requests_are_answered_once_each(world: World) -> None:
    """Those on their way to devices, and those that were sent while nobody listened."""
    devices = [world.device(warm=True) for _ in range(3)]
    task_id = world.pic_task(*devices, algo_comb=combo("a1"))
    taken = threading.Event()

    def slow(device: Device, order: Any) -> None:
        taken.set()
        device.reply(order, device.carry_out(order))

    devices[0].behave(slow, verb="put", times=1)
    client = world.client("operator")
    before = client.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    assert taken.wait(20)
    with stopped(world, MINUTES):
        during = [client.send("put tasks", {"task_id": task_id, "name": f"name {number}"}) for number in range(5)]
        listed = [client.send("get tasks", {"task_id": task_id}) for _ in range(5)]
    answer = client.answer(before)
    assert answer["ecode"] in (0, SILENT)
    for req_id in during:
        assert client.answer(req_id)["ecode"] == 0
    for req_id in listed:
        assert [task["task_id"] for task in ok(client.answer(req_id))["tasks"]] == [task_id]
    assert client.works()
    assert client.inbox == []
    told = combo("a2" if answer["ecode"] == 0 else "a1")
    assert world.task(task_id)["algo_comb"] == told
    all_in_step(world, devices)


def test_a_connection_that_was_replaced_meanwhile_changes_nothing(world: World) -> None:
    """I6: the answer of the older connection has waited in the socket for longer than its order could."""
    device = world.device(warm=True)
    task_id = world.pic_task(device, algo_comb=combo("a1"))
    held: list[Any] = []
    device.behave(lambda _device, order: held.append(order), verb="put", times=1)
    req_id = world.operator.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    device.wait_heard(1, "put", task_id)
    device.connect(keep_old=True)
    with stopped(world, 5.0):
        device.reply(held[0], {"ecode": 0, "enote": "ok"})  # it has not taken it
    # Offline, if the newer connection had not been taken in yet when the time was over.
    assert world.operator.answer(req_id)["ecode"] in (0, SILENT, OFFLINE)
    all_in_step(world, [device])


@pytest.mark.timeout(300, method="signal")
def test_under_load_and_devices_too(world: World, tmp_path: Path) -> None:
    """Whoever is stopped, and while whatever is being changed: one answer each, and all in step at the end."""
    with Killing(world, tmp_path, "paused", workers=3) as killing:
        for _ in range(4):
            killing.pause_a_device(1.5)
            with stopped(world, killing.random.choice((2.0, MINUTES))):
                killing.pause_a_device(0.1)
            killing.pause_a_device(0.2)
        problems = killing.judge()
        print(killing.report())
        assert killing.counts["unanswered when the server died"] == 0
    assert not problems, "\n".join(problems)
