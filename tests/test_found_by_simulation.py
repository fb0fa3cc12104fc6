"""Faults that the simulation has found, as short as they can be told."""

from __future__ import annotations

import pytest

from devconf.devices.pace import PAUSE
from devconf.model import OrderKey
from devconf.store import answers
from devconf.testing import MemoryServer
from tests.conftest import LoggedErrors
from tests.delivering import NEW, WAIT, configure, online, pic_task


def test_no_slot_is_kept_after_a_stale_answer_that_changes_nothing(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id)
    late = device.inbox[0]
    server.advance(WAIT)  # the old one is to be had back, with a higher rev
    newer = next(message for message in device.inbox if message is not late)
    device.act(newer)
    device.answer(late, 1004090008, "older than mine", rev=newer["params"]["rev"])
    server.finish()
    assert server.service.delivery._lanes == {}


def test_what_a_device_is_to_delete_has_a_rev_above_all_that_it_has_seen(server: MemoryServer) -> None:
    device, other = online(server, "a"), online(server, "b")
    task_id = pic_task(server, device, other)
    for number in range(5):
        server.call("put tasks", {"task_id": task_id, "name": f"name {number}"})
        device.obey()
        other.obey()
    server.call("put tasks", {"task_id": task_id, "dev_unids": [other.dev_unid]})
    device.obey()
    seen = max(message["params"]["rev"] for message in device.heard)
    device.lose()
    # It was restored from an old image.
    server.service.store.run(answers.reconcile, device.dev_unid, {OrderKey(device.dev_unid, task_id, ""): 2})
    server.finish()
    device.connect()
    assert device.inbox[0]["command"].startswith("delete ")
    assert device.inbox[0]["params"]["rev"] > seen


