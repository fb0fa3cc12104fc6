"""Catching up is paced: a device that comes and goes is not sent everything each time (``docs/protocol.md`` §6)."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds from one catch-up of a device to its next.
PAUSE = 5.0


@define
class Pace:
    """When devices were caught up last; forgotten after :data:`PAUSE`. One timer for all."""

    _clock: IReactorTime
    _began: dict[str, float] = field(factory=dict, init=False)  # in the order of time
    _timer: IDelayedCall | None = field(default=None, init=False)

    def begin(self, dev_unid: str) -> float | None:
        """Note that ``dev_unid`` is caught up now.

        :returns: None; or when it may be, if it was less than :data:`PAUSE` ago.
        """
        now = self._clock.seconds()
        began = self._began.get(dev_unid)
        if began is not None and now < began + PAUSE:
            return began + PAUSE
        self._began.pop(dev_unid, None)
        self._began[dev_unid] = now
        if self._timer is None:
            self._timer = self._clock.callLater(PAUSE, self._forget)
        return None

    def _forget(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._began:
            dev_unid, began = next(iter(self._began.items()))
            if now < began + PAUSE:
                self._timer = self._clock.callLater(began + PAUSE - now, self._forget)
                return
            del self._began[dev_unid]

    def stop(self) -> None:
        """Forget all."""
        self._began.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
