"""Who does not read (protocol §4, §7): events are dropped and counted; unread answers and orders cut a peer off.

What a system's own buffers take nobody counts. So a peer is sent more than they hold first, and then what is tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from kit import RawSocket, World, b64, eventually, full_command, ok, raw_socket

UNREAD_BYTES, UNREAD_MESSAGES = 8_000_000, 40
SERVER: dict[str, Any] = {
    "device_timeout": 5.0,
    "limits": {"unread_bytes": UNREAD_BYTES, "unread_messages": UNREAD_MESSAGES, "outstanding_per_device": 16},
}
FILL = 5  # answers of 1.4 MB each: more than a system buffers for one connection, and less than the server may
ROOM = 4096


@pytest.fixture(scope="module")
def large(world: World) -> str:
    """A storage configuration of 1 MiB."""
    return world.store_conf(b"\x00" * 1_048_576, file_ext="bin")


@pytest.fixture
def slow(world: World) -> Iterator[RawSocket]:
    with raw_socket(world.http, world.admin.atoken, room=ROOM) as raw:
        yield raw


def ask(raw: RawSocket, command: str, req_id: str, **params: Any) -> None:
    message = {"command": full_command(command), "req_id": req_id, "params": params}
    raw.send(RawSocket.frame(json.dumps(message).encode()))


def messages(raw: RawSocket) -> Iterator[dict[str, Any]]:
    """What comes until the connection is closed."""
    for opcode, payload in raw.frames():
        if opcode == 8:
            return
        if opcode == 1:
            yield json.loads(payload)


def fill(world: World, raw: RawSocket, unid: str, count: int = FILL) -> None:
    """Let it ask for so many large answers: lists, of which the next is sent when the one before has been read."""
    for number in range(count):
        ask(raw, "get store_confs", f"fill-{number}", unid=unid, content=True)
    for _ in range(3):
        world.operator.call("get tasks", {"limit": 1})  # by then the server has read and answered the others


def rename(world: World, dev_unid: str, count: int) -> None:
    """So many events."""
    sent = [
        world.admin.send("put devices", {"dev_unid": dev_unid, "dev_name": f"name {number}"}) for number in range(count)
    ]
    for req_id in sent:
        ok(world.admin.answer(req_id))


def test_events_are_dropped_and_counted(world: World, slow: RawSocket, large: str) -> None:
    """It is not cut off, and not fed without bound; the gap tells how many it missed, and then it hears on."""
    device = world.device(connect=False)
    reader = world.client("viewer")
    ok(reader.call("post subscriptions", {"topics": ["devices"]}))
    ask(slow, "post subscriptions", "subscribe", topics=["devices"])
    heard = messages(slow)
    assert next(heard)["req_id"] == "subscribe"
    fill(world, slow, large)
    rename(world, device.dev_unid, 100)
    assert len([next(heard) for _ in range(FILL)]) == FILL
    ask(slow, "get tasks", "still there", limit=1)
    kept: list[int] = []
    for event in heard:
        if event.get("req_id") == "still there":
            break
        kept.append(event["seq"])
    assert kept == sorted(set(kept))
    assert len(kept) <= UNREAD_MESSAGES
    rename(world, device.dev_unid, 2)
    assert [next(heard)["seq"] for _ in range(2)] == [101, 102]
    ok(reader.call("get tasks"))
    numbers = [message["seq"] for message in reader.inbox if isinstance(message, dict)]
    assert numbers == list(range(1, 103)), "who reads misses nothing"


def answers(raw: RawSocket) -> list[str]:
    """The `req_id`s of all answers until the connection ended."""
    return [message["req_id"] for message in messages(raw)]


def test_too_many_answers_unread(world: World, slow: RawSocket, large: str) -> None:
    """The connection is cut off; nobody else's is."""
    fill(world, slow, large)
    for number in range(UNREAD_MESSAGES + 20):
        ask(slow, "post subscriptions", f"small-{number}", topics=["devices"])
    for _ in range(3):
        assert world.operator.works()
    assert f"small-{UNREAD_MESSAGES + 19}" not in answers(slow)
    assert world.client("admin").works()


def test_too_many_bytes_unread(world: World, slow: RawSocket, large: str) -> None:
    count = 15
    fill(world, slow, large)
    task_id = world.pic_task()
    with suppress(OSError):  # it may be cut off before it has asked for all
        for number in range(count):
            algo_comb = [{"algo_id": "x", "params": {"text": "x" * 1_300_000}}]  # which comes back
            ask(slow, "post tasks/pic_task_config", f"large-{number}", task_id=task_id, algo_comb=algo_comb)
    for number in range(count):  # each waits for its turn behind them: it reads only when all have been answered
        algo_comb = [{"algo_id": "x", "params": {"number": number}}]
        ok(world.operator.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": algo_comb}))
    assert f"large-{count - 1}" not in answers(slow)
    assert world.operator.works()


def test_lists_come_as_they_are_read(world: World, slow: RawSocket, large: str) -> None:
    """However many are asked for at once: those that could not be sent are not kept, but made when they are read."""
    count = 15
    fill(world, slow, large, count)
    heard = messages(slow)
    assert [next(heard)["req_id"] for _ in range(count)] == [f"fill-{number}" for number in range(count)]
    assert world.operator.works()


def test_a_reader_gets_as_much_as_it_likes(world: World, large: str) -> None:
    """The same, read: nothing is cut off."""
    client = world.client("operator")
    for _ in range(3):
        sent = [client.send("get store_confs", {"unid": large, "content": True}) for _ in range(4)]
        for req_id in sent:
            ok(client.answer(req_id))
    sent = [client.send("get tasks", {"limit": 1}) for _ in range(3 * UNREAD_MESSAGES)]
    for req_id in sent:
        ok(client.answer(req_id))


def test_a_device_that_does_not_read(world: World) -> None:
    """It is not fed without bound, who waits for it is told in time, and a new connection of it works."""
    device, other = world.device(warm=True), world.device()
    world.disconnect(device)
    count = 12
    with raw_socket(world.http, device.atoken, room=ROOM) as raw:
        eventually(lambda: world.is_online(device), "it is online")
        call = {"dev_unid": device.dev_unid, "command": "get /x", "params": {"large": "x" * 1_400_000}, "timeout": 1}
        sent = [world.admin.send("post devices/call", call) for _ in range(count)]
        task_id = world.pic_task(other)
        assert world.task(task_id)["state"] == "confirmed"
        codes = {world.admin.answer(req_id)["ecode"] for req_id in sent}
        assert codes <= {1005030001, 1005040001}
        world.connect(device)
        assert len(list(messages(raw))) < count
    assert device.holding(world.pic_task(device))


def test_what_a_slow_client_asked_for_is_done(world: World, slow: RawSocket, large: str) -> None:
    """A client that goes away cancels nothing that is planned."""
    fill(world, slow, large)
    name = b64(b"by a slow client")
    ask(slow, "post tasks", "made", name=name, task_type="video")
    fill(world, slow, large, 15)
    eventually(
        lambda: name in [task["name"] for task in ok(world.operator.call("get tasks", {"limit": 1000}))["tasks"]],
        "it is stored",
    )
