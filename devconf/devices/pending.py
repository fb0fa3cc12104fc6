"""What one connection has asked of its device and not yet heard back.

A request is in the table if and only if its Deferred has not fired: answer, timeout and loss leave by one door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from devconf.wire import DeviceAnswer


class NoAnswer(Exception):
    """The device did not answer a request in time; it may still do."""


class Withdrawn(Exception):
    """Who asked has gone before the device was asked."""


class ConnectionGone(Exception):
    """The connection was lost before the device answered."""


@frozen
class _Waiting:
    deadline: float
    answer: Deferred[DeviceAnswer]


@define
class PendingRequests:
    """The table.

    :ivar _freed: called after a request has left it.
    """

    _clock: IReactorTime
    _freed: Callable[[], None]
    _waiting: dict[str, _Waiting] = field(factory=dict, init=False)
    # One timer for all: armed for the soonest deadline, and left alone when that request is answered.
    _timer: IDelayedCall | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, req_id: object) -> bool:
        return req_id in self._waiting

    def oldest(self) -> str | None:
        """Return the ``req_id`` that has waited longest."""
        return next(iter(self._waiting), None)

    def expect(self, req_id: str, timeout: float) -> Deferred[DeviceAnswer]:
        """Wait for the answer to ``req_id``.

        :param timeout: seconds.
        :returns: fires with the answer; fails with :class:`NoAnswer` or :class:`ConnectionGone`.
        """
        if self._closed:
            return fail(ConnectionGone())
        answer: Deferred[DeviceAnswer] = Deferred()
        deadline = self._clock.seconds() + timeout
        if self._timer is None or self._timer.getTime() > deadline:
            self._arm(timeout)
        self._waiting[req_id] = _Waiting(deadline, answer)
        answer.addBoth(self._forget, req_id)
        return answer

    def _forget(self, result: Any, req_id: str) -> Any:
        self._waiting.pop(req_id, None)
        return result

    def fire(self, req_id: str, answer: DeviceAnswer) -> bool:
        """Give ``answer`` to who waits for it.

        :returns: False if nobody does: it is late, or was never asked for.
        """
        waiting = self._waiting.get(req_id)
        if waiting is None:
            return False
        waiting.answer.callback(answer)
        self._freed()
        return True

    def close(self) -> None:
        """Fail all that waits with :class:`ConnectionGone`, and whatever is asked later too."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:  # not a for: an errback may ask again
            _, waiting = self._waiting.popitem()
            waiting.answer.errback(ConnectionGone())

    def _arm(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer = self._clock.callLater(max(0.0, delay), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for waiting in [waiting for waiting in self._waiting.values() if waiting.deadline <= now]:
            if not waiting.answer.called:
                waiting.answer.errback(NoAnswer())
        # Whoever has asked again meanwhile may have armed it for later than others are due.
        if self._waiting and not self._closed:
            self._arm(max(0.0, min(waiting.deadline for waiting in self._waiting.values()) - now))
        self._freed()
