"""Waking orders that rest: after an hour they are sent once more (:mod:`devconf.store.resting`)."""

from __future__ import annotations

from collections.abc import Callable, Collection

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf.clock import Now
from devconf.model import OrderKey
from devconf.store import Store, complain, resting

#: After a failure of the store: seconds until it is asked again.
LOOK_AGAIN = 60.0


@define(eq=False)
class Resting:
    """One timer for all, for the one that has rested longest.

    :ivar _nudge: given what may be sent.
    """

    _log = Logger()

    _clock: IReactorTime
    _now: Now
    _store: Store
    _nudge: Callable[[Collection[OrderKey]], None]
    _began: float = field(init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._began = self._now() - self._clock.seconds()

    def look(self) -> None:
        """Wake what has rested long enough."""
        self._timer = None
        # Nothing rests longer because the wall clock has been set back meanwhile.
        now = max(self._now(), self._began + self._clock.seconds())
        self._store.run(resting.wake, now).addCallbacks(self._woken, self._cannot_wake)

    def added(self) -> None:
        """Note that something rests from now on: no sooner than others is its time over."""
        self._look_in(resting.REST)

    def stop(self) -> None:
        """Wake nothing more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _woken(self, woken: tuple[list[OrderKey], float | None]) -> None:
        keys, soonest = woken
        if self._stopped:
            return
        self._nudge(keys)
        if soonest is not None:
            self._look_in(soonest)

    def _cannot_wake(self, failure: Failure) -> None:
        complain(self._log, failure, "what has rested long enough could not be looked up; trying again")
        self._look_in(LOOK_AGAIN)

    def _look_in(self, seconds: float) -> None:
        # The two clocks do not agree to the last digit.
        seconds = max(1.0, seconds)
        if self._timer is not None and self._timer.getTime() > self._clock.seconds() + seconds:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and not self._stopped:
            self._timer = self._clock.callLater(seconds, self.look)
