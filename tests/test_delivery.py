"""The delivery machine, state by state, on a clock that stands still: what is sent, and what answers do."""

from __future__ import annotations

from typing import Any

import pytest

from devconf import wire
from devconf.devices.pace import PAUSE
from devconf.model import OrderKey
from devconf.store import answers
from devconf.testing import MemoryServer
from tests.conftest import LoggedErrors
from tests.delivering import NEW, OLD, WAIT, algos, configure, online, pic_task, states, stored

# -- in step, behind, sent ----------------------------------------------------------------------------------------


def test_a_new_task_is_added(server: MemoryServer) -> None:
    device = online(server, "a")
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    [message] = device.inbox
    task_id = message["params"]["task_id"]
    assert message == {
        "command": "post /wsapi/v1/devconf_fx/tasks",
        "req_id": message["req_id"],
        "src_page": message["req_id"],
        "params": {"task_id": task_id, "rev": 1, "task_type": "pic", "name": "gate"},
    }
    assert not response.called
    device.act(message)
    answer = server.result(response)
    assert answer == {
        "ecode": 0,
        "enote": "ok",
        "command_id": answer["command_id"],
        "task_id": task_id,
        "rev": 1,
        "devices": [{"dev_unid": device.dev_unid, "state": "confirmed", "ecode": 0, "enote": "ok"}],
    }


def test_a_modify_carries_what_changed_and_nothing_else(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id)
    [message] = device.inbox
    assert message["command"] == "put /wsapi/v1/devconf_fx/tasks"
    assert message["params"] == {"task_id": task_id, "rev": 2, "algo_comb": NEW}
    device.obey()


