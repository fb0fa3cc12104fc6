"""Devices that answer oddly, vanish and return, ask for themselves, and the commands about devices."""

from __future__ import annotations

from typing import Any

import pytest
from kit import (
    Client,
    Device,
    Json,
    Order,
    World,
    algos,
    combo,
    drop_connection,
    eventually,
    failed,
    for_another,
    garbage,
    hold,
    late,
    ok,
    on_old_connection,
    refuse,
    reply_with,
    silent,
    states,
    twice,
    unknown,
)

SERVER = {"device_timeout": 3.0}
REFUSED, OFFLINE, SILENT = 1005020001, 1005030001, 1005040001
CONFIRMED = ("confirmed", 0)
OLD, NEW = combo("a1", speed=1), combo("a2", speed=2)


def configure(client: Client, task_id: str, **envelope: Any) -> str:
    return client.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW}, **envelope)


def configured(world: World, task_id: str) -> bool:
    return algos(world.task(task_id)["algo_comb"]) == NEW


def runs(device: Device, task_id: str, algo_comb: list[Json]) -> bool:
    task = device.holding(task_id)
    return task is not None and algos(task["algo_comb"]) == algo_comb


# -- odd answers


def test_answers_twice(world: World) -> None:
    device, other = world.device(), world.device()
    device.behave(twice)
    task_id = world.pic_task(device, other, algo_comb=OLD)
    other.behave(hold, verb="put", times=1)
    sent = configure(world.operator, task_id)
    device.wait_heard(1, "put")
    device.barrier()
    other.wait_heard(1, "put")
    assert not configured(world, task_id), "two answers of one device are not the answers of two"
    other.release()
    assert states(ok(world.operator.answer(sent))) == dict.fromkeys((device.dev_unid, other.dev_unid), CONFIRMED)
    assert len(device.heard()) == 2


def test_answers_twice_and_differently(world: World) -> None:
    """The first counts."""
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)

    def two_minds(device: Device, order: Order) -> None:
        device.reply(order, device.carry_out(order))
        device.reply(order, {"ecode": 66, "enote": "on second thoughts"})

    device.behave(two_minds, verb="put", times=1)
    ok(world.operator.answer(configure(world.operator, task_id)))
    device.barrier()
    assert world.task(task_id)["state"] == "confirmed"


def test_answers_within_the_wait(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(late(0.5), verb="put", times=1)
    ok(world.operator.answer(configure(world.operator, task_id)))
    assert len(device.heard("put")) == 1


def test_an_answer_without_ecode_is_a_yes(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(reply_with(lambda order: {"req_id": order.req_id}), verb="put", times=1)
    ok(world.operator.answer(configure(world.operator, task_id)))
    assert configured(world, task_id)


@pytest.mark.parametrize("ecode", ["0", None, False, [], 0.5, 1e300])
def test_an_ecode_that_is_no_integer_is_no_yes(world: World, ecode: object) -> None:
    """A refusal or no answer at all; the contract leaves it open which."""
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    make = reply_with(lambda order: {"req_id": order.req_id, "ecode": ecode, "enote": "?"}, takes=False)
    device.behave(make, verb="put", times=1)
    assert world.operator.answer(configure(world.operator, task_id))["ecode"] in (REFUSED, OFFLINE, SILENT)
    assert not configured(world, task_id)


@pytest.mark.parametrize(
    "data", ["no json", "[1, 2]", "null", '{"ecode": NaN}', b"\x00\x01", pytest.param("[" * 200_000, id="deep")]
)
def test_garbage(world: World, data: str | bytes) -> None:
    device, other = world.device(), world.device()
    task_id = world.pic_task(device, other, algo_comb=OLD)
    device.behave(garbage(data), verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id))
    assert answer["ecode"] in (OFFLINE, SILENT)
    failed(answer, answer["ecode"], stored=True, maybe=("devices", "rev", "algo_comb"))
    if isinstance(data, bytes):
        assert device.sockets[-1].wait_closed() == 1003
        world.connect(device)
    for each in (device, other):
        each.wait_for(lambda each=each: runs(each, task_id, OLD))  # type: ignore[misc]
    world.settled(task_id)


@pytest.mark.parametrize("whose", ["another device's", "nobody's"])
def test_answers_for_another(world: World, whose: str) -> None:
    """A `req_id` belongs to the connection that it was sent on."""
    victim, liar = world.device(), world.device()
    task_id = world.pic_task(victim, liar, algo_comb=OLD)
    victim.behave(silent(), verb="put", times=1)

    def req_id() -> str:
        return unknown() if whose == "nobody's" else victim.wait_heard(1, "put")[0].req_id

    liar.behave(for_another(req_id), verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id))
    failed(answer, SILENT, stored=True, maybe=("devices", "rev", "algo_comb"))
    assert not configured(world, task_id)
    world.settled(task_id)


def test_answers_on_its_old_connection(world: World) -> None:
    """The older connection is closed with 4001 and what comes on it is dropped; the new one is asked again."""
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(on_old_connection({"ecode": 66, "enote": "from the past"}), verb="put", times=1)
    ok(world.operator.answer(configure(world.operator, task_id)))
    assert configured(world, task_id)
    assert runs(device, task_id, NEW)
    old, new = device.sockets
    assert old.wait_closed() == 4001
    first, second = device.heard("put")
    assert (first.socket, second.socket) == (old, new)
    assert first.req_id != second.req_id
    assert world.is_online(device)


