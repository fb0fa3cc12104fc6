"""The delivery machine on a clock that stands still: waits, retries, connections that come and go."""

from __future__ import annotations

from devconf.commands.asker import Asker
from devconf.model import Identity, OrderKey, Role
from devconf.store.outbox import Order
from devconf.testing import MemoryDevice, MemoryServer
from devconf.wire import DeviceAnswer
from tests.delivering import NEW, OLD, WAIT, algos, configure, online, pic_task, states, stored

# -- time ---------------------------------------------------------------------------------------------------------


def test_silence_ends_the_wait_and_not_the_order(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id, force=True)
    [message] = device.inbox
    server.advance(9.9)
    assert not response.called
    server.advance(WAIT - 9.9)
    assert states(server.result(response)) == [("pending", 1005040001)]
    device.act(message)
    assert stored(server, task_id)["state"] == "confirmed"


def test_a_device_that_is_silent_for_weeks_is_sent_it_again_all_the_same(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id, force=True)
    server.advance(14 * 86400)
    assert len(device.inbox) > 2000
    device.inbox.clear()
    server.advance(700)
    device.act(device.inbox[-1])
    assert stored(server, task_id)["state"] == "confirmed"


def test_what_is_not_answered_is_sent_again_ever_more_seldom(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id, force=True)
    server.advance(3600)
    sent = len(device.heard) - 1
    assert 8 <= sent <= 14, sent
    assert len({message["params"]["rev"] for message in device.heard[1:]}) == 1
    assert len({message["req_id"] for message in device.heard}) == len(device.heard)
    device.act(device.inbox[-1])
    server.advance(3600)
    assert len(device.heard) == sent + 1


def test_something_newer_is_sent_as_soon_as_the_wait_for_the_older_is_over(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "MQ=="})["unid"]
    task_id = pic_task(server, device)
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    server.advance(5)
    server.call("put store_confs", {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "Mg=="})
    assert len(device.inbox) == 1
    server.advance(WAIT - 5)
    assert [message["params"]["store_conf"]["file_b64"] for message in device.inbox] == ["MQ==", "Mg=="]
    for message in list(device.inbox):
        device.act(message)
    assert stored(server, task_id)["state"] == "confirmed"


def test_a_large_message_has_longer(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "MQ=="})["unid"]
    task_id = pic_task(server, device)
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    device.obey()
    large = {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "A" * 655360}
    response = server.call("put store_confs", large)
    server.advance(19)
    assert not response.called
    server.advance(2)
    assert server.result(response)["ecode"] == 1005040001
    device.obey()


# -- connections --------------------------------------------------------------------------------------------------