def test_a_modify_carries_every_part_that_changed_since_the_last_acknowledged_rev(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    device.lose()
    assert states(server.ask("put tasks", {"task_id": task_id, "name": "door"})) == [("pending", 1005030001)]
    assert states(server.ask("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW, "force": True})) == [
        ("pending", 1005030001)
    ]
    device.connect()
    assert [message["params"] for message in device.inbox] == [
        {"task_id": task_id, "rev": 3, "name": "door", "algo_comb": NEW}
    ]
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


def test_one_message_of_an_order_is_outstanding_and_the_newest_follows(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "MQ=="})["unid"]
    task_id = pic_task(server, device)
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    [first] = device.inbox
    second = server.call("put store_confs", {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "Mg=="})
    assert device.inbox == [first]
    device.act(first)
    [newest] = device.inbox
    assert newest["params"]["store_conf"]["file_b64"] == "Mg=="
    device.obey()
    assert server.result(second)["delivered"] == 1


def test_eight_messages_are_outstanding_at_most(server: MemoryServer) -> None:
    device = online(server, "a")
    tasks = [pic_task(server, device) for _ in range(12)]
    device.lose()
    for task_id in tasks:
        server.ask("put tasks", {"task_id": task_id, "name": "other"})
    device.connect()
    assert len(device.inbox) == 8
    device.act(device.inbox[0])
    assert len(device.inbox) == 8
    device.obey()
    assert {params["name"] for params in device.held.values()} == {"other"}


def test_a_device_that_has_never_echoed_gets_one_message_at_a_time(server: MemoryServer) -> None:
    device = server.enrol("old")
    for _ in range(3):
        server.ask("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.connect()
    for _ in range(3):
        [message] = device.inbox
        device.do(message)
        device.inbox.clear()
        device.say({"ecode": 0, "enote": "ok"})
    assert device.inbox == []
    assert len(device.held) == 3
    assert {task["state"] for task in server.ask("get tasks")["tasks"]} == {"confirmed"}


def test_a_device_that_echoes_nothing_and_is_late_is_disconnected(server: MemoryServer) -> None:
    device = server.enrol("old")
    server.ask("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.connect()
    server.advance(WAIT)
    assert device.closed is not None
    assert device.closed[0] == 4003


# -- answers ------------------------------------------------------------------------------------------------------


def test_an_answer_that_repeats_only_src_page_counts(server: MemoryServer) -> None:
    device = online(server, "a")
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.say({"src_page": device.inbox[0]["src_page"]})
    assert states(server.result(response)) == [("confirmed", 0)]


def test_a_modify_of_what_the_device_lacks_becomes_an_add_within_the_same_wait(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    device.wipe()
    response = configure(server, task_id)
    device.obey()
    assert [message["command"].split()[0] for message in device.heard] == ["post", "put", "post"]
    assert server.result(response)["ecode"] == 0
    assert algos(device, task_id) == NEW


def test_an_add_that_the_device_says_it_lacks_is_refused(server: MemoryServer) -> None:
    device = online(server, "a")
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.refuse(1004040001, "no such task")
    assert states(server.result(response)) == [("refused", 1004040001)]
    assert len(device.heard) == 1


def test_a_device_whose_rev_is_newer_gets_it_again_with_a_newer_one(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    device.revs[(task_id, "")] = 40
    response = configure(server, task_id)
    device.obey()
    assert [message["params"]["rev"] for message in device.heard] == [1, 2, 41]
    assert server.result(response)["ecode"] == 0
    assert algos(device, task_id) == NEW
    assert stored(server, task_id)["rev"] == 41


def test_a_device_that_lies_about_its_rev_is_taken_to_refuse(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    for _ in range(4):
        [message] = device.inbox
        device.answer(message, 1004090008, "older", rev=message["params"]["rev"] + 5)
    assert states(server.result(response)) == [("refused", 1004090008)]


@pytest.mark.parametrize("rev", [2**53, 2**70, -1, None, "7"])
def test_an_absurd_rev_does_not_move_the_counter(server: MemoryServer, rev: Any) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    device.answer(device.inbox[0], 1004090008, "older", rev=rev)
    server.advance(WAIT)
    assert server.result(response)["ecode"] in (1005020001, 1005040001)
    assert stored(server, task_id)["rev"] < 10


def test_a_refusal_is_kept_and_sent_again_when_the_device_connects_anew(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id, force=True)
    device.refuse(7, "no room")
    assert server.result(response)["devices"] == [
        {"dev_unid": device.dev_unid, "state": "refused", "ecode": 7, "enote": "no room"}
    ]
    assert stored(server, task_id)["state"] == "refused"
    server.advance(3000)
    assert device.inbox == []
    device.lose()
    device.connect()
    [message] = device.inbox
    assert message["params"] == {"task_id": task_id, "rev": 3, "algo_comb": NEW}
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


def test_what_was_refused_goes_along_with_the_next_change(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id, force=True)
    device.refuse()
    server.call("put tasks", {"task_id": task_id, "name": "door"})
    assert device.inbox[0]["params"] == {"task_id": task_id, "rev": 3, "name": "door", "algo_comb": NEW}
    device.obey()


def test_garbage_answers_nothing(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    [message] = device.inbox
    for garbage in (b"\xff", b"[]", b"{", b'{"ecode": 0, "enote": "whose?"}', b'{"req_id": "other", "ecode": 0}'):
        device.say(garbage)
    assert not response.called
    device.act(message)
    assert server.result(response)["ecode"] == 0


@pytest.mark.parametrize("ecode", ["zero", None, 1.5, True, 2**60, {}])
def test_an_ecode_that_cannot_be_read_is_a_refusal(server: MemoryServer, ecode: Any) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    device.say({"req_id": device.inbox[0]["req_id"], "ecode": ecode})
    assert states(server.result(response)) == [("refused", 1004000002)]


def test_oddly_typed_fields_of_an_answer_do_not_hide_it(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    device.say({"req_id": device.inbox[0]["req_id"], "ecode": 0, "enote": None, "rev": "1.2.3"})
    assert states(server.result(response)) == [("confirmed", 0)]


def test_a_device_is_brought_back_to_having_no_algo_comb(server: MemoryServer) -> None:
    takes, refuses = online(server, "a"), online(server, "b")
    params = {"name": "g", "task_type": "pic", "dev_unids": [takes.dev_unid, refuses.dev_unid]}
    response = server.call("post tasks", params)
    for device in (takes, refuses):
        device.obey()
    task_id = server.result(response)["task_id"]
    configure(server, task_id)
    takes.obey()
    refuses.refuse()
    assert takes.inbox[0]["params"] == {"task_id": task_id, "rev": 3, "algo_comb": None}
    takes.obey()


def test_undoing_one_change_keeps_the_refusal_of_another(server: MemoryServer) -> None:
    """Refused together, a change that is undone and a storage configuration that stays: the latter is still lacking."""
    other, device = online(server, "a"), online(server, "b")
    unid = server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "MQ=="})["unid"]
    task_id = pic_task(server, other, device)
    server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    for each in (other, device):
        each.obey()
    configured = configure(server, task_id)
    device.lose()
    replaced = server.call("put store_confs", {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "Mg=="})
    device.connect()
    device.refuse(7, "neither")
    other.obey()
    assert server.result(configured)["ecode"] == 1005020001
    assert server.result(replaced)["ecode"] in (0, 1005030001)
    other.obey()
    device.lose()
    device.connect()
    server.advance(PAUSE)
    device.obey()
    assert device.held[(task_id, "")]["store_conf"]["file_b64"] == "Mg=="
    assert algos(device, task_id) == OLD
    assert stored(server, task_id)["state"] == "confirmed"


def test_one_that_refuses_what_it_took_before_is_brought_back_too(server: MemoryServer) -> None:
    """It took the first message, and was lost before it could say so; then it refuses the second."""
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    device.do(device.inbox[0])
    device.lose()
    device.connect()
    device.refuse(7, "no more")
    assert server.result(response)["ecode"] == 1005020001
    device.obey()
    assert algos(device, task_id) == OLD
    assert stored(server, task_id)["state"] == "confirmed"


def test_subtasks_are_deleted_before_their_task(server: MemoryServer) -> None:
    device = server.enrol("a")
    has = {OrderKey(device.dev_unid, "t", subtask_id): 3 for subtask_id in ("", "s2", "s1")}
    server.service.store.run(answers.reconcile, device.dev_unid, has)
    server.run()
    device.connect()
    device.obey()
    assert [message["params"].get("subtask_id") for message in device.heard] == ["s1", "s2", None]


def test_a_second_answer_changes_nothing(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    response = configure(server, task_id)
    [message] = device.inbox
    device.act(message)
    device.answer(message, 7, "on second thoughts")
    assert server.result(response)["ecode"] == 0
    assert stored(server, task_id)["state"] == "confirmed"


def test_an_order_that_cannot_be_made_holds_up_no_other(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    encode = wire.encode_parts

    def picky(req_id: str, command: str, params: dict[str, Any]) -> list[bytes]:
        if params.get("name") == "bad":
            raise ValueError("nothing can be made of this")
        return encode(req_id, command, params)

    monkeypatch.setattr(wire, "encode_parts", picky)
    first, second = online(server, "first"), online(server, "second")
    tasks = [pic_task(server, device) for device in (first, first, second)]
    server.eager = False
    responses = [
        server.call("put tasks", {"task_id": task_id, "name": name})
        for task_id, name in zip(tasks, ("bad", "good", "good"), strict=True)
    ]
    server.finish()
    server.eager = True
    first.obey()
    second.obey()
    assert [states(server.result(response)) for response in responses[1:]] == [[("confirmed", 0)]] * 2
    assert len(logged_errors.expect(ValueError)) == 1
    server.advance(WAIT)
    assert states(server.result(responses[0])) == [("pending", 1005040001)]
    logged_errors.expect(ValueError)  # now that nobody waits for it, it was tried again
