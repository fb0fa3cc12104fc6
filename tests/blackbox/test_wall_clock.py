"""The wall clock set by an hour while everything runs: waits, keep-alive and the order of lists do not follow it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import Device, World, combo, eventually, handshake_status, ok, payload, silent
from kit_crash import differences, in_step
from kit_killing import Killing
from kit_people import EXPIRED, Person, refused, tokens_work

HOUR = 3600.0
SILENT = 1005040001
SERVER: dict[str, Any] = {
    "faults": True,
    "device_timeout": 1.0,
    "limits": {"connections_per_address_before_login": 200},
}
BOTH_WAYS = pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["forwards", "back"])


@pytest.fixture(autouse=True)
def set_right(world: World) -> Iterator[None]:
    """The standing clients' tokens are of this hour."""
    for client in (world.admin, world.operator, world.viewer):
        client.close()
    world.log_in()
    yield
    world.server.faults.move_wall_clock(-world.server.faults.wall)


def set_clock(world: World, seconds: float) -> None:
    world.server.faults.move_wall_clock(seconds)
    world.http.request("GET", "/healthz")


@BOTH_WAYS
def test_a_wait_neither_ends_early_nor_hangs(world: World, seconds: float) -> None:
    """A device answers late, but in time; another never."""
    good, mute = world.device(warm=True), world.device(warm=True)
    task_id = world.pic_task(good, algo_comb=combo("a1"))

    def after_the_clock_was_set(device: Device, order: Any) -> None:
        set_clock(world, seconds)
        for _ in range(5):  # what waits by that clock has noticed
            world.http.request("GET", "/healthz")
        device.reply(order, device.carry_out(order))

    good.behave(after_the_clock_was_set, verb="put", times=1)
    configure = {"task_id": task_id, "algo_comb": combo("a2")}
    ok(world.operator.call("post tasks/pic_task_config", configure))
    other = world.pic_task(mute, algo_comb=combo("a1"))
    mute.behave(silent(), verb="put", times=1)
    req_id = world.operator.send("post tasks/pic_task_config", {"task_id": other, "algo_comb": combo("a2")})
    mute.wait_heard(1, "put", other)
    set_clock(world, -seconds)
    assert world.operator.answer(req_id)["ecode"] == SILENT
    for device in (good, mute):
        eventually(lambda device=device: in_step(world, device), "it is in step", 45)  # type: ignore[misc]
        assert differences(world, device) == []


@BOTH_WAYS
def test_nobody_is_thrown_out(world: World, seconds: float) -> None:
    devices = [world.device(warm=True) for _ in range(10)]
    clients = [world.client("operator") for _ in range(3)]
    since = [world.device_item(device)["since"] for device in devices]
    set_clock(world, seconds)
    for device in devices:
        device.barrier()
    assert all(client.works() for client in clients)
    assert [world.device_item(device)["since"] for device in devices] == since


@BOTH_WAYS
def test_the_order_of_lists_is_that_of_what_was_done(world: World, seconds: float) -> None:
    """Whatever the stamps say."""
    made = [ok(world.operator.call("post tasks", {"name": "n", "task_type": "video"})) for _ in range(3)]
    set_clock(world, seconds)
    made += [ok(world.operator.call("post tasks", {"name": "n", "task_type": "video"})) for _ in range(3)]
    items = payload(world.admin.call("get commands", {"limit": 6}))["commands"]
    assert [item["command_id"] for item in items] == [answer["command_id"] for answer in reversed(made)]
    assert all(item["duration"] >= 0 for item in items)
    tasks = [task["task_id"] for task in world.every("tasks")]
    assert tasks[-6:] == [answer["task_id"] for answer in made]


def test_tokens_and_tickets_follow_the_clock(world: World) -> None:
    """An hour ahead, those of before have expired, and a login gives new ones; set back, they are good again."""
    person = Person(world)
    login = person.login()
    client = person.client(login)
    ticket = world.http.ws_url(login["user_unid"], login["atoken"])
    set_clock(world, HOUR + 60)
    refused(world.http.ask_ws_url(login["user_unid"], login["atoken"]), EXPIRED)
    assert handshake_status(ticket) == 401
    assert client.works()
    ahead = person.login()
    assert tokens_work(world, ahead)
    set_clock(world, -HOUR - 60)
    assert tokens_work(world, login)
    assert tokens_work(world, ahead)
    assert handshake_status(ticket) == 101
    assert client.works()


@pytest.mark.timeout(300, method="signal")
def test_under_load(world: World, tmp_path: Path) -> None:
    """To and fro while everything is being changed, and a kill in between."""
    with Killing(world, tmp_path, "clock", workers=3) as killing:
        for number in range(6):
            killing.pause_a_device(0.3)
            set_clock(world, HOUR if number % 2 else -HOUR)
            if number == 3:
                killing.kill_at_random()
        problems = killing.judge()
        print(killing.report())
    assert not problems, "\n".join(problems)
