"""Requests with an idempotency key: each is carried out once (``docs/protocol.md`` §2)."""

from __future__ import annotations

from typing import Any

import pytest

from devconf.commands.asker import Asker, Dropped
from devconf.model import Role
from devconf.store import journal
from devconf.testing import MemoryServer
from tests.conftest import LoggedErrors
from tests.delivering import NEW, OLD, configure, online, pic_task, states, stored
from tests.keyed import gate, kept

USED = {
    "ecode": 1004090006,
    "enote": "$.idempotency_key was used for another command, or other params; choose a new one",
}


def history(server: MemoryServer) -> list[str]:
    return [each["command"].rpartition("/")[2] for each in server.ask("get commands")["commands"]]


# -- once -----------------------------------------------------------------------------------------------------------


def test_the_same_request_is_carried_out_once(server: MemoryServer) -> None:
    device = online(server, "a")
    first = server.call("post tasks", gate(device), idempotency_key="k")
    device.obey()
    answer = server.result(first)
    assert (answer["ecode"], states(answer)) == (0, [("confirmed", 0)])
    assert server.ask("post tasks", gate(device), idempotency_key="k") == answer
    assert len(device.heard) == 1
    assert history(server) == ["tasks", "devices"]
    other = server.call("post tasks", gate(device), idempotency_key="another")
    device.obey()
    assert server.result(other)["task_id"] != answer["task_id"]


def test_params_that_are_written_differently_are_the_same(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    first = configure(server, task_id)
    device.obey()
    server.result(first)
    algos: list[dict[str, Any]] = [{"algo_id": "x"}, {"enabled": True, "params": {}, "algo_id": "x"}]
    asked = server.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": algos[:1]}, idempotency_key="k")
    device.obey()
    again = {"force": False, "algo_comb": algos[1:], "task_id": task_id}
    assert server.ask("post tasks/pic_task_config", again, idempotency_key="k") == server.result(asked)


def test_one_that_is_under_way_is_joined(server: MemoryServer) -> None:
    devices = [online(server, "a"), online(server, "b")]
    task_id = pic_task(server, *devices)
    told: list[list[tuple[int, int]]] = [[], []]
    params = {"task_id": task_id, "algo_comb": NEW}

    def ask(number: int) -> Any:
        return server.call(
            "post tasks/pic_task_config",
            params,
            idempotency_key="k",
            progress=lambda done, total: told[number].append((done, total)),
        )

    first = ask(0)
    devices[0].obey()
    second = ask(1)
    other = {**params, "algo_comb": OLD}
    assert server.ask("post tasks/pic_task_config", other, idempotency_key="k") == {**USED, "task_id": task_id}
    devices[1].obey()
    assert server.result(first) == server.result(second)
    assert server.result(first)["ecode"] == 0
    assert told == [[(0, 2), (1, 2), (2, 2)], [(1, 2), (2, 2)]]
    assert [len(device.heard) for device in devices] == [2, 2]


def test_a_key_is_for_one_command_with_its_params(server: MemoryServer) -> None:
    asked = {"user_name": "bob", "role": "viewer", "password": "one"}
    assert server.ask("post users", asked, idempotency_key="k") == {"ecode": 0, "enote": "ok"}
    assert server.ask("post users", asked, idempotency_key="k") == {"ecode": 0, "enote": "ok"}
    assert server.ask("post users", {**asked, "password": "two"}, idempotency_key="k") == USED
    assert server.ask("delete users", {"user_name": "bob"}, idempotency_key="k") == USED
    assert history(server) == ["users"]


def test_it_is_looked_up_what_the_key_was_used_for(server: MemoryServer) -> None:
    """Of those that come meanwhile, it is not the first that counts, but what was asked long before."""
    params = {"name": "lobby", "task_type": "video"}
    answer = server.ask("post tasks", params, idempotency_key="k")
    server.eager = False
    asked = [server.call("post tasks", {**params, "name": name}, idempotency_key="k") for name in ("x", "lobby", "y")]
    server.finish()
    assert [server.result(each) for each in asked] == [USED, answer, USED]


def test_of_two_that_come_at_once_the_first_is_carried_out(server: MemoryServer) -> None:
    server.eager = False
    names = ("lobby", "gate", "lobby")
    asked = [server.call("post tasks", {"name": name, "task_type": "video"}, idempotency_key="new") for name in names]
    server.finish()
    answer = server.result(asked[0])
    assert answer["ecode"] == 0
    assert [server.result(each) for each in asked] == [answer, USED, answer]
    assert [task["name"] for task in server.ask("get tasks")["tasks"]] == ["lobby"]


def test_what_comes_back_is_that_of_the_request_at_hand(server: MemoryServer) -> None:
    client = server.client()
    params = {"name": "lobby", "task_type": "video"}
    first = client.ask("post tasks", params, req_id="1", src_page="a", idempotency_key="k")
    second = client.ask("post tasks", params, req_id="2", idempotency_key="k")
    assert second == {name: value for name, value in first.items() if name != "src_page"} | {"req_id": "2"}
    client.close()
    client.connect()
    assert client.ask("post tasks", params, req_id="2", idempotency_key="k") == second


def test_each_account_has_its_own_keys(server: MemoryServer) -> None:
    clients = [server.client("ann"), server.client("bob")]
    made = [client.ask("post tasks", {"name": "x", "task_type": "video"}, idempotency_key="k") for client in clients]
    assert made[0]["ecode"] == made[1]["ecode"] == 0
    assert made[0]["task_id"] != made[1]["task_id"]


def test_what_changes_nothing_needs_no_key(server: MemoryServer) -> None:
    client = server.client()
    assert client.ask("get tasks", {"limit": 1}, idempotency_key="k")["tasks"] == []
    assert client.ask("post subscriptions", {"topics": ["commands"]}, idempotency_key="k")["ecode"] == 0
    assert client.ask("post tasks", {"name": "x", "task_type": "video"}, idempotency_key="k")["ecode"] == 0
    assert len(client.ask("get tasks", {"limit": 1}, idempotency_key="k")["tasks"]) == 1


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        (7, "must be a string, not an integer"),
        (None, "must be a string, not null"),
        ("", "expected `str` of length >= 1"),
        ("k" * 129, "expected `str` of length <= 128"),
    ],
)
def test_a_key_has_1_to_128_characters(server: MemoryServer, key: object, wrong: str) -> None:
    answer = server.client().ask("get tasks", idempotency_key=key)
    assert answer["ecode"] == 1004000002
    assert answer["enote"].startswith("$.idempotency_key")
    assert wrong in answer["enote"]


