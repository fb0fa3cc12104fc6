"""Many runs, on several cores, and what they have seen together.

A run is a function of its seed only if Python hashes texts the same way each time, so :func:`same_hashes` starts the
program anew where that is not so.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from attrs import define, field
from twisted.logger import ILogObserver, LogEvent, globalLogBeginner
from zope.interface import implementer

from tests.simulation.faults import FAULTS
from tests.simulation.run import Outcome, play

#: A fault that these many runs do not find is not found.
SEEDS_FOR_A_FAULT = 400

T = TypeVar("T")
R = TypeVar("R")


def same_hashes(arguments: list[str]) -> None:
    """Start this program anew if sets of texts have another order in each process."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *arguments], environment)


def prepare() -> None:
    """Make this process fit for many runs: nothing is logged, and the collector passes over what is loaded."""
    globalLogBeginner.beginLoggingTo([_nowhere], redirectStandardIO=False, discardBuffer=True)
    play(0, [])
    gc.collect()
    gc.freeze()


@implementer(ILogObserver)
def _nowhere(_event: LogEvent) -> None:
    """Each run looks at the log itself."""


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=prepare) as pool:
        yield pool


def _each(function: Callable[[T], R], items: Iterable[T], processes: int, chunk: int) -> Iterator[R]:
    if processes == 1:
        prepare()
        yield from map(function, items)
    else:
        with _pool(processes) as pool:
            yield from pool.map(function, items, chunksize=chunk)


@define
class Tally:
    """What many runs have seen.

    :ivar failures: the outcomes with something wrong; :ivar fewest: the events of the run that had the fewest.
    """

    runs: int = 0
    seconds: float = 0.0
    events: int = 0
    fewest: int = sys.maxsize
    seen: Counter[str] = field(factory=Counter)
    failures: list[Outcome] = field(factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take in one run."""
        self.runs += 1
        self.events += outcome.events
        self.fewest = min(self.fewest, outcome.events)
        self.seen.update(outcome.seen)
        if outcome.complaints:
            self.failures.append(outcome)


def run_all(seeds: Iterable[int], processes: int, told: Callable[[Outcome], None] = lambda _outcome: None) -> Tally:
    """Play the runs ``seeds``; ``told`` hears of each."""
    tally = Tally()
    began = time.monotonic()
    for outcome in _each(play, seeds, processes, 10):
        tally.add(outcome)
        told(outcome)
    tally.seconds = time.monotonic() - began
    return tally


@define
class Found:
    """How a deliberate fault was found: in the how-manieth run, and by which invariants; 0: not at all."""

    name: str
    required: bool
    runs: int
    broken: list[str]
    complaint: str


def find(name: str) -> Found:
    """Play run after run with the fault ``name``, until one of them finds it."""
    fault = FAULTS[name]
    for seed in range(SEEDS_FOR_A_FAULT):
        outcome = play(seed, fault=fault.present())
        if set(outcome.broken) & set(fault.by):
            return Found(name, fault.required, seed + 1, outcome.broken, outcome.complaints[0][1])
        # Only an error in the log: the fault was put in wrongly, and proves nothing.
        if outcome.broken == ["I8"]:
            return Found(name, fault.required, 0, outcome.broken, dict(outcome.complaints)["I8"])
    return Found(name, fault.required, 0, [], "")


def find_all(processes: int, names: Iterable[str] = tuple(FAULTS)) -> Iterator[Found]:
    """Find each of the deliberate faults."""
    return _each(find, names, processes, 1)