def test_a_configuration_that_is_replaced_while_a_deletion_is_refused_reaches_the_device(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    conf = {"name": "c", "file_ext": "bin", "file_b64": "MQ=="}
    unid = server.ask("post store_confs", conf)["unid"]
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    device.obey()
    deletion = server.call("delete tasks", {"task_id": task_id})
    server.call("put store_confs", {**conf, "unid": unid, "file_b64": "Mg=="})
    device.refuse()
    assert server.result(deletion)["ecode"] == 1005020001
    device.obey()
    assert device.held[(task_id, "")]["store_conf"]["file_b64"] == "Mg=="


def test_no_lane_is_kept_when_a_late_answer_cannot_be_written(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    device = online(server, "a")
    server.call("put tasks", {"task_id": pic_task(server, device), "name": "north gate"})
    late = device.inbox[0]
    server.advance(2 * WAIT)  # and sent again
    device.act(next(message for message in device.inbox if message is not late))

    def full(*_args: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(answers, "acknowledge", full)
        device.answer(late)
    logged_errors.expect(OSError)
    assert server.service.delivery._lanes == {}


def test_a_configuration_that_is_replaced_while_its_task_is_taken_off_it_in_vain_reaches_the_device(
    server: MemoryServer,
) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    conf = {"name": "c", "file_ext": "bin", "file_b64": "MQ=="}
    unid = server.ask("post store_confs", conf)["unid"]
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    device.obey()
    change = server.call("put tasks", {"task_id": task_id, "store_conf_unid": None})
    server.call("put store_confs", {**conf, "unid": unid, "file_b64": "Mg=="})
    device.refuse()
    assert server.result(change)["ecode"] == 1005020001
    device.obey()
    assert device.held[(task_id, "")]["store_conf"]["file_b64"] == "Mg=="


def test_a_configuration_that_is_replaced_while_a_task_is_given_it_in_vain_does_not_stay(server: MemoryServer) -> None:
    device, other = online(server, "a"), online(server, "b")
    task_id = pic_task(server, device, other)
    confs = [{"name": "c", "file_ext": "bin", "file_b64": content} for content in ("MQ==", "Mg==")]
    unids = [server.ask("post store_confs", conf)["unid"] for conf in confs]
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unids[0]})
    device.obey()
    other.obey()
    change = server.call("put tasks", {"task_id": task_id, "store_conf_unid": unids[1]})
    device.obey()
    server.call("put store_confs", {**confs[1], "unid": unids[1], "file_b64": "Mw=="})
    device.obey()
    assert device.held[(task_id, "")]["store_conf"]["file_b64"] == "Mw=="
    other.refuse()
    assert server.result(change)["ecode"] == 1005020001
    device.obey()
    other.obey()
    assert [each.held[(task_id, "")]["store_conf"]["file_b64"] for each in (device, other)] == ["MQ==", "MQ=="]


@pytest.mark.parametrize("force", [True, False])
def test_a_task_that_is_added_after_it_was_said_to_be_lacking_is_deleted(server: MemoryServer, force: bool) -> None:
    device = online(server, "a")
    pic_task(server, device)
    made = server.call(
        "post tasks", {"name": "b", "task_type": "pic", "algo_comb": NEW, "dev_unids": [device.dev_unid]}
    )
    server.advance(WAIT)
    task_id = server.result(made)["task_id"]
    late = device.inbox[0]
    device.inbox.clear()
    server.call("delete tasks", {"task_id": task_id, "force": force})
    deletion = device.inbox[0]
    device.revs[(task_id, "")] = deletion["params"]["rev"]
    device.answer(deletion, 1004040001, "no such task here")
    device.held[(task_id, "")] = late["params"]  # only now it is done with what it began before
    device.answer(late)
    [message] = device.inbox
    assert message["command"].startswith("delete ")
    assert message["params"]["rev"] > deletion["params"]["rev"]
    device.obey()
    assert (task_id, "") not in device.held
    assert server.service.delivery._lanes == {}
    device.lose()
    device.connect()
    assert device.inbox == []


def test_a_lane_is_not_forgotten_while_it_is_read_once_more(server: MemoryServer) -> None:
    device, other = online(server, "a"), online(server, "b")
    task_id = pic_task(server, device, other)
    key, others = OrderKey(device.dev_unid, task_id, ""), OrderKey(other.dev_unid, task_id, "")
    delivery = server.service.delivery
    server.runner.latency = 1.0
    delivery.nudge([key])
    server.advance(0)
    delivery.nudge([others, key])  # read together when the first has been read, though nothing is due of either
    server.advance(1)
    delivery.nudge([others, key])
    change = configure(server, task_id)
    server.advance(3)
    device.obey()
    other.obey()
    server.advance(3)
    assert server.result(change)["ecode"] == 0


def test_what_a_device_took_before_it_registered_without_it_is_sent_again(server: MemoryServer) -> None:
    device = online(server, "a")
    made = server.call(
        "post tasks", {"name": "gate", "task_type": "pic", "algo_comb": NEW, "dev_unids": [device.dev_unid]}
    )
    before = device.inbox[0]
    # It is re-imaged, and what it said last comes when it has registered already.
    server.service.store.run(answers.reconcile, device.dev_unid, {})
    server.finish()
    device.answer(before)
    task_id = server.result(made)["task_id"]
    device.lose()
    device.wipe()
    device.connect()
    device.obey()
    assert device.held[(task_id, "")]["algo_comb"] == NEW


def test_a_task_that_is_added_late_is_deleted_though_its_deletion_is_still_being_written(server: MemoryServer) -> None:
    device = online(server, "a")
    pic_task(server, device)
    made = server.call(
        "post tasks", {"name": "b", "task_type": "pic", "algo_comb": NEW, "dev_unids": [device.dev_unid]}
    )
    server.advance(WAIT)
    task_id = server.result(made)["task_id"]
    late = device.inbox[0]
    device.inbox.clear()
    server.call("delete tasks", {"task_id": task_id, "force": True})
    [deletion] = device.inbox
    server.runner.latency = 1.0
    device.answer(deletion, 1004040001, "no such task here")
    device.answer(late)
    server.advance(10)
    again = device.inbox[0]
    assert again["command"].startswith("delete ")
    assert again["params"]["rev"] > deletion["params"]["rev"]


def test_what_a_device_refused_to_delete_is_asked_of_it_anew_when_it_tells_of_it(server: MemoryServer) -> None:
    """Its refusal has ended the matter here, and it would repeat it for the same rev without looking."""
    device = online(server, "a")
    task_id = pic_task(server, device)
    server.call("delete tasks", {"task_id": task_id, "force": True})
    [deletion] = device.inbox
    device.refuse(7, "in use")
    device.lose()
    key, refused = OrderKey(device.dev_unid, task_id, ""), deletion["params"]["rev"]
    for _ in range(3):
        server.service.store.run(answers.reconcile, device.dev_unid, {key: deletion["params"]["rev"] - 1})
        server.advance(PAUSE)
        device.connect()
        [again] = device.inbox
        assert again["command"] == deletion["command"]
        assert again["params"]["rev"] > refused
        refused = again["params"]["rev"]
        device.refuse(7, "in use")
        device.lose()