# -- what keeps no key ----------------------------------------------------------------------------------------------


def test_what_was_refused_may_be_asked_again(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    device.lose()
    params = {"task_id": task_id}
    assert server.ask("delete tasks", params, idempotency_key="k")["ecode"] == 1005030001
    assert kept(server) == 0
    device.connect()
    gone = server.call("delete tasks", params, idempotency_key="k")
    device.obey()
    answer = server.result(gone)
    assert answer["ecode"] == 0
    # It is gone by now, and still the answer is what was done.
    assert server.ask("delete tasks", params, idempotency_key="k") == answer
    assert server.ask("delete tasks", params)["ecode"] == 1004040001


def test_what_no_device_hears_of_and_is_refused_keeps_no_key(server: MemoryServer) -> None:
    server.enrol("a")
    answer = server.ask("post devices", {"dev_refid": "a"}, idempotency_key="k")
    assert answer["ecode"] == 1004090003
    assert server.ask("post users", {"user_name": "x"}, idempotency_key="k")["ecode"] == 1004000002
    assert server.ask("delete tasks", {"task_id": "x"}, idempotency_key="k", role=Role.VIEWER)["ecode"] == 1004030001
    assert kept(server) == 0


def test_what_the_store_could_not_write_keeps_no_key(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    params = {"name": "x", "task_type": "video"}
    with monkeypatch.context() as broken:
        broken.setattr(journal, "settle", None)
        assert server.call("post tasks", params, idempotency_key="k").called is False
        server.advance(3)
    assert logged_errors.flush()
    server.advance(1)
    answer = server.ask("post tasks", params, idempotency_key="k")
    assert answer["ecode"] == 0
    with monkeypatch.context() as broken:
        broken.setattr(journal, "begin", None)
        assert server.ask("post tasks", params, idempotency_key="other")["ecode"] == 1005000001
        broken.setattr(journal, "done", None)
        assert server.ask("post devices", {"dev_refid": "a"}, idempotency_key="third")["ecode"] == 1005000001
    assert logged_errors.flush()
    assert kept(server) == 1
    assert [each["task_id"] for each in server.ask("get tasks")["tasks"]] == [answer["task_id"]]


def test_who_waits_is_there_as_long_as_one_of_them_is(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    configure(server, task_id)
    askers = [Asker(), Asker(), Asker()]
    params = {"task_id": task_id, "name": "other"}
    joined = [server.call("put tasks", params, idempotency_key="k", asker=asker) for asker in askers[:2]]
    dropped = [joined[0], server.call("put tasks", {**params, "name": "x"}, idempotency_key="x", asker=askers[2])]
    failed: list[Any] = []
    for each in dropped:
        each.addErrback(failed.append)
    askers[0].leave()
    askers[2].leave()
    assert [failure.type for failure in failed] == [Dropped, Dropped]
    device.obey()
    device.obey()
    assert server.result(joined[1])["ecode"] == 0
    assert stored(server, task_id)["name"] == "other"
    assert kept(server) == 1


def test_those_that_have_gone_are_let_go_of(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    params = {"task_id": task_id, "algo_comb": NEW}
    first, client = server.client("bob"), server.client("bob")
    answer = first.call("post tasks/pic_task_config", params, idempotency_key="k", req_id="1")
    for _ in range(3):
        for _ in range(10):
            client.call("post tasks/pic_task_config", params, idempotency_key="k")
        assert server.service.registry.running == 11
        client.lose()
        assert server.service.registry.running == 1
        client.connect()
    first.lose()
    # The last one counts: what it has asked for is still being carried out.
    assert server.service.registry.running == 1
    joined = client.call("post tasks/pic_task_config", params, idempotency_key="k", req_id="1")
    assert server.service.registry.running == 1
    device.obey()
    assert not answer.called
    assert server.result(joined)["ecode"] == 0
    assert stored(server, task_id)["algo_comb"] == NEW
    assert server.service.registry.running == 0


# -- what was answered with an error, and crashes -------------------------------------------------------------------


def test_an_error_that_devices_caused_is_kept(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    params = {"task_id": task_id, "algo_comb": NEW}
    first = server.call("post tasks/pic_task_config", params, idempotency_key="k")
    device.refuse()
    answer = server.result(first)
    assert answer["ecode"] == 1005020001
    device.obey()
    assert server.ask("post tasks/pic_task_config", params, idempotency_key="k") == answer


def test_a_replaced_configuration_that_is_not_everywhere(server: MemoryServer) -> None:
    device = online(server, "a")
    unid = server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "AAAA"})["unid"]
    pic = server.call("post tasks", {**gate(device), "store_conf_unid": unid})
    device.obey()
    server.result(pic)
    device.lose()
    params = {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "BBBB"}
    answer = server.ask("put store_confs", params, idempotency_key="k")
    assert (answer["ecode"], answer["rev"], answer["total"], answer["delivered"]) == (1005030001, 2, 1, 0)
    assert server.ask("put store_confs", params, idempotency_key="k") == answer
    assert b"BBBB" not in server.path.read_bytes()


@pytest.mark.parametrize("rule", ["post tasks", "post tasks/pic_task_config", "put store_confs"])
def test_after_a_crash_the_answer_is_what_became_of_it(server: MemoryServer, rule: str) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    unid = server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "AAAA"})["unid"]
    used = server.call("put tasks", {"task_id": task_id, "store_conf_unid": unid})
    device.obey()
    server.result(used)
    params: dict[str, Any] = {
        "post tasks": gate(device),
        "post tasks/pic_task_config": {"task_id": task_id, "algo_comb": NEW},
        "put store_confs": {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "BBBB"},
    }[rule]
    server.call(rule, params, idempotency_key="k")
    assert len(device.inbox) == 1
    server.crash()
    server.restart()
    answer = server.ask(rule, params, idempotency_key="k")
    [done] = server.ask("get commands", {"command_id": answer["command_id"]})["commands"]
    assert (done["ecode"], done["enote"], done["devices"]) == (answer["ecode"], answer["enote"], answer["devices"])
    assert (answer["ecode"], states(answer)) == (
        0 if rule == "post tasks" else 1005040001,
        [("pending", 1005040001)],
    )
    told = {"post tasks": {"task_id", "rev"}, "put store_confs": {"unid", "rev", "total", "delivered"}}
    assert set(answer) == {"ecode", "enote", "command_id", "devices"} | told.get(rule, {"task_id"})
    assert server.ask(rule, params, idempotency_key="k") == answer
    assert len(server.ask("get tasks")["tasks"]) == (2 if rule == "post tasks" else 1)


def test_a_crash_after_the_settling_or_before_the_plan(server: MemoryServer) -> None:
    device = online(server, "a")
    first = server.call("post tasks", gate(device), idempotency_key="k")
    device.obey()
    answer = server.result(first)
    server.eager = False
    server.call("post tasks", gate(device), idempotency_key="never")
    server.crash()
    server.eager = True
    server.restart()
    assert server.ask("post tasks", gate(device), idempotency_key="k") == answer
    device.connect()
    never = server.call("post tasks", gate(device), idempotency_key="never")
    device.obey()
    assert server.result(never)["task_id"] != answer["task_id"]


def test_a_forced_delete_is_answered_by_its_plan(server: MemoryServer) -> None:
    device = online(server, "a")
    task_id = pic_task(server, device)
    device.lose()
    params = {"task_id": task_id, "force": True}
    answer = server.ask("delete tasks", params, idempotency_key="k")
    assert set(answer) == {"ecode", "enote", "task_id", "command_id"}
    assert answer["ecode"] == 0
    server.crash()
    server.restart()
    assert server.ask("delete tasks", params, idempotency_key="k") == answer
