"""Many runs, on several cores, and what they have seen together."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cache, partial
from hashlib import sha256
from typing import TypeVar

from attrs import define, field
from twisted.logger import ILogObserver, LogEvent, globalLogBeginner
from zope.interface import implementer

from tests.simulation.faults import FAULTS
from tests.simulation.run import Outcome, play

#: Runs that a process plays before it tells of them.
AT_ONCE = 10
#: Outcomes of runs with something wrong that are kept.
KEPT = 10
#: A fault that these many runs do not find is not found.
SEEDS_FOR_A_FAULT = 1000

T = TypeVar("T")
R = TypeVar("R")


@cache
def prepare() -> None:
    """Make this process fit for many runs: nothing is logged, and the collector passes over what is loaded."""
    globalLogBeginner.beginLoggingTo([_nowhere], redirectStandardIO=False, discardBuffer=True)
    play(0, [])
    gc.collect()
    gc.freeze()


@implementer(ILogObserver)
def _nowhere(_event: LogEvent) -> None:
    """Each run looks at the log itself."""


class ProcessDiedError(Exception):
    """A process has ended in the middle of a run, as one does that is killed."""


def _begin_process() -> None:
    # An interrupt is for the program that has started this one; it lets what is under way come to its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()


def each(function: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    """Return what ``function`` makes of each of ``items``, in their order, and hold no more of them than are needed.

    :raises ProcessDiedError: a process has ended; of the items that it can have been.
    """
    if processes == 1:
        prepare()
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin_process) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > 4 * processes:
                    yield waiting[0][1].result()
                    waiting.popleft()
            while waiting:
                yield waiting[0][1].result()
                waiting.popleft()
        except BrokenProcessPool:
            last = [item for item, future in waiting if not future.done() or future.exception() is not None]
            raise ProcessDiedError(f"a process has died; it played one of {last[: 2 * processes]}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@define
class Tally:
    """What many runs have seen.

    :ivar failed: how many had something wrong; :ivar failures: the outcomes of the first of them.
    :ivar fewest: the events of the run that had the fewest.
    :ivar memory: bytes that the process which took most had.
    :ivar digest: of all of them, in whatever order.
    """

    runs: int = 0
    seconds: float = 0.0
    events: int = 0
    fewest: int = sys.maxsize
    memory: int = 0
    digest: int = 0
    failed: int = 0
    seen: Counter[str] = field(factory=Counter)
    failures: list[Outcome] = field(factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take in one run."""
        self.runs += 1
        self.events += outcome.events
        self.fewest = min(self.fewest, outcome.events)
        self.digest ^= int(sha256(f"{outcome.seed} {outcome.digest}".encode()).hexdigest()[:16], 16)
        self.seen.update(outcome.seen)
        if outcome.complaints:
            self.failed += 1
            if len(self.failures) < KEPT:
                self.failures.append(outcome)


def _some(seeds: range, fault: str) -> tuple[list[Outcome], int]:
    outcomes = [play(seed, fault=FAULTS[fault].present() if fault else None) for seed in seeds]
    return outcomes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_all(
    seeds: range, processes: int, told: Callable[[Outcome, Tally], None] = lambda *_: None, fault: str = ""
) -> Tally:
    """Play the runs ``seeds``; ``told`` hears of each. An interrupt ends it early.

    :raises ProcessDiedError: a process has ended in the middle of a run.
    """
    tally = Tally()
    began = time.monotonic()
    some = (seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE))
    with suppress(KeyboardInterrupt):
        for outcomes, memory in each(partial(_some, fault=fault), some, processes):
            tally.memory = max(tally.memory, memory)
            tally.seconds = time.monotonic() - began
            for outcome in outcomes:
                tally.add(outcome)
                told(outcome, tally)
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
    return each(find, names, processes)