def test_a_device_that_comes_back_within_the_wait_gets_it_again(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    server.advance(4)
    device.lose()
    server.advance(4)
    assert not response.called
    device.connect()
    [message] = device.inbox
    assert message["params"]["rev"] == 2
    device.act(message)
    assert server.result(response)["ecode"] == 0


def test_a_device_that_is_lost_and_stays_away_fails_the_command(server: MemoryServer) -> None:
    stays, leaves = online(server, "a"), online(server, "b")
    task_id = pic_task(server, stays, leaves)
    response = configure(server, task_id)
    stays.obey()
    leaves.do(leaves.inbox[0])
    leaves.lose()
    server.advance(WAIT)
    answer = server.result(response)
    assert answer["ecode"] == 1005030001
    assert states(answer) == [("confirmed", 0), ("pending", 1005030001)]
    assert stored(server, task_id)["algo_comb"] == OLD
    stays.obey()
    leaves.connect()
    leaves.obey()
    assert (algos(stays, task_id), algos(leaves, task_id)) == (OLD, OLD)


def test_the_newest_connection_is_the_only_one_that_counts(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    [message] = device.inbox
    old = device.link
    assert old is not None
    twin = MemoryDevice(server, device.dev_unid, "a", held=device.held, revs=device.revs)
    twin.connect()
    assert device.closed == (4001, "replaced by a newer connection of this device")
    old.received(b'{"req_id": "%s", "ecode": 0}' % message["req_id"].encode())
    server.run()
    assert not response.called
    twin.obey()
    assert server.result(response)["ecode"] == 0


def test_what_was_answered_on_a_connection_that_is_replaced_before_it_is_written_is_not_written(
    server: MemoryServer,
) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id, force=True)
    [message] = device.inbox
    link = device.link
    assert link is not None
    twin = MemoryDevice(server, device.dev_unid, "a", held=device.held, revs=device.revs)
    # The new connection is noted in the store before the answer of the old one can be.
    server.service.hub.opened(link.identity, "127.0.0.1", twin)
    server.service.delivery.answered_late(link, _order(server, device, task_id), _yes())
    server.run()
    assert stored(server, task_id)["state"] == "pending"
    assert [again["params"]["rev"] for again in twin.inbox] == [message["params"]["rev"]]


def _order(server: MemoryServer, device: MemoryDevice, task_id: str) -> Order:
    return Order(OrderKey(device.dev_unid, task_id, ""), "modify", 2, {}, None)


def _identity(device: MemoryDevice) -> Identity:
    return Identity(device.dev_unid, device.dev_refid, Role.DEVICE)


def _yes() -> DeviceAnswer:
    return DeviceAnswer(0)


def test_idle_devices_cost_nothing(server: MemoryServer) -> None:
    device = online(server, "a")
    pic_task(server, device)
    assert server.service.delivery._lanes == {}


def test_nothing_is_sent_of_an_order_while_its_command_is_being_settled(server: MemoryServer) -> None:
    """What was read before the end of the wait, and comes after it, is being undone: it must not be sent.

    Only a server that is stopping ends a wait meanwhile.
    """
    confirms, away = online(server, "a"), online(server, "b")
    task_id = pic_task(server, confirms, away)
    away.writable = False  # it does not read, so that nothing is sent
    response = configure(server, task_id)
    confirms.obey()
    away.lose()
    away.writable = True
    server.runner.latency = 0.01
    away.link = server.service.hub.opened(_identity(away), "127.0.0.1", away)
    for _ in range(15):  # at 0.01 the connection is noted, and what is due is read; at 0.02 this would be told
        server.clock.advance(0.001)
    server.service.delivery.end_waits()
    for _ in range(5):
        server.clock.advance(0.001)
    server.runner.latency = 0.0
    server.run()
    server.advance(1)
    away.obey()
    confirms.obey()
    server.run()
    assert server.result(response)["ecode"] == 1005030001
    away.obey()
    confirms.obey()
    assert (algos(confirms, task_id), algos(away, task_id)) == (OLD, OLD)
    assert stored(server, task_id)["state"] == "confirmed"


def test_a_client_that_goes_away_cancels_nothing(server: MemoryServer) -> None:
    gone = Asker()
    gone.leave()
    device = online(server, "a")
    task_id = pic_task(server, device)
    server.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW}, asker=gone)
    device.obey()
    assert stored(server, task_id)["algo_comb"] == NEW


def test_progress_is_told_as_devices_answer(server: MemoryServer) -> None:
    devices = [online(server, name) for name in "abc"]
    task_id = pic_task(server, *devices)
    told: list[tuple[int, int]] = []
    server.call(
        "post tasks/pic_task_config",
        {"task_id": task_id, "algo_comb": NEW},
        progress=lambda done, total: told.append((done, total)),
    )
    for device in devices:
        device.obey()
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


# -- register, resync ---------------------------------------------------------------------------------------------


def test_resync_sends_everything_again_with_a_new_rev(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    assert server.ask("post devices/resync", {"dev_unid": device.dev_unid}) == {"ecode": 0, "enote": "ok", "pending": 1}
    [message] = device.inbox
    assert message["command"].startswith("post ")
    assert message["params"]["rev"] == 2
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


# -- a server that is slow ----------------------------------------------------------------------------------------


def test_a_device_is_not_silent_because_the_server_is_slow(server: MemoryServer) -> None:
    """Neither while what is due is being read, nor while its answer is being written."""
    device = online(server, "a")
    task_id = pic_task(server, device)
    server.runner.latency = 25.0
    response = configure(server, task_id)
    server.advance(25)  # planned
    server.advance(24)
    assert device.inbox == []
    server.advance(1)
    [message] = device.inbox
    server.advance(5)
    device.act(message)
    server.advance(24)
    assert not response.called
    server.advance(1)  # written
    server.runner.latency = 0.0
    server.advance(30)
    assert server.result(response)["ecode"] == 0
