"""The device: what it does with orders, and what it asks."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from zope.interface.verify import verifyObject

from devconf.client import Disconnected, RequestFailed
from devconf.device import BUSY_MAX, IApplication, Order, Refuse
from tests.device_bench import Application, Bench
from tests.fake_server import OK, TASKS, Json


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_application_is_one() -> None:
    assert verifyObject(IApplication, Application())


# -- orders


def test_it_adds_modifies_and_deletes(bench: Bench) -> None:
    bench.start()
    add = {"task_id": "t", "rev": 1, "task_type": "pic", "name": "n", "algo_comb": []}
    assert bench.order("post", "a", **add) == [{"req_id": "a", **OK}]
    assert bench.order("put", "b", task_id="t", rev=4, name="m") == [{"req_id": "b", **OK}]
    assert bench.order("delete", "c", task_id="t", rev=9) == [{"req_id": "c", **OK}]
    assert bench.application.done == [
        Order("add", "t", None, 1, add),
        Order("modify", "t", None, 4, {"task_id": "t", "rev": 4, "name": "m"}),
        Order("delete", "t", None, 9, {"task_id": "t", "rev": 9}),
    ]


def test_an_equal_rev_is_answered_again_and_not_done(bench: Bench) -> None:
    bench.start()
    for req_id in ("a", "b"):
        assert bench.order("post", req_id, task_id="t", rev=3) == [{"req_id": req_id, **OK}]
    assert len(bench.application.done) == 1


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_a_lower_rev_is_refused_with_the_own_one(bench: Bench, method: str) -> None:
    bench.start()
    bench.order("post", task_id="t", rev=3)
    assert bench.order(method, task_id="t", rev=2) == [
        {"req_id": "q", "ecode": 1004090008, "enote": "rev 2 is older than mine, 3", "rev": 3}
    ]
    assert len(bench.application.done) == 1


def test_the_rev_of_what_was_deleted_is_kept(bench: Bench) -> None:
    bench.start()
    bench.order("post", task_id="t", rev=3)
    bench.order("delete", task_id="t", rev=5)
    assert bench.order("post", task_id="t", rev=4)[0]["rev"] == 5
    assert bench.order("delete", task_id="t", rev=5) == [{"req_id": "q", **OK}]
    assert bench.order("post", task_id="t", rev=6) == [{"req_id": "q", **OK}]
    assert [order.kind for order in bench.application.done] == ["add", "delete", "add"]


def test_modify_of_what_it_lacks(bench: Bench) -> None:
    bench.start()
    assert bench.order("put", task_id="t", rev=1) == [
        {"req_id": "q", "ecode": 1004040001, "enote": "no such task here: 't'"}
    ]
    assert bench.order("put", task_id="t", subtask_id="s", rev=1) == [
        {"req_id": "q", "ecode": 1004040003, "enote": "no such subtask here: 's'"}
    ]
    assert bench.application.done == []


def test_delete_of_what_it_lacks_is_done(bench: Bench) -> None:
    bench.start()
    assert bench.order("delete", task_id="t", rev=1) == [{"req_id": "q", **OK}]


def test_a_task_and_its_subtasks_have_revs_of_their_own(bench: Bench) -> None:
    bench.start()
    bench.order("post", task_id="t", rev=7)
    bench.order("post", task_id="t", subtask_id="s1", rev=3)
    assert bench.order("post", task_id="t", subtask_id="s2", rev=2) == [{"req_id": "q", **OK}]
    assert bench.order("put", task_id="t", subtask_id="s1", rev=5) == [{"req_id": "q", **OK}]
    assert [(order.subtask_id, order.rev) for order in bench.application.done] == [
        (None, 7),
        ("s1", 3),
        ("s2", 2),
        ("s1", 5),
    ]


@pytest.mark.parametrize("refusal", [Refuse(77, "too hot"), (77, "too hot"), fail(Refuse(77, "too hot"))])
def test_what_is_refused_is_tried_when_it_comes_again(bench: Bench, refusal: Any) -> None:
    bench.start()
    bench.application.answers.append(refusal)
    assert bench.order("post", "a", task_id="t", rev=3) == [{"req_id": "a", "ecode": 77, "enote": "too hot"}]
    assert bench.order("put", "b", task_id="t", rev=3)[0]["ecode"] == 1004040001
    assert bench.order("post", "c", task_id="t", rev=3) == [{"req_id": "c", **OK}]


def test_a_broken_application_is_an_internal_error(bench: Bench, logged_errors: Any) -> None:
    bench.start()
    bench.application.answers.append(ZeroDivisionError())
    assert bench.order("post", task_id="t", rev=3) == [
        {"req_id": "q", "ecode": 1005000001, "enote": "internal error of the device; see its log"}
    ]
    logged_errors.expect(ZeroDivisionError)
    assert bench.order("post", task_id="t", rev=3) == [{"req_id": "q", **OK}]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"rev": 1}, "$.params.task_id is missing"),
        ({"task_id": "t"}, "$.params.rev is missing"),
        ({"task_id": 7, "rev": 1}, "$.params.task_id must be a string, not an integer"),
        ({"task_id": "t", "rev": "1"}, "$.params.rev must be an integer, not a string"),
    ],
)
def test_an_order_that_makes_no_sense(bench: Bench, params: Json, says: str) -> None:
    bench.start()
    assert bench.order("post", **params) == [{"req_id": "q", "ecode": 1004000002, "enote": says}]


def test_orders_of_one_task_come_one_after_another(bench: Bench) -> None:
    bench.start()
    first: Deferred[Any] = Deferred()
    bench.application.answers += [first]
    assert bench.order("post", "a", task_id="t", rev=1) == []
    assert bench.order("put", "b", task_id="t", rev=2) == []
    assert bench.order("post", "c", task_id="u", rev=1) == [{"req_id": "c", **OK}]
    assert [(order.task_id, order.rev) for order in bench.application.done] == [("t", 1), ("u", 1)]
    first.callback((0, "done"))
    assert {answer["req_id"]: answer for answer in bench.server.sockets[-1].heard()} == {
        "a": {"req_id": "a", "ecode": 0, "enote": "done"},
        "b": {"req_id": "b", **OK},
    }
    assert [order.rev for order in bench.application.done] == [1, 1, 2]


def test_of_those_that_wait_for_one_task_only_the_newest_counts(bench: Bench) -> None:
    """The server sends another only when it has given up waiting: the older ones are no longer wanted."""
    bench.start()
    first: Deferred[Any] = Deferred()
    bench.application.answers += [first]
    bench.order("post", "a", task_id="t", rev=1)
    for rev in range(2, 100):
        bench.order("put", f"b{rev}", task_id="t", rev=rev)
    first.callback(None)
    assert bench.server.sockets[-1].heard() == [{"req_id": "a", **OK}, {"req_id": "b99", **OK}]
    assert [order.rev for order in bench.application.done] == [1, 99]


def test_the_turn_after_one_that_ended_at_once(bench: Bench) -> None:
    """What is carried out while another turn ends does not take the turn from the next."""
    bench.start()
    slow = [Deferred[Any](), Deferred[Any]()]
    bench.application.answers += [slow[0], None, slow[1], None]
    bench.order("post", "a", task_id="t", rev=1)
    bench.order("put", "b", task_id="t", rev=2)
    slow[0].callback(None)
    bench.order("put", "c", task_id="t", rev=3)
    bench.order("put", "d", task_id="t", rev=4)
    assert [order.rev for order in bench.application.done] == [1, 2, 3]
    slow[1].callback(None)
    assert [answer["req_id"] for answer in bench.server.sockets[-1].heard()] == ["c", "d"]
    assert [order.rev for order in bench.application.done] == [1, 2, 3, 4]


def test_a_turn_that_was_handed_on_is_still_taken(bench: Bench) -> None:
    bench.start()
    slow = [Deferred[Any](), Deferred[Any]()]
    bench.application.answers += slow
    bench.order("post", "a", task_id="t", rev=1)
    bench.order("put", "b", task_id="t", rev=2)
    slow[0].callback(None)
    bench.order("put", "c", task_id="t", rev=3)
    assert [order.rev for order in bench.application.done] == [1, 2]
    slow[1].callback(None)
    assert [order.rev for order in bench.application.done] == [1, 2, 3]


def test_more_than_it_can_have_under_way_is_dropped(bench: Bench) -> None:
    """The server sends again what is not answered; so much of a server that behaves never comes."""
    socket = bench.start()
    slow = [Deferred[Any]() for _ in range(BUSY_MAX)]
    bench.application.answers += slow
    for number in range(BUSY_MAX + 3):
        socket.tell({"command": "get /x", "req_id": str(number), "src_page": "", "params": {}})
    assert socket.heard() == []
    assert len(bench.application.done) == BUSY_MAX
    slow[7].callback(None)
    assert socket.heard() == [{"req_id": "7", **OK}]
    assert bench.order("post", task_id="t", rev=1) == [{"req_id": "q", **OK}]


def test_other_commands_go_to_the_application(bench: Bench) -> None:
    socket = bench.start()
    bench.application.answers += [None, {"hot": 40}, Refuse(5, "no"), {"ecode": 3}]
    for number in range(4):
        socket.tell({"command": "get /x", "req_id": str(number), "src_page": str(number), "params": {"a": number}})
    assert socket.heard() == [
        {"req_id": "0", **OK},
        {"req_id": "1", **OK, "hot": 40},
        {"req_id": "2", "ecode": 5, "enote": "no"},
        {"req_id": "3", "ecode": 3, "enote": "ok"},
    ]
    assert bench.application.done == [("get /x", {"a": number}) for number in range(4)]


@pytest.mark.parametrize("answer", [{"x": object()}, ["no", "object"], 7])
def test_an_answer_that_is_none_is_an_internal_error(bench: Bench, logged_errors: Any, answer: Any) -> None:
    socket = bench.start()
    bench.application.answers.append(answer)
    socket.tell({"command": "get /x", "req_id": "q", "src_page": "q", "params": {}})
    assert socket.heard() == [
        {"req_id": "q", "ecode": 1005000001, "enote": "internal error of the device; see its log"}
    ]
    logged_errors.expect(TypeError, ValueError)


def test_an_answer_cannot_take_another_req_id(bench: Bench) -> None:
    socket = bench.start()
    bench.application.answers.append({"req_id": "mine", "x": 1})
    socket.tell({"command": "get /x", "req_id": "q", "src_page": "q", "params": {}})
    assert socket.heard() == [{"req_id": "q", **OK, "x": 1}]


def test_an_answer_that_the_server_would_not_take_is_not_sent(bench: Bench) -> None:
    """It would close the connection, and with it end what else is under way."""
    socket = bench.start()
    bench.application.answers.append({"picture": "x" * 262144})
    socket.tell({"command": "get /x", "req_id": "q", "src_page": "q", "params": {}})
    (answer,) = socket.heard()
    assert (answer["req_id"], answer["ecode"]) == ("q", 1004130001)
    assert answer["enote"].startswith("the answer of the device has 262")


def test_a_long_refusal_is_cut(bench: Bench) -> None:
    bench.start()
    bench.application.answers.append(Refuse(7, "no " * 100000))
    assert bench.order("post", task_id="t", rev=1) == [{"req_id": "q", "ecode": 7, "enote": ("no " * 167)[:500]}]


def test_a_refusal_has_an_ecode() -> None:
    with pytest.raises(ValueError, match="not 0"):
        Refuse(0, "ok")


@pytest.mark.parametrize(
    "junk", [b"{", {"ecode": 1004000001, "enote": "?"}, {"command": "get /x"}, {"command": 1, "params": {}}]
)
def test_what_is_no_order_is_dropped(bench: Bench, junk: Json | bytes) -> None:
    socket = bench.start()
    socket.tell(junk)
    assert socket.heard() == []
    assert bench.order("post", task_id="t", rev=1) == [{"req_id": "q", **OK}]


def test_an_answer_goes_to_the_connection_of_its_order_or_nowhere(bench: Bench) -> None:
    old = bench.start()
    slow: Deferred[Any] = Deferred()
    bench.application.answers.append(slow)
    bench.order("post", "a", task_id="t", rev=1)
    old.drop()
    bench.server.advance(0.5)
    new = bench.server.sockets[-1]
    assert new is not old
    assert bench.order("post", "b", task_id="t", rev=1) == []
    slow.callback(None)
    assert new.heard() == [{"req_id": "b", **OK}]
    assert len(bench.application.done) == 1


def test_what_waits_on_a_connection_that_is_lost_is_not_done(bench: Bench) -> None:
    """Its answer would be heard by nobody, and the server sends again what it wants by then."""
    bench.start()
    slow: Deferred[Any] = Deferred()
    bench.application.answers.append(slow)
    bench.order("post", "a", task_id="t", rev=1)
    bench.order("put", "b", task_id="t", rev=2)
    bench.server.sockets[-1].drop(1006)
    slow.callback(None)
    assert [order.rev for order in bench.application.done] == [1]
    bench.server.advance(0.5)
    assert bench.order("put", "c", task_id="t", rev=3) == [{"req_id": "c", **OK}]


# -- what it asks


def test_get_tasks_turns_the_pages(bench: Bench) -> None:
    socket = bench.start()
    found: list[Any] = []
    bench.device.get_tasks().addCallback(found.append)
    assert socket.heard() == [{"command": f"get {TASKS}", "req_id": "1", "params": {}}]
    socket.tell({"req_id": "1", **OK, "tasks": [{"task_id": "t"}], "next": "t/"})
    assert socket.heard() == [{"command": f"get {TASKS}", "req_id": "2", "params": {"after": "t/"}}]
    socket.tell({"req_id": "2", **OK, "tasks": [{"task_id": "u"}], "next": None})
    bench.server.flush()
    assert found == [[{"task_id": "t"}, {"task_id": "u"}]]


def test_get_tasks_fails_with_what_the_server_says(bench: Bench) -> None:
    socket = bench.start()
    asked = bench.device.get_tasks()
    socket.tell({"req_id": "1", "ecode": 1004290001, "enote": "slowly"})
    with pytest.raises(RequestFailed, match="slowly"):
        bench.server.run(asked)


def test_get_tasks_needs_a_connection(bench: Bench) -> None:
    with pytest.raises(Disconnected):
        bench.server.run(bench.device.get_tasks())
