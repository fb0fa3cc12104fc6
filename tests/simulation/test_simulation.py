"""What the simulation promises of itself. Its runs are played by ``make test``, after these tests."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation import run
from tests.simulation.campaign import ProcessDiedError, Tally, each, run_all
from tests.simulation.faults import FAULTS
from tests.simulation.model import again, answers, checkers, registers
from tests.simulation.model.checkers import CHECKERS
from tests.simulation.run import left_out
from tests.simulation.seen import EVENTS_AT_LEAST, REQUIRED, missing
from tests.simulation.steps import history
from tests.simulation.world import World

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(600)


def simulate(*arguments: str) -> tuple[int, str]:
    """Status and output of ``python -m tests.simulation``, as somebody would start it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr


def played_again(line: str, told: str) -> tuple[int, str]:
    """Do what ``told`` says after ``line``."""
    [command] = re.findall(rf"{line}: +(python .*)", told)
    _python, _m, _module, *arguments = shlex.split(command)
    return simulate(*arguments)


def failure(told: str) -> str:
    """The part of ``told`` that says what is wrong, with the history."""
    [found] = re.findall(r"\nseed \d+ breaks [^:]*:\n.*?\nto play it again", told, re.DOTALL)
    return str(found)


# -- a run is a function of its seed alone


def test_a_seed_gives_the_same_run_in_each_process() -> None:
    first, second = simulate("--seed", "11"), simulate("--seed", "11")
    assert first == second
    assert first[0] == 0
    assert re.search(r"digest [0-9a-f]{16}", first[1])


def test_a_run_does_not_depend_on_those_before_it() -> None:
    alone = [simulate("--seeds", f"{seed}:{seed + 1}", "--processes", "1")[1] for seed in (12, 13)]
    digests = [int(re.findall(r"digest ([0-9a-f]{16})", told)[0], 16) for told in alone]
    _, together = simulate("--seeds", "12:14", "--processes", "1")
    assert f"digest {digests[0] ^ digests[1]:016x}" in together


def test_each_run_is_another_one() -> None:
    assert history(1) != history(2)


# -- what a failure tells


def test_a_failure_tells_its_seed_its_shortest_history_and_how_to_play_it_again() -> None:
    status, told = simulate("--seeds", "3", "--fault", "lock not released")
    assert status == 1
    [seed] = re.findall(r"\nseed (\d+) breaks I4:\n  I4: \d+ locks are left, not 0\n", told)
    [steps] = re.findall(r"its history, (\d+) steps:", told)
    assert int(steps) <= 4
    assert len(re.findall(r"\n +\d+ after +\d+\.\d\d s  \w", told)) == int(steps)
    assert f"python -m tests.simulation --seed {seed} --fault" in told
    for line in ("to play it again", "only these steps"):
        status, again = played_again(line, told)
        assert status == 1
        assert failure(again) == failure(told)


def test_a_history_without_some_of_its_steps_is_played_as_far_as_it_is_there() -> None:
    assert [step.place for step in left_out(5, {0, 2, 9})] == [0, 2, 9]
    status, told = simulate("--seed", "5", "--only", "0,2,9")
    assert status == 0
    assert "3 steps" in told


# -- what many runs tell


def test_the_campaign_asks_for_each_kind_of_fault_and_each_precondition() -> None:
    status, told = simulate("--seeds", "1", "--require-coverage")
    assert status == 1
    lacking = re.findall(r"in none of these runs: (.*)", told)
    assert "network: cut" in lacking
    assert set(lacking) < set(REQUIRED)
    assert EVENTS_AT_LEAST == 200


def test_each_invariant_has_a_checker_and_a_precondition() -> None:
    invariants = [f"I{number}" for number in range(1, 10)]
    assert list(CHECKERS) == invariants
    assert {f"precondition: {name}" for name in invariants} <= set(REQUIRED)


def test_the_design_names_each_invariant_with_what_checks_it() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (I\d) \| .* \| (.*) \|$", design, re.MULTILINE)
    assert [name for name, _ in rows] == list(CHECKERS)
    modules = {"checkers": checkers, "registers": registers, "again": again, "answers": answers, "World": World}
    for name, by in rows:
        assert f"`checkers.{name.lower()}`" in by
        for owner, checker in re.findall(r"`(\w+)\.(\w+)`", by.replace("run.py", "")):
            assert callable(getattr(modules[owner], checker))


def test_each_invariant_is_broken_by_one_of_the_deliberate_faults() -> None:
    assert {name for fault in FAULTS.values() for name in fault.by} == set(CHECKERS)
    assert sum(fault.required for fault in FAULTS.values()) == 12


def test_nothing_is_missing_where_everything_was_seen() -> None:
    assert missing(Counter(REQUIRED)) == []


def test_a_run_in_which_the_simulation_itself_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_world: object, step: object) -> None:
        raise ZeroDivisionError(f"at {step}")

    monkeypatch.setattr(run, "take", fail)
    outcome = run.play(0)
    assert outcome.broken == ["the simulation itself"]
    assert "ZeroDivisionError" in outcome.complaints[0][1]


def test_a_process_that_dies_is_told_of() -> None:
    with pytest.raises(ProcessDiedError, match=r"a process has died; it played one of \[0, 1"):
        list(each(os._exit, range(20), 2))


def test_an_interrupt_ends_many_runs_with_what_has_been_played() -> None:
    def interrupt(_outcome: object, tally: Tally) -> None:
        if tally.runs == 15:
            raise KeyboardInterrupt

    tally = run_all(range(10_000), 2, interrupt)
    assert tally.runs == 15
    assert tally.failures == []