def test_newest_connection_counts(world: World) -> None:
    device = world.device()
    for _ in range(3):
        device.connect(keep_old=True)
    assert [old.wait_closed() for old in device.sockets[:-1]] == [4001] * 3
    device.barrier()
    assert device.holding(world.pic_task(device))
    assert world.is_online(device)


@pytest.mark.parametrize("takes", [False, True])
def test_vanishes_and_returns_within_the_wait(world: World, takes: bool) -> None:
    device, other = world.device(), world.device()
    task_id = world.pic_task(device, other, algo_comb=OLD)
    device.behave(drop_connection(takes=takes), verb="put", times=1)
    sent = configure(world.operator, task_id)
    device.sockets[-1].wait_closed()
    device.connect()
    answer = ok(world.operator.answer(sent))
    assert states(answer) == dict.fromkeys((device.dev_unid, other.dev_unid), CONFIRMED)
    assert len(device.heard("put")) == 2
    assert runs(device, task_id, NEW)


# -- what a device echoes


def test_echo_of_src_page_only(world: World) -> None:
    device = world.device(echo="src_page")
    task_id = world.pic_task(device, algo_comb=OLD)
    ok(world.operator.answer(configure(world.operator, task_id)))
    device.behave(refuse(8, "no"), verb="put", times=1)
    answer = world.operator.call("put tasks", {"task_id": task_id, "name": "other"})
    failed(answer, REFUSED, stored=True, maybe=("devices", "rev"))
    assert states(answer)[device.dev_unid] == ("refused", 8)


def test_echo_of_nothing_gets_one_message_at_a_time(world: World) -> None:
    device = world.device(echo="nothing")
    tasks = [world.pic_task(device, algo_comb=OLD) for _ in range(3)]
    device.behave(hold)
    sent = [configure(world.operator, task_id) for task_id in tasks]
    for count in (1, 2, 3):
        device.wait_heard(count, "put")
        device.barrier()
        assert len(device.heard("put")) == count
        device.release()
    for req_id in sent:
        ok(world.operator.answer(req_id))


def test_echo_of_nothing_and_silent_is_disconnected(world: World) -> None:
    """A later answer could not be told apart."""
    device = world.device(echo="nothing")
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(hold, verb="put", times=1)
    answer = world.operator.answer(configure(world.operator, task_id))
    failed(answer, SILENT, stored=True, maybe=("devices", "rev", "algo_comb"))
    device.sockets[-1].wait_closed()
    world.connect(device)
    device.wait_for(lambda: runs(device, task_id, OLD))
    world.settled(task_id)


# -- clients


def test_client_that_closes_in_the_middle(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(hold, verb="put", times=1)
    client = world.client("operator")
    configure(client, task_id)
    device.wait_heard(1, "put")
    client.close()
    device.release()
    eventually(lambda: configured(world, task_id), "the command settled without its client")
    assert runs(device, task_id, NEW)


def test_progress(world: World) -> None:
    quick, slow = world.device(), world.device()
    task_id = world.pic_task(quick, slow, algo_comb=OLD)
    slow.behave(hold, verb="put", times=1)
    client = world.client("operator")
    sent = configure(client, task_id, progress=True, src_page="page")
    eventually(lambda: client.progress(sent), "a command that has run for a second says how far it is")
    slow.release()
    ok(client.answer(sent))
    frames = client.progress(sent)
    for frame in frames:
        counts = frame.pop("progress")
        assert frame == {k: v for k, v in client.sent(sent).items() if k in ("command", "src_page", "req_id")}
        assert set(counts) == {"done", "total"}
        assert 0 <= counts["done"] <= counts["total"] == 2
        frame["done"] = counts["done"]
    assert [frame["done"] for frame in frames] == sorted(frame["done"] for frame in frames)
    assert client.works()
    assert len(client.progress(sent)) == len(frames), "none after the response"


def test_no_progress_unasked(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(late(1.5), verb="put", times=1)
    client = world.client("operator")
    ok(client.answer(configure(client, task_id)))
    assert not client.inbox


def test_requests_of_one_connection_run_concurrently(world: World) -> None:
    slow, quick = world.device(), world.device()
    first, second = world.pic_task(slow, algo_comb=OLD), world.pic_task(quick, algo_comb=OLD)
    slow.behave(hold, verb="put", times=1)
    client = world.client("operator")
    waiting = configure(client, first)
    slow.wait_heard(1, "put")
    ok(client.call("get tasks", {"task_id": first}))
    ok(client.answer(configure(client, second)))
    assert slow.held_back, "the first is still waiting"
    slow.release()
    ok(client.answer(waiting))


def test_one_device_never_has_more_than_eight_outstanding(world: World) -> None:
    device = world.device(warm=True)
    tasks = [world.pic_task(device, algo_comb=OLD) for _ in range(12)]
    device.behave(hold, verb="put")
    sent = [configure(world.operator, task_id) for task_id in tasks]
    device.wait_heard(8, "put")
    device.barrier()
    assert len(device.heard("put")) == 8
    device.behave_normally()
    device.release()
    for req_id in sent:
        ok(world.operator.answer(req_id))
