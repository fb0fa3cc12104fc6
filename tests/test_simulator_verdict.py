"""The verdict: whatever a device holds that it should not, or not so, is found, and what explains it is told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from attrs import evolve

from devconf.device import Key
from devconf.simulator.application import canonical, digested
from devconf.simulator.fleet import SimulatedDevice, Simulator, Status
from devconf.simulator.plan import Kind, Manners
from devconf.simulator.verdict import Comparison, Why, compare, rows
from devconf.simulator.wanted import Want, Wanted
from tests.simulated import fleet, give, picture, unids

Tasks = dict[Key, Want]

PLAIN = Wanted(online=True, pending=0, refused=0)


def wanted(state: str = "confirmed", *, pending: int = 0, refused: int = 0, online: bool = True) -> dict[str, Wanted]:
    """dev-0 should have the picture task `t`."""
    return {"dev-0": Wanted(online, pending, refused, {("t", None): Want(picture(), state)})}


def look(simulator: Simulator, said: dict[str, Wanted], *running: str, settled: bool = False) -> Comparison:
    return compare(simulator.devices.values(), unids(simulator), said, running, settled=settled)


def only(simulator: Simulator) -> SimulatedDevice:
    (device,) = simulator.devices.values()
    return device


def whys(comparison: Comparison) -> list[Why | None]:
    return [finding.why for finding in comparison.findings]


# -- what differs is found


def test_one_that_holds_what_it_should() -> None:
    simulator = fleet()
    give(only(simulator), "t", picture(rev=7))  # the counter of the task may be elsewhere
    comparison = look(simulator, wanted())
    assert (comparison.findings, comparison.compared) == ([], 1)
    assert look(simulator, wanted(), settled=True).findings == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"name": "door"}, "of 'gate' name is door, and should be gate"),
        ({"task_type": "video"}, "of 'gate' task_type is video, and should be pic"),
        (
            {"algo_comb": None},
            'of \'gate\' algo_comb is nothing, and should be [{"algo_id":"face","enabled":true,"params":{}}]',
        ),
        ({"store_conf": '{"unid":"c"}'}, "of 'gate' store_conf differs"),
        ({"vchan": '{"password":"secret"}'}, "of 'gate' vchan differs"),
        ({"name": "x", "vchan": "{}"}, "of 'gate' name is x, and should be gate; vchan differs"),
    ],
)
def test_each_part_that_differs_is_found(changes: dict[str, Any], what: str) -> None:
    simulator = fleet()
    give(only(simulator), "t", picture(**changes))
    (finding,) = look(simulator, wanted()).findings
    assert (finding.dev_refid, finding.key, finding.what, finding.why) == ("ref-0", ("t", None), what, None)


def test_what_it_lacks_is_found_and_what_it_has_too_much() -> None:
    simulator = fleet()
    give(only(simulator), "u", picture(name="door"))
    give(only(simulator), "t", picture(), "s")  # not the task itself
    comparison = look(simulator, wanted())
    assert sorted((str(finding.key), finding.what, finding.why) for finding in comparison.findings) == [
        ("('t', 's')", "it holds 'gate', which it should not have", None),
        ("('t', None)", "it lacks 'gate'", None),
        ("('u', None)", "it holds 'door', which it should not have", None),
    ]
    assert comparison.compared == 3
    assert comparison.unexplained == comparison.findings


def test_one_that_the_server_does_not_know() -> None:
    (finding,) = look(fleet(), {}).findings
    assert (finding.what, finding.why) == ("the server does not know it", None)


# -- what the server says explains it


@pytest.mark.parametrize("state", ["pending", "refused"])
def test_a_state_explains_as_many_tasks_as_the_device_has_such_orders(state: str) -> None:
    simulator = fleet()
    tasks: Tasks = {(task_id, None): Want(picture(), state) for task_id in "tuv"}
    said = {"dev-0": Wanted(True, **{"pending": 0, "refused": 0, state: 2}, tasks=tasks)}
    assert sorted(map(str, whys(look(simulator, said)))) == ["None", f"Why.{state.upper()}", f"Why.{state.upper()}"]


def test_another_device_being_pending_explains_nothing() -> None:
    assert whys(look(fleet(), wanted("pending"))) == [None]
    assert whys(look(fleet(), wanted("pending", pending=1))) == [Why.PENDING]
    assert whys(look(fleet(), wanted("confirmed", pending=1))) == [None]


def test_a_subtask_has_a_state_of_its_own() -> None:
    simulator = fleet()
    tasks: Tasks = {("t", name): Want(picture(), name) for name in ("pending", "refused", "confirmed")}
    said = {"dev-0": Wanted(True, 1, 1, tasks)}
    assert whys(look(simulator, said)) == [Why.PENDING, Why.REFUSED, None]
    # These are counted for the device as well, and are no explanation for anything else.
    tasks["u", None] = Want(picture(), "pending")
    assert whys(look(simulator, said)) == [Why.PENDING, Why.REFUSED, None, None]


def test_what_is_still_to_be_deleted() -> None:
    simulator = fleet()
    give(only(simulator), "u", picture())
    assert whys(look(simulator, {"dev-0": PLAIN})) == [None]
    assert whys(look(simulator, {"dev-0": evolve(PLAIN, pending=1)})) == [Why.PENDING]


def test_what_it_refused_to_delete() -> None:
    """A forced delete ends with whatever the device says."""
    simulator = fleet()
    give(only(simulator), "u", picture())
    only(simulator).application.refused.add(("u", None))
    assert whys(look(simulator, {"dev-0": PLAIN})) == [Why.REFUSED]
    assert whys(look(simulator, {"dev-0": PLAIN}, settled=True)) == [Why.REFUSED]


def test_a_command_that_is_under_way_leaves_its_task_undecided() -> None:
    simulator = fleet()
    assert whys(look(simulator, wanted("confirmed"), "t")) == [Why.CHANGING]
    assert whys(look(simulator, wanted("confirmed"), "u")) == [None]


# -- where the device is


def test_one_that_begins_with_nothing() -> None:
    simulator = fleet()
    only(simulator).status, only(simulator).blank = Status.COMING, True
    comparison = look(simulator, wanted())
    assert whys(comparison) == [Why.NOT_IN, Why.NOT_IN]
    assert comparison.findings[0].what == "it is coming in"


def test_one_that_was_re_imaged() -> None:
    simulator = fleet(manners=Manners({Kind.FORGETTING: 1.0}))
    device = only(simulator)
    device.status, device.blank, device.application.misbehaving = Status.WAITING, True, True
    assert whys(look(simulator, wanted())) == [Why.MISBEHAVING, Why.MISBEHAVING]
    # In again, it has been told all, or the server says that it is pending.
    device.came_in(1.0)
    assert whys(look(simulator, wanted())) == [None]


def test_one_that_is_away_for_a_while_holds_what_it_held() -> None:
    simulator = fleet()
    give(only(simulator), "t", picture())
    only(simulator).status = Status.OFF
    assert whys(look(simulator, wanted(online=False))) == [Why.NOT_IN]
    give(only(simulator), "t", picture(name="x"))
    assert whys(look(simulator, wanted(online=False))) == [Why.NOT_IN, None]


def test_one_that_has_never_been_in_and_cannot() -> None:
    simulator = fleet()
    device = only(simulator)
    device.status, device.blank, device.trouble = Status.OFF, True, "cannot connect: 1004010003: wrong"
    (finding,) = look(simulator, {"dev-0": PLAIN}).findings
    assert (finding.what, finding.why) == ("cannot connect: 1004010003: wrong", None)


# -- when all should be at rest


def test_at_rest_pending_explains_nothing() -> None:
    simulator = fleet()
    assert whys(look(simulator, wanted("pending", pending=1), "t", settled=True)) == [None]
    assert whys(look(simulator, wanted("refused", refused=1), settled=True)) == [Why.REFUSED]


def test_at_rest_all_are_in_and_online() -> None:
    simulator = fleet()
    (finding,) = look(simulator, {"dev-0": evolve(PLAIN, online=False)}, settled=True).findings
    assert (finding.what, finding.why) == ("it is connected, and the server says that it is offline", None)
    only(simulator).status = Status.WAITING
    (finding,) = look(simulator, {"dev-0": PLAIN}, settled=True).findings
    assert (finding.what, finding.why) == ("it is waiting for its turn to come in", None)


# -- the table


def test_each_device_is_counted_once_for_the_worst_of_it() -> None:
    simulator = fleet(40, Manners({Kind.LATE: 0.5}))
    devices = list(simulator.devices.values())
    late = [device for device in devices if device.plan.kind is Kind.LATE]
    well = [device for device in devices if device.plan.kind is Kind.WELL]
    said = dict.fromkeys(unids(simulator).values(), PLAIN)

    def should(device: SimulatedDevice, *states: str) -> None:
        tasks: Tasks = {("t", f"{number} {state}"): Want(picture(), state) for number, state in enumerate(states)}
        said[unids(simulator)[device.dev_refid]] = Wanted(True, 0, 0, tasks)

    should(late[0], "pending", "refused")
    should(late[1], "pending", "pending")
    should(well[0], "refused", "confirmed", "pending")
    late[2].status = Status.OFF
    comparison = look(simulator, said)
    good, bad = rows(devices, comparison)
    assert (good.kind, good.devices, good.connected, good.exact) == (Kind.WELL, len(well), len(well), len(well) - 1)
    assert (good.explained, good.unexplained) == (Counter(), 1)
    assert (bad.kind, bad.devices, bad.connected, bad.exact) == (Kind.LATE, len(late), len(late) - 1, len(late) - 3)
    assert (bad.explained, bad.unexplained) == ({Why.REFUSED: 1, Why.PENDING: 1, Why.NOT_IN: 1}, 0)


# -- what is compared


def test_equal_json_is_equal_however_it_is_written() -> None:
    assert canonical({"b": [1, {"d": 1, "c": 2}], "a": None}) == canonical({"a": None, "b": [1, {"c": 2, "d": 1}]})
    assert canonical([1, 2]) != canonical([2, 1])
    assert canonical(None) is None


def test_a_content_is_compared_byte_for_byte() -> None:
    conf = {"unid": "c", "name": "n", "file_ext": "xml", "file_b64": "PGEvPg==", "rev": 3}
    assert digested(conf) == digested({**conf, "rev": 4})
    for name, other in (("unid", "d"), ("name", "m"), ("file_ext", "json"), ("file_b64", "PGIvPg==")):
        assert digested(conf) != digested({**conf, name: other})
    assert "PGEvPg" not in (digested(conf) or "")
