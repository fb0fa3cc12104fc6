"""Time, and all that is going to happen: the only source of both in a run."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from heapq import heappop, heappush
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

_log = Logger()

#: More than this in one run is no run but a loop without end.
TICKS_AT_MOST = 400_000


class RunawayError(Exception):
    """Events follow each other without end."""


class Timeline:
    """What is going to happen, in the order of time, and of what happens at the same time in the order of planning.

    :ivar now: seconds; monotonic, and never real.
    :ivar ticks: how many events have happened: tells before from after where the time is the same.
    :ivar before_each: called before each event, for a crash after so many.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.ticks = 0
        self.before_each: Callable[[], None] | None = None
        self._planned: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._number = 0
        self._trace = sha256()

    def note(self, what: object) -> None:
        """Take ``what`` into the :attr:`digest`."""
        self._trace.update(repr(what).encode())

    @property
    def digest(self) -> str:
        """Of all that has happened, and when: each event, and each byte that has arrived."""
        return self._trace.hexdigest()

    def at(self, when: float, function: Callable[..., Any], *args: Any) -> None:
        """Let ``function(*args)`` happen at ``when``, or now if that is past."""
        self._number += 1
        heappush(self._planned, (max(when, self.now), self._number, function, args))

    def after(self, delay: float, function: Callable[..., Any], *args: Any) -> None:
        """Let ``function(*args)`` happen after ``delay`` seconds."""
        self.at(self.now + delay, function, *args)

    def advance(self, seconds: float) -> None:
        """Let everything happen that is planned for the next ``seconds``."""
        end = self.now + seconds
        while self._planned and self._planned[0][0] <= end:
            if self.before_each is not None:
                self.before_each()
            self.now, _, function, args = heappop(self._planned)
            self.ticks += 1
            self.note((self.now, getattr(function, "__qualname__", "")))
            if self.ticks > TICKS_AT_MOST:
                raise RunawayError(f"{self.ticks} events, and no end")
            function(*args)
        self.now = end


def name_of(call: DelayedCall) -> str:
    """Return what ``call`` is for."""
    return str(getattr(call.func, "__qualname__", type(call.func).__name__))


@implementer(IReactorTime)
class ServerClock:
    """The reactor's time, for one life of the server.

    A call that raises is logged, as a reactor does. After :meth:`kill` nothing of it happens any longer.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._calls: dict[DelayedCall, None] = {}
        self._dead = False

    def seconds(self) -> float:
        """See ``IReactorTime``."""
        return self._timeline.now

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> DelayedCall:  # noqa: A002
        """See ``IReactorTime``."""
        if delay < 0:
            raise ValueError(f"a delay of {delay} seconds")
        call = DelayedCall(
            self._timeline.now + delay, callable, args, kw, self._forget, self._plan, lambda: self._timeline.now
        )
        if not self._dead:
            self._calls[call] = None
            self._plan(call)
        return call

    def _plan(self, call: DelayedCall) -> None:
        self._timeline.at(call.time, self._fire, call)

    def _forget(self, call: DelayedCall) -> None:
        self._calls.pop(call, None)

    def _fire(self, call: DelayedCall) -> None:
        if self._dead or call not in self._calls:
            return
        if call.delayed_time:
            call.activate_delay()
            self._plan(call)
            return
        if call.time > self._timeline.now:
            return
        del self._calls[call]
        call.called = 1
        self._timeline.note(name_of(call))
        try:
            call.func(*call.args, **call.kw)
        except RunawayError:
            raise
        except Exception:
            _log.failure("a delayed call failed")

    def getDelayedCalls(self) -> list[DelayedCall]:
        """See ``IReactorTime``."""
        return list(self._calls)

    def kill(self) -> None:
        """Let nothing happen any longer that has been planned on it."""
        self._dead = True
        self._calls.clear()
