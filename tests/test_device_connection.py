"""The device: how it connects, and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from devconf.device import Journal
from tests.device_bench import Bench
from tests.fake_server import OK, URL

REGISTER = "/webapi/v1/devconf_fx/devices/u%2F1/register"
WS_URL = "/webapi/v1/devconf_fx/users/u%2F1/ws_url?type=devconf_fx"


@pytest.fixture
def bench() -> Bench:
    return Bench()


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
    socket.drop(4000, "for a reason")
    bench.server.advance(0.4)
    assert bench.server.asked == []
    bench.server.advance(0.2)
    assert [what[:3] for what in bench.server.asked] == [("POST", REGISTER, "token-1"), ("GET", WS_URL, "token-1")]
    body = bench.server.asked[0][3]
    assert body is not None
    assert body["tasks"] == [{"task_id": "t", "rev": 1}]
    assert bench.reports == ["connected", "the connection is closed (4000: for a reason)", "connected"]


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


def pause(bench: Bench) -> float:
    """How long it takes until the device is connected again, in seconds."""
    count, started = len(bench.server.sockets), bench.server.reactor.seconds()
    while len(bench.server.sockets) == count:
        bench.server.advance(0.5)
    return bench.server.reactor.seconds() - started


def test_one_that_is_thrown_out_again_and_again_waits_longer(bench: Bench) -> None:
    bench.start()
    waits = []
    for _ in range(4):
        bench.server.sockets[-1].drop(4000)
        waits.append(pause(bench))
    assert waits == [0.5, 1.0, 2.0, 4.0]
    for _ in range(7):
        bench.server.advance(10)
    bench.server.sockets[-1].drop()
    bench.server.advance(2.5)
    assert len(bench.server.sockets) == 6


@pytest.mark.parametrize(("code", "wait"), [(4000, 0.5), (1001, 2.5), (1013, 15.0), (4001, 450.0)])
def test_it_heeds_why_it_was_closed(bench: Bench, code: int, wait: float) -> None:
    """Of a server that stops all hear at once; one that is overloaded needs rest; a twin is not fought."""
    bench.start().drop(code)
    assert pause(bench) == wait


@pytest.mark.parametrize(("fraction", "wait"), [(0.0, 300.0), (0.999, 600.0)])
def test_one_that_was_replaced_stays_away_at_least_a_while(bench: Bench, fraction: float, wait: float) -> None:
    bench.fraction = fraction
    bench.start().drop(4001, "replaced")
    assert pause(bench) == pytest.approx(wait, abs=1)


@pytest.mark.parametrize("code", [4000, 1001, 1013])
def test_the_whole_pause_is_random(bench: Bench, code: int) -> None:
    bench.fraction = 0.0
    bench.start().drop(code)
    bench.server.advance(0)
    assert len(bench.server.sockets) == 2


def test_one_that_is_no_longer_authorised_logs_in_again(bench: Bench) -> None:
    bench.start().drop(1008, "new key")
    bench.server.asked.clear()
    bench.server.advance(0.5)
    assert [what[1] for what in bench.server.asked] == ["/webapi/v1/login", REGISTER, WS_URL]


def test_one_that_has_too_much_registers_without_the_list(bench: Bench) -> None:
    bench.journal.note(("t", None), 4, present=True)
    bench.server.answers["register"] = [{"ecode": 1004130001, "enote": "the body is larger than 262144 bytes"}]
    bench.start()
    plain = {"dev_refid": "ref-1", "dev_type": "box", "dev_name": "a box"}
    assert [what[3] for what in bench.server.asked[1:3]] == [{**plain, "tasks": [{"task_id": "t", "rev": 4}]}, plain]
    assert bench.reports == [
        "the server does not take the list of tasks, and goes by the answers: "
        "1004130001: the body is larger than 262144 bytes",
        "connected",
    ]


def test_a_damaged_journal_is_reported_and_the_device_registers_with_nothing(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.write_text('{"tasks": [{"task_id": "t", "rev": 4}], "dele')
    bench.journal = Journal(str(path))
    bench.device = bench.make()
    bench.start()
    registered = bench.server.asked[1][3]
    assert registered is not None
    assert registered["tasks"] == []
    assert bench.reports == [
        f"{path} is no journal of a device; it is {path}.damaged now, and the server sends all again",
        "connected",
    ]
    assert bench.order("post", task_id="t", rev=9) == [{"req_id": "q", **OK}]
    assert Journal(str(path)).tasks() == [{"task_id": "t", "rev": 9}]


def test_starting_twice_connects_once(bench: Bench) -> None:
    bench.start()
    bench.start()
    assert len(bench.server.sockets) == 1


def test_it_can_be_started_again(bench: Bench) -> None:
    bench.start()
    bench.server.run(bench.device.stop())
    bench.start()
    assert len(bench.server.sockets) == 2
    assert bench.reports == ["connected", "connected"]


@pytest.mark.parametrize("when", ["connected", "cannot connect"])
def test_a_failing_report_ends_nothing(bench: Bench, logged_errors: Any, when: str) -> None:
    def fails(_what: str) -> None:
        raise ZeroDivisionError

    bench.device._report = fails
    if when == "cannot connect":
        bench.server.answers["login"] = [{"ecode": 1004010003, "enote": "wrong key"}]
    bench.device.start()
    bench.server.flush()
    bench.server.advance(0.5)
    logged_errors.expect(ZeroDivisionError)
    assert bench.order("post", task_id="t", rev=1) == [{"req_id": "q", **OK}]


def test_an_error_that_nobody_thought_of_is_logged_and_tried_again(bench: Bench, logged_errors: Any) -> None:
    broken = Journal()

    def tasks() -> list[Any]:
        raise ZeroDivisionError

    tasks_of, broken.tasks = broken.tasks, tasks  # type: ignore[method-assign]
    bench.journal = broken
    bench.device = bench.make()
    bench.device.start()
    bench.server.flush()
    logged_errors.expect(ZeroDivisionError)
    broken.tasks = tasks_of  # type: ignore[method-assign]
    bench.server.advance(0.5)
    assert bench.reports[-1] == "connected"


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


@pytest.mark.parametrize("what", ["connected", "the connection", "cannot connect"])
def test_it_stops_when_it_reports(bench: Bench, what: str) -> None:
    def report(line: str) -> None:
        if line.startswith(what):
            bench.device.stop()

    bench.device._report = report
    if what == "cannot connect":
        bench.server.answers["login"] = [{"ecode": 1004010003, "enote": "wrong key"}]
    bench.device.start()
    bench.server.flush()
    for socket in bench.server.sockets:
        socket.drop()
    for _ in range(100):
        bench.server.advance(1)
    assert len(bench.server.sockets) == (what != "cannot connect")
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


def test_orders_that_come_while_it_stops_are_not_carried_out(bench: Bench) -> None:
    socket = bench.start()
    socket.answers_close = False
    stopping = bench.device.stop()
    assert bench.order("post", task_id="t", rev=1) == []
    bench.server.advance(5)
    bench.server.run(stopping)
    assert bench.application.done == []
