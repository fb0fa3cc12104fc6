"""What is to be done later: any number of things, and one timer."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime


@define(eq=False)
class Agenda:
    """Calls functions when their time has come, in the order of time, and then of asking."""

    _clock: IReactorTime
    _due: list[tuple[float, int, Callable[[], object]]] = field(factory=list, init=False)
    _numbers: count[int] = field(factory=count, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def at(self, time: float, function: Callable[[], object]) -> None:
        """Call ``function`` at ``time``, or soon if that is over; never at once, and not after :meth:`stop`."""
        if self._stopped:
            return
        heappush(self._due, (time, next(self._numbers), function))
        if self._due[0][2] is function:
            self._arm()

    def after(self, seconds: float, function: Callable[[], object]) -> None:
        """Call ``function`` in so many seconds."""
        self.at(self._clock.seconds() + seconds, function)

    def stop(self) -> None:
        """Call nothing any longer."""
        self._stopped = True
        self._due.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._due:
            self._timer = self._clock.callLater(max(0.0, self._due[0][0] - self._clock.seconds()), self._run)

    def _run(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        # What is asked for meanwhile has its turn the next time, so that others have theirs.
        due = []
        while self._due and self._due[0][0] <= now:
            due.append(heappop(self._due)[2])
        try:
            for function in due:
                function()
        finally:
            if self._timer is None:
                self._arm()
