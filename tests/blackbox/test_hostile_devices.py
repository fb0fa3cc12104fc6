"""Devices that say what they should not, and more requests at once than are allowed."""

from __future__ import annotations

import json

import pytest
from kit import World, combo, failed, full_command, hold, ok

SERVER = {"device_timeout": 3.0}
NOT_JSON, NOT_ALLOWED, CANNOT_RUN, TOO_MANY = 1004000001, 1004030001, 1004090005, 1004290001
OFFLINE, SILENT = 1005030001, 1005040001


@pytest.mark.parametrize(
    "message", ["x", "[]", "null", '{"command": "get /x", "a": NaN}', pytest.param("[" * 100_000, id="deep")]
)
def test_nonsense_is_answered_and_the_connection_stays(world: World, message: str) -> None:
    device = world.device()
    device.send(device.sockets[-1], message)
    device.wait_for(lambda: len(device.answers) == 1)
    assert device.answers[0]["ecode"] == NOT_JSON
    device.barrier()


def test_binary_frame(world: World) -> None:
    device = world.device()
    device.send(device.sockets[-1], b"{}")
    assert device.sockets[-1].wait_closed() == 1003


def test_message_too_large(world: World) -> None:
    """A device may send 256 KiB; more ends its connection, and it may come back."""
    device = world.device()
    device.send(device.sockets[-1], json.dumps({"req_id": "x", "ecode": 0, "enote": "y" * 300_000}))
    assert device.sockets[-1].wait_closed() == 1009
    world.connect(device)
    device.barrier()


@pytest.mark.parametrize(
    "message",
    [
        {"req_id": "never asked", "ecode": 0},
        {"req_id": 5, "ecode": 0},
        {"ecode": "zero", "enote": 5},
        {"enote": "ok"},
        {},
        {"req_id": "never asked", "ecode": 10**30},
    ],
)
def test_answers_that_nobody_asked_for(world: World, message: dict[str, object]) -> None:
    """They are dropped, or answered as the requests that they are not; the device is served on."""
    device = world.device(warm=True)
    with world.server.unchanged():
        device.send(device.sockets[-1], message)
        device.barrier()
    assert world.is_online(device)


@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
def test_commands_that_are_not_for_devices(world: World, method: str) -> None:
    device = world.device()
    with world.server.unchanged():
        for resource in ("tasks", "store_confs", "devices", "subtasks"):
            if (method, resource) != ("get", "tasks"):
                assert device.request(full_command(f"{method} {resource}"))["ecode"] == NOT_ALLOWED


def test_more_in_flight_than_allowed(world: World) -> None:
    """Beyond 256 in flight on one connection each is refused; every one is answered, and exactly once."""
    device = world.device()
    device.behave(hold)
    client = world.client("admin")
    params = {"dev_unid": device.dev_unid, "command": "get /x", "timeout": 3}
    sent = [client.send("post devices/call", params) for _ in range(300)]
    codes = [client.answer(req_id, 60)["ecode"] for req_id in sent]
    assert codes.count(TOO_MANY) >= 300 - 256
    assert set(codes) <= {0, TOO_MANY, OFFLINE, SILENT}
    assert client.works()
    assert not client.inbox


def test_more_waiting_for_a_lock_than_allowed(world: World) -> None:
    """While one command holds a task, 32 wait for it and the others are refused."""
    device = world.device(algos=["a1"])
    task_id = world.pic_task(device)
    device.behave(hold, verb="put", times=1)
    client = world.client("operator")
    wanted = {"task_id": task_id, "algo_comb": combo("a1", speed=2)}
    first = client.send("post tasks/pic_task_config", wanted)
    device.wait_heard(1, "put")
    # What these want the device cannot run: they cost no time once they have the lock.
    refused = {"task_id": task_id, "algo_comb": combo("a9")}
    sent = [client.send("post tasks/pic_task_config", refused) for _ in range(40)]
    at_once = [client.take(lambda m: isinstance(m, dict) and m["ecode"] == TOO_MANY) for _ in range(8)]
    device.release()
    ok(client.answer(first))
    early = {answer["req_id"] for answer in at_once if isinstance(answer, dict)}
    for req_id in sent:
        if req_id not in early:
            failed(client.answer(req_id), CANNOT_RUN, stored=True, maybe=("devices",))
    assert not client.inbox
