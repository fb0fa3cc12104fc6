"""What ``python -m tests.simulation`` does: one run, many, or the deliberate faults."""

from __future__ import annotations

import argparse
import os
from contextlib import AbstractContextManager, nullcontext

from tests.simulation.campaign import Found, ProcessDiedError, Tally, find_all, prepare, run_all
from tests.simulation.faults import FAULTS
from tests.simulation.run import Outcome, left_out, play, seeds_from
from tests.simulation.seen import EVENTS_AT_LEAST, REQUIRED, missing
from tests.simulation.shrink import shrink
from tests.simulation.trace import traced

#: Failures that are told of at once, while others are played.
SHOWN = 20


def main(arguments: list[str]) -> int:
    """Do what ``arguments`` say; returns 0 if nothing is wrong."""
    options = _parser().parse_args(arguments)
    if options.faults:
        return _faults(options.processes)
    if options.seed is not None:
        return _one(options)
    return _many(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="See tests/simulation/README.md.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="play one run, and shrink its history if it fails")
    which.add_argument("--seeds", type=seeds_from, help="play so many runs, or those from FIRST:END")
    which.add_argument("--faults", action="store_true", help="show how soon each deliberate fault is found")
    parser.add_argument("--only", type=_places, help="of --seed: the steps to keep, such as 0,3,17")
    parser.add_argument("--fault", choices=FAULTS, metavar="NAME", help="with this deliberate fault")
    parser.add_argument("--trace", action="store_true", help="of --seed: print all that happens; nothing is shrunk")
    parser.add_argument("--no-shrink", action="store_true", help="show the history of a failure as it is")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many at a time (all cores)")
    parser.add_argument(
        "--require-coverage", action="store_true", help="of --seeds: fail if a kind of fault is missing"
    )
    return parser


def _places(text: str) -> set[int]:
    return {int(place) for place in text.split(",") if place}


# -- one run


def _one(options: argparse.Namespace) -> int:
    prepare()
    steps = None if options.only is None else left_out(options.seed, options.only)
    with _fault(options), traced() if options.trace else nullcontext():
        outcome = play(options.seed, steps)
        if not outcome.complaints:
            told = f"{len(outcome.steps)} steps, {outcome.events} events, digest {outcome.digest}"
            print(f"seed {options.seed}: nothing is wrong ({told})")
            return 0
        shorter = steps is None and not (options.no_shrink or options.trace)
        _tell(outcome, options, shorter=shorter)
    return 1


def _fault(options: argparse.Namespace) -> AbstractContextManager[None]:
    return FAULTS[options.fault].present() if options.fault else nullcontext()


def _tell(outcome: Outcome, options: argparse.Namespace, *, shorter: bool) -> None:
    if shorter:
        print(f"seed {outcome.seed} fails: {', '.join(outcome.broken)}; looking for the shortest history ...")
        outcome = shrink(outcome)
    print(f"\nseed {outcome.seed} breaks {', '.join(outcome.broken)}:")
    for invariant, complaint in outcome.complaints[:10]:
        print(f"  {invariant}: {complaint}")
    print(f"\nits history, {len(outcome.steps)} steps:")
    for step in outcome.steps:
        print(f"  {step}")
    places = ",".join(str(step.place) for step in outcome.steps)
    again = f"python -m tests.simulation --seed {outcome.seed}"
    again += f' --fault "{options.fault}"' if options.fault else ""
    print(f'\nto play it again:  {again}\nonly these steps:  {again} --only "{places}"\n')


# -- many


def _many(options: argparse.Namespace) -> int:
    runs = len(options.seeds)

    def told(outcome: Outcome, tally: Tally) -> None:
        if outcome.complaints and tally.failed <= SHOWN:
            invariant, complaint = outcome.complaints[0]
            print(f"seed {outcome.seed} breaks {', '.join(outcome.broken)}: {invariant}: {complaint[:300]}", flush=True)
        if tally.runs % 1000 == 0 and tally.runs < runs:
            left = tally.seconds / tally.runs * (runs - tally.runs)
            print(
                f"{tally.runs} runs of {runs}, {tally.failed} failed; {_time(tally.seconds)}, "
                f"about {_time(left)} to go; {tally.memory >> 20} MiB at most in a process",
                flush=True,
            )

    try:
        tally = run_all(options.seeds, options.processes, told, options.fault or "")
    except ProcessDiedError as error:
        print(error)
        return 2
    if tally.failures:
        prepare()
        with _fault(options):
            _tell(tally.failures[0], options, shorter=not options.no_shrink)
    lacking = missing(tally.seen) if options.require_coverage else []
    for what in lacking:
        print(f"in none of these runs: {what}")
    few = tally.fewest < EVENTS_AT_LEAST
    if few:
        print(f"a run had {tally.fewest} events, and {EVENTS_AT_LEAST} are the fewest that count")
    if tally.runs < runs:
        print(f"interrupted after {tally.runs} of {runs} runs")
    print(_summary(tally))
    return 1 if tally.failed or lacking or few or tally.runs < runs else 0


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds:.0f} s"


def _summary(tally: Tally) -> str:
    failed = f"{tally.failed} failed" if tally.failed else "nothing is wrong"
    occurred = len(REQUIRED) - len(missing(tally.seen))
    return (
        f"{tally.runs} runs, {tally.events} events (at least {tally.fewest} in each), "
        f"{tally.seen['server: kill'] + tally.seen['server: power cut']} crashes, "
        f"{occurred} of {len(REQUIRED)} kinds of fault and preconditions of I1 to I9, "
        f"{tally.seconds:.0f} s, digest {tally.digest:016x}: {failed}"
    )


# -- deliberate faults


def _faults(processes: int) -> int:
    print(f"{'deliberate fault':40}  found in run  by")
    found = []
    for each in find_all(processes):
        found.append(each)
        print(_line(each), flush=True)
    missed = [each.name for each in found if not each.runs]
    print(f"{len(found)} faults ({sum(each.required for each in found)} of the issue), {len(missed)} not found")
    return 1 if missed else 0


def _line(found: Found) -> str:
    runs = str(found.runs) if found.runs else "never"
    return f"{found.name:40}  {runs:>12}  {', '.join(found.broken)}"
