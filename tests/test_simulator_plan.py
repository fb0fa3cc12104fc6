"""The plan: who misbehaves, how and when, by the seed and the device's name alone."""

from __future__ import annotations

from collections import Counter

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from devconf.simulator.plan import MISBEHAVING, Kind, Manners, WrongShares, plan, spread

NAMES = [f"sim-{number:05}" for number in range(1, 2001)]
TENTH = Manners(spread(0.1, {}), latency=0.02, every=60.0, late_by=12.0)


def test_the_same_seed_makes_the_same_plan() -> None:
    assert [plan(7, name, TENTH) for name in NAMES] == [plan(7, name, TENTH) for name in reversed(NAMES)][::-1]
    assert [plan(7, name, TENTH) for name in NAMES] != [plan(8, name, TENTH) for name in NAMES]


def test_it_is_the_same_in_every_process_and_version() -> None:
    """What these are is of no importance; that they change would be."""
    its = plan(1, "sim-00003", Manners({Kind.LATE: 1.0}, latency=0.02))
    assert (its.kind, its.takes, its.ecode) == (Kind.LATE, False, 31)
    drawn = (its.latency, its.first, its.period, its.lasting, its.delay, its.linger, its.rate)
    assert [round(value, 4) for value in drawn] == [0.0229, 25.5213, 47.0291, 14.2337, 15.3217, 4.5905, 7411.6444]


def test_a_share_is_a_share() -> None:
    kinds = Counter(plan(1, name, Manners({Kind.SILENT: 0.25, Kind.DOUBLE: 0.05})).kind for name in NAMES)
    assert set(kinds) == {Kind.WELL, Kind.SILENT, Kind.DOUBLE}
    assert 400 < kinds[Kind.SILENT] < 600
    assert 60 < kinds[Kind.DOUBLE] < 140


def test_misbehaving_is_spread_over_all_kinds() -> None:
    kinds = Counter(plan(1, name, Manners(spread(0.8, {}))).kind for name in NAMES)
    assert set(kinds) == set(Kind)
    assert all(140 < kinds[kind] < 260 for kind in MISBEHAVING)


def test_other_shares_change_who_misbehaves_but_not_when_and_how() -> None:
    some, more = Manners({Kind.REFUSING: 0.1}), Manners({Kind.REFUSING: 0.2})
    for name in NAMES[:100]:
        less, than = plan(1, name, some), plan(1, name, more)
        assert evolve(less, kind=than.kind) == than
        assert less.kind is Kind.WELL or than.kind is Kind.REFUSING


@given(st.integers(), st.text(), st.integers(0, 50))
def test_a_device_behaves_well_between_two_misbehaviours(seed: int, name: str, number: int) -> None:
    its = plan(seed, name, TENTH)
    begin, end = its.window(number)
    assert 0 <= its.first <= its.period
    assert 0.25 * its.period <= its.lasting <= 0.5 * its.period
    assert 0.75 * 60 <= its.period <= 1.25 * 60
    assert end - begin == pytest.approx(its.lasting)
    assert its.window(number + 1)[0] - begin == pytest.approx(its.period)


def test_spread_adds_to_what_is_there() -> None:
    assert spread(0.0, {}) == dict.fromkeys(MISBEHAVING, 0.0)
    assert spread(0.8, {Kind.LATE: 0.05}) == pytest.approx({**dict.fromkeys(MISBEHAVING, 0.1), Kind.LATE: 0.15})
    without = tuple(kind for kind in MISBEHAVING if kind is not Kind.DOUBLE)
    assert spread(0.7, {}, without) == pytest.approx(dict.fromkeys(without, 0.1))


def test_there_are_not_more_shares_than_devices() -> None:
    with pytest.raises(WrongShares, match="the shares make 120% of the devices; they may make 100 % at most"):
        Manners({Kind.LATE: 0.7, Kind.SILENT: 0.5})
    assert Manners(spread(1.0, {})).shares
