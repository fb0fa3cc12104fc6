"""``python -m tests.simulation``: one run, many, or the deliberate faults; see README.md beside this file."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext

from tests.simulation.campaign import Found, Tally, find_all, prepare, run_all, same_hashes
from tests.simulation.faults import FAULTS
from tests.simulation.run import Outcome, left_out, play, seeds_from
from tests.simulation.seen import EVENTS_AT_LEAST, missing
from tests.simulation.shrink import shrink
from tests.simulation.trace import traced


def main(arguments: list[str]) -> int:
    """Do what ``arguments`` say; returns 0 if nothing is wrong."""
    options = _parser().parse_args(arguments)
    same_hashes(arguments)
    if options.faults:
        return _faults(options.processes)
    if options.seed is not None:
        return _one(options)
    return _many(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="play one run, and shrink its history if it fails")
    which.add_argument("--seeds", type=seeds_from, help="play so many runs, or those from FIRST:END")
    which.add_argument("--faults", action="store_true", help="show how soon each deliberate fault is found")
    parser.add_argument("--only", type=_places, help="of --seed: the steps to keep, such as 0,3,17")
    parser.add_argument("--fault", choices=FAULTS, metavar="NAME", help="of --seed: with this deliberate fault")
    parser.add_argument("--trace", action="store_true", help="of --seed: print all that happens; nothing is shrunk")
    parser.add_argument("--no-shrink", action="store_true", help="of --seed: show the history as it is")
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
    with FAULTS[options.fault].present() if options.fault else nullcontext():
        with traced() if options.trace else nullcontext():
            outcome = play(options.seed, steps)
        if outcome.complaints and steps is None and not (options.no_shrink or options.trace):
            print(f"seed {options.seed} fails: {', '.join(outcome.broken)}; looking for the shortest history ...")
            outcome = shrink(outcome)
    if not outcome.complaints:
        told = f"{len(outcome.steps)} steps, {outcome.events} events, digest {outcome.digest}"
        print(f"seed {options.seed}: nothing is wrong ({told})")
        return 0
    _tell(outcome, f' --fault "{options.fault}"' if options.fault else "")
    return 1


def _tell(outcome: Outcome, options: str = "") -> None:
    print(f"\nseed {outcome.seed} breaks {', '.join(outcome.broken)}:")
    for invariant, complaint in outcome.complaints[:10]:
        print(f"  {invariant}: {complaint}")
    print(f"\nits history, {len(outcome.steps)} steps:")
    for step in outcome.steps:
        print(f"  {step}")
    places = ",".join(str(step.place) for step in outcome.steps)
    again = f"python -m tests.simulation --seed {outcome.seed}{options}"
    print(f"\nto play it again:  {again}\nonly these steps:  {again} --only {places or '-1'}\n")


# -- many


def _many(options: argparse.Namespace) -> int:
    count = iter(range(1, sys.maxsize))

    def told(outcome: Outcome) -> None:
        if (number := next(count)) % 1000 == 0 and number < len(options.seeds):
            print(f"{number} runs of {len(options.seeds)}", flush=True)
        if outcome.complaints:
            invariant, complaint = outcome.complaints[0]
            print(f"seed {outcome.seed} breaks {', '.join(outcome.broken)}: {invariant}: {complaint[:300]}", flush=True)

    tally = run_all(options.seeds, options.processes, told)
    if tally.failures:
        _tell(shrink(tally.failures[0]))
    lacking = missing(tally.seen) if options.require_coverage else []
    for what in lacking:
        print(f"in none of these runs: {what}")
    few = tally.fewest < EVENTS_AT_LEAST
    if few:
        print(f"a run had {tally.fewest} events, and {EVENTS_AT_LEAST} are the fewest that count")
    print(_summary(tally))
    return 1 if tally.failures or lacking or few else 0


def _summary(tally: Tally) -> str:
    failed = f"{len(tally.failures)} failed" if tally.failures else "nothing is wrong"
    return (
        f"{tally.runs} runs, {tally.events} events (at least {tally.fewest} in each), "
        f"{tally.seen['server: kill'] + tally.seen['server: power cut']} crashes, "
        f"{tally.seconds:.0f} s: {failed}"
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
