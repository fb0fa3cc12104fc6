"""The shortest history of a failure: steps are left out as long as it stays the same failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.run import Outcome, play
from tests.simulation.steps import Step

#: Runs that shrinking takes at most.
TRIES = 300


def shrink(failure: Outcome) -> Outcome:
    """Return the outcome of the fewest steps found that break one of the invariants that ``failure`` breaks."""
    tries = iter(range(TRIES))

    def fails(some: Sequence[Step]) -> bool:
        return next(tries, None) is not None and bool(set(play(failure.seed, some).broken) & set(failure.broken))

    return play(failure.seed, _shrink(list(failure.steps), fails))


def _shrink(left: list[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
    size = len(left) // 2
    while size:
        start = 0
        shorter = False
        while start < len(left):
            without = left[:start] + left[start + size :]
            if fails(without):
                left, shorter = without, True
            else:
                start += size
        if not shorter:
            size //= 2
        else:
            size = min(size, max(1, len(left) // 2))
    return left
