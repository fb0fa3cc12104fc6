"""The device: what it does with orders, what it remembers, and how it comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, fail
from zope.interface import implementer
from zope.interface.verify import verifyObject

from devconf.client import Disconnected, RequestFailed
from devconf.device import DELETED_KEPT, Device, IApplication, Journal, Order, Refuse
from tests.fake_server import OK, TASKS, URL, FakeServer, Json, Socket

REGISTER = "/webapi/v1/devconf_fx/devices/u%2F1/register"
WS_URL = "/webapi/v1/devconf_fx/users/u%2F1/ws_url?type=devconf_fx"


@implementer(IApplication)
@define
class Application:
    """Notes what it is told, and answers what the test says."""

    answers: list[Any] = field(factory=list)
    done: list[Any] = field(factory=list)

    def add(self, order: Order) -> Any:
        return self._do(order)

    def modify(self, order: Order) -> Any:
        return self._do(order)

    def delete(self, order: Order) -> Any:
        return self._do(order)

    def call(self, command: str, params: Json) -> Any:
        return self._do((command, params))

    def _do(self, what: Any) -> Any:
        self.done.append(what)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


@define
class Bench:
    """A device and a server."""

    server: FakeServer = field(factory=FakeServer)
    application: Application = field(factory=Application)
    reports: list[str] = field(factory=list)
    journal: Journal = field(factory=Journal)
    fraction: float = 0.5
    device: Device = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.device = self.make()

    def make(self, **more: Any) -> Device:
        return Device(
            self.server.reactor,
            URL,
            "ref-1",
            more.pop("dev_key", "key"),
            self.application,
            dev_type="box",
            dev_name="a box",
            journal=self.journal,
            report=self.reports.append,
            fraction=lambda: self.fraction,
            **more,
        )

    def start(self) -> Socket:
        self.device.start()
        self.server.flush()
        return self.server.sockets[-1]

    def order(self, method: str, req_id: str = "q", **params: Any) -> list[Json]:
        """Send an order on the newest connection; what the device says then."""
        socket = self.server.sockets[-1]
        socket.tell({"command": f"{method} {TASKS}", "req_id": req_id, "src_page": req_id, "params": params})
        return socket.heard()


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
    assert bench.order("post", "a2", task_id="t", rev=1) == []
    assert bench.order("post", "c", task_id="u", rev=1) == [{"req_id": "c", **OK}]
    assert [(order.task_id, order.rev) for order in bench.application.done] == [("t", 1), ("u", 1)]
    first.callback((0, "done"))
    assert {answer["req_id"]: answer for answer in bench.server.sockets[-1].heard()} == {
        "a": {"req_id": "a", "ecode": 0, "enote": "done"},
        "b": {"req_id": "b", **OK},
        "a2": {"req_id": "a2", "ecode": 1004090008, "enote": "rev 1 is older than mine, 2", "rev": 2},
    }
    assert len(bench.application.done) == 3


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


# -- the connection


def test_it_logs_in_registers_and_connects(bench: Bench) -> None:
    bench.device = bench.make(algos=["face"])
    bench.journal.note(("t", None), 4, present=True)
    bench.journal.note(("t", "s"), 5, present=True)
    bench.journal.note(("gone", None), 6, present=False)
    bench.start()
    assert bench.server.asked == [
        ("POST", "/webapi/v1/login", None, {"user_type": "dev", "dev_refid": "ref-1", "dev_key": "key"}),
        (
            "POST",
            REGISTER,
            "token-1",
            {
                "dev_refid": "ref-1",
                "dev_type": "box",
                "dev_name": "a box",
                "tasks": [{"task_id": "t", "rev": 4}, {"task_id": "t", "subtask_id": "s", "rev": 5}],
                "algos": ["face"],
            },
        ),
        ("GET", WS_URL, "token-1", None),
    ]
    assert bench.reports == ["connected"]


def test_an_old_device_has_no_key_and_declares_no_algos(bench: Bench) -> None:
    bench.device = bench.make(dev_key="")
    bench.start()
    assert bench.server.asked[0][3] == {"user_type": "dev", "dev_refid": "ref-1"}
    assert bench.server.asked[1][3] == {"dev_refid": "ref-1", "dev_type": "box", "dev_name": "a box", "tasks": []}


def test_it_comes_back_with_the_same_login(bench: Bench) -> None:
    socket = bench.start()
    bench.order("post", task_id="t", rev=1)
    bench.server.asked.clear()
    socket.drop(1001, "server stopping")
    bench.server.advance(0.4)
    assert bench.server.asked == []
    bench.server.advance(0.2)
    assert [what[:3] for what in bench.server.asked] == [("POST", REGISTER, "token-1"), ("GET", WS_URL, "token-1")]
    body = bench.server.asked[0][3]
    assert body is not None
    assert body["tasks"] == [{"task_id": "t", "rev": 1}]
    assert bench.reports == ["connected", "the connection is closed (1001: server stopping)", "connected"]


@pytest.mark.parametrize("where", ["register", "ws_url"])
@pytest.mark.parametrize("ecode", [1004010001, 1004010002])
def test_it_logs_in_again_at_once_when_its_token_is_no_good(bench: Bench, where: str, ecode: int) -> None:
    bench.start().drop()
    bench.server.answers[where] = [{"ecode": ecode, "enote": "expired"}]
    bench.server.advance(0.5)
    assert len(bench.server.sockets) == 2
    assert [what[1] for what in bench.server.asked].count("/webapi/v1/login") == 2


def test_a_fresh_token_that_is_no_good_has_to_wait(bench: Bench) -> None:
    bench.server.answers["register"] = [{"ecode": 1004010001, "enote": "no"}] * 2
    bench.device.start()
    bench.server.flush()
    assert bench.reports == ["cannot connect: 1004010001: no"]
    bench.server.advance(0.5)
    assert len(bench.reports) == 2
    bench.server.advance(1.0)
    assert bench.reports[2:] == ["connected"]
    assert [what[1] for what in bench.server.asked].count("/webapi/v1/login") == 3


def test_a_wrong_key_is_tried_again_ever_more_seldom(bench: Bench) -> None:
    bench.server.answers["login"] = [{"ecode": 1004010003, "enote": "wrong key"}] * 100
    bench.device.start()
    times: list[float] = []
    for _ in range(400):
        bench.server.flush()
        times += [bench.server.reactor.seconds()] * (len(bench.reports) - len(times))
        bench.server.advance(0.5)
    assert times[:9] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5]
    assert set(bench.reports) == {"cannot connect: 1004010003: wrong key"}


def test_it_waits_for_a_server_that_is_down(bench: Bench) -> None:
    bench.server.up = False
    bench.device.start()
    bench.server.flush()
    bench.server.advance(0.5)
    assert bench.reports == [f"cannot connect: {URL} cannot be reached: Connection was refused by other side"]
    bench.server.up = True
    bench.server.advance(0.5)
    assert bench.reports[1:] == ["connected"]


def test_one_that_is_thrown_out_again_and_again_waits_longer(bench: Bench) -> None:
    bench.start()
    waits = []
    for _ in range(4):
        bench.server.sockets[-1].drop(4001, "replaced")
        count, started = len(bench.server.sockets), bench.server.reactor.seconds()
        while len(bench.server.sockets) == count:
            bench.server.advance(0.5)
        waits.append(bench.server.reactor.seconds() - started)
    assert waits == [0.5, 1.0, 2.0, 4.0]
    for _ in range(7):
        bench.server.advance(10)
    bench.server.sockets[-1].drop()
    bench.server.advance(0.5)
    assert len(bench.server.sockets) == 6


def test_it_stops_while_connected(bench: Bench) -> None:
    socket = bench.start()
    slow: Deferred[Any] = Deferred()
    bench.application.answers.append(slow)
    bench.order("post", task_id="t", rev=1)
    bench.server.run(bench.device.stop())
    assert socket.ended == (1000, None)
    assert slow.called
    assert bench.journal.tasks() == []
    assert bench.server.reactor.getDelayedCalls() == []


def test_it_stops_while_it_waits(bench: Bench) -> None:
    bench.start().drop()
    bench.server.run(bench.device.stop())
    assert bench.server.reactor.getDelayedCalls() == []


def test_it_stops_while_it_connects(bench: Bench) -> None:
    bench.device.start()
    bench.server.run(bench.device.stop())
    bench.server.advance(100)
    assert bench.server.sockets == []


def test_one_that_was_never_started_stops(bench: Bench) -> None:
    bench.server.run(bench.device.stop())


# -- the journal


def test_the_journal_survives_the_process(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.json")
    journal = Journal(path)
    journal.note(("t", None), 1, present=True)
    journal.note(("t", "s"), 2, present=True)
    journal.note(("t", "s"), 3, present=True)
    journal.note(("u", None), 4, present=True)
    journal.note(("u", None), 5, present=False)
    again = Journal(path)
    assert again.tasks() == [{"task_id": "t", "rev": 1}, {"task_id": "t", "rev": 3, "subtask_id": "s"}]
    assert (again.rev(("u", None)), again.has(("u", None)), again.rev(("x", None))) == (5, False, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["journal.json"]
    assert json.loads((tmp_path / "journal.json").read_bytes()) == {
        "tasks": [{"task_id": "t", "rev": 1}, {"task_id": "t", "rev": 3, "subtask_id": "s"}],
        "deleted": [{"task_id": "u", "rev": 5}],
    }


def test_what_cannot_be_written_is_not_noted(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    journal = Journal(str(folder / "journal.json"))
    journal.note(("t", None), 1, present=True)
    (folder / "journal.json").unlink()
    folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        journal.note(("t", None), 2, present=True)
    assert journal.rev(("t", None)) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"tasks": [{}], "deleted": []}', '{"tasks": 1}'])
def test_a_damaged_journal_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"journal.json is no journal of a device; remove it"):
        Journal(str(path))


def test_the_oldest_of_what_was_deleted_is_forgotten() -> None:
    journal = Journal()
    for number in range(DELETED_KEPT + 2):
        journal.note((str(number), None), 1, present=False)
    assert [journal.rev((str(number), None)) for number in range(4)] == [None, None, 1, 1]
