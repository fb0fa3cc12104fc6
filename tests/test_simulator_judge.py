"""Reading what devices should hold, as an operator, as often as that takes."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from devconf.simulator.application import Held, canonical, digested
from devconf.simulator.fleet import Status
from devconf.simulator.judge import BETWEEN, Judge, Report
from devconf.simulator.plan import Kind, Manners
from devconf.simulator.verdict import Why
from devconf.simulator.wanted import Want, Wanted, read_running, read_wanted
from tests.simulated import ALGOS, Server, fleet, give, picture, unids

success = SynchronousTestCase().successResultOf


def done(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return success(Deferred.fromCoroutine(coroutine))


# -- one reading


def test_all_pages_of_all_lists_are_read() -> None:
    server = Server(page=2)
    for number in range(5):
        server.add_device(f"dev-{number}", online=number != 3, pending=number, refused=1)
    conf = server.add_conf("c", b"<a/>")
    server.add_conf("unused", b"<b/>")
    for number in range(5):
        server.add_task(f"t{number}", f"dev-{number}", "dev-9", rev=number, name=f"gate {number}")
    server.add_task("v", task_type="video", algo_comb=None, store_conf_unid="c", state="pending")
    for number in range(3):
        server.add_subtask(f"s{number}", "v", f"dev-{number}", "refused")
    server.add_subtask("other", "v", "dev-9")
    found = done(read_wanted(server.ask, {"dev-0", "dev-3", "dev-7"}))
    video = Held(3, "video", "gate", None, digested(conf), canonical({"channel": 1}))
    assert found == {
        "dev-0": Wanted(
            True,
            0,
            1,
            {("t0", None): Want(picture(0, "gate 0"), "confirmed"), ("v", "s0"): Want(video, "refused")},
        ),
        "dev-3": Wanted(False, 3, 1, {("t3", None): Want(picture(3, "gate 3"), "confirmed")}),
    }
    assert [params for command, params in server.asked if command == "get store_confs"] == [
        {"unid": "c", "content": True}
    ]


def test_a_task_that_went_while_it_was_read_is_left_out() -> None:
    server = Server()
    server.add_device("dev-0")
    server.add_subtask("s", "gone", "dev-0")
    assert done(read_wanted(server.ask, {"dev-0"})) == {"dev-0": Wanted(True, 0, 0)}


def test_running_commands() -> None:
    server = Server(page=50)
    server.commands = [{"task_id": "t", "outcome": "ok"}, {"task_id": "t", "outcome": "running"}]
    server.commands += [{"task_id": "u", "outcome": "failed"}]
    assert done(read_running(server.ask, ["t", "u"])) == {"t"}


# -- the judge


class Bench:
    """A judge of one device that should have the picture task `t`, and has it."""

    def __init__(self, manners: Manners | None = None) -> None:
        self.clock = Clock()
        self.simulator = fleet(manners=manners, clock=self.clock)
        (self.device,) = self.simulator.devices.values()
        self.server = Server()
        self.said = self.server.add_device()
        self.task = self.server.add_task("t", "dev-0")
        give(self.device, "t", picture())
        self.judge = Judge(self.clock, self.simulator, self.server.ask, unids(self.simulator))
        self.readings = 0

    def read(self) -> int:
        """How often all has been read."""
        return [command for command, _ in self.server.asked].count("get tasks")


def begin(coroutine: Coroutine[Any, Any, Report]) -> Deferred[Report]:
    return Deferred.fromCoroutine(coroutine)


def test_nothing_differs() -> None:
    bench = Bench()
    report = success(begin(bench.judge.report()))
    assert bench.read() == 1
    assert report.ok
    assert report.as_json() == {
        "verdict": "ok",
        "seconds": 0.0,
        "devices": 1,
        "connected": 1,
        "compared": 1,
        "settled": None,
        "kinds": [
            {"kind": "well-behaved", "devices": 1, "connected": 1, "exact": 1, "explained": {}, "unexplained": 0}
        ],
        "not_in": [],
        "unexplained": [],
        "unexplained_omitted": 0,
    }


def test_what_differs_in_all_readings_is_found() -> None:
    bench = Bench()
    give(bench.device, "t", picture(name="door"))
    reporting = begin(bench.judge.report())
    bench.clock.advance(BETWEEN)
    assert not reporting.called
    bench.clock.advance(BETWEEN)
    report = success(reporting)
    assert bench.read() == 3
    assert not report.ok
    told = report.as_json()
    assert told["verdict"] == "unexplained"
    assert told["kinds"][0] | {"devices": 1, "exact": 0, "unexplained": 1} == told["kinds"][0]
    assert told["unexplained"] == [
        {
            "dev_refid": "ref-0",
            "task_id": "t",
            "subtask_id": None,
            "what": "of 'gate' name is door, and should be gate",
        }
    ]


def test_what_differs_only_while_it_is_read_is_not_found() -> None:
    bench = Bench()
    give(bench.device, "t", picture(2, "door"))
    reporting = begin(bench.judge.report())
    bench.task["name"] = "door"
    bench.clock.advance(BETWEEN)
    assert success(reporting).ok


def test_what_differs_anew_each_time_is_changing() -> None:
    bench = Bench()
    give(bench.device, "t", picture(2, "door"))
    reporting = begin(bench.judge.report())
    for rev in (3, 4):
        give(bench.device, "t", picture(rev, "door"))
        bench.clock.advance(BETWEEN)
    report = success(reporting)
    assert report.ok
    assert report.rows[0].explained == {Why.CHANGING: 1}


def test_a_command_that_runs_all_the_while_explains_it() -> None:
    bench = Bench()
    give(bench.device, "t", picture(2, "door"))
    bench.server.commands = [{"task_id": "t", "outcome": "running"}]
    report = success(begin(bench.judge.report()))
    assert bench.read() == 1
    assert report.rows[0].explained == {Why.CHANGING: 1}


def test_one_that_is_not_in_is_noted() -> None:
    bench = Bench()
    bench.device.status, bench.device.trouble = Status.OFF, "cannot connect"
    report = success(begin(bench.judge.report()))
    assert report.ok
    assert report.as_json()["not_in"] == [{"dev_refid": "ref-0", "what": "cannot connect"}]


def test_settling_waits_until_all_is_at_rest() -> None:
    bench = Bench(Manners({Kind.LATE: 1.0}))
    bench.device.application.misbehaving = True
    bench.said["pending"], bench.task["state"] = 1, "pending"
    give(bench.device, "t", picture(name="door"))
    settling = begin(bench.judge.settle(30.0))
    assert not bench.device.misbehaving
    bench.clock.pump([0.5] * 4)
    assert not settling.called
    bench.said["pending"], bench.task["state"] = 0, "confirmed"
    give(bench.device, "t", picture())
    bench.clock.advance(0.5)
    report = success(settling)
    assert (report.ok, report.settled) == (True, True)
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize("state", ["pending", "confirmed"])
def test_what_does_not_settle_in_time_is_found(state: str) -> None:
    bench = Bench()
    bench.said["pending"], bench.task["state"] = 1, state
    give(bench.device, "t", picture(name="door"))
    settling = begin(bench.judge.settle(3.0))
    bench.clock.pump([0.5] * 6)
    assert not settling.called
    bench.clock.pump([0.5] * 4)
    report = success(settling)
    assert (report.ok, report.settled) == (False, False)
    assert [finding.what for finding in report.unexplained] == ["of 'gate' name is door, and should be gate"]


def test_many_findings_are_not_all_told() -> None:
    bench = Bench()
    for number in range(130):
        give(bench.device, f"x{number}", picture())
    reporting = begin(bench.judge.report())
    bench.clock.pump([BETWEEN, BETWEEN])
    told = success(reporting).as_json()
    assert (len(told["unexplained"]), told["unexplained_omitted"]) == (100, 30)


def test_the_algos_of_these_tests_are_what_the_fleet_holds() -> None:
    assert picture().algo_comb == canonical(ALGOS)
