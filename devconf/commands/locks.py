"""Locks by name: first come, first served, bounded in number and time (``docs/protocol.md`` §4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from devconf.commands.registry import Dropped
from devconf.errors import CommandFailed, Ecode

#: Seconds that a request waits for a lock at most.
WAIT_AT_MOST = 60.0


@define(eq=False)
class _Waiter:
    gone: Callable[[], bool]
    turn: Deferred[None] = field(factory=Deferred)
    timer: IDelayedCall | None = None


@define
class Locks:
    """The locks of one server.

    :ivar _waiting_at_most: how many may wait for one lock.
    """

    _clock: IReactorTime
    _waiting_at_most: int
    # A name is here as long as somebody holds its lock.
    _waiting: dict[str, deque[_Waiter]] = field(factory=dict, init=False)

    @property
    def waiting(self) -> int:
        """How many wait, for whichever lock."""
        return sum(map(len, self._waiting.values()))

    async def acquire(self, name: str, gone: Callable[[], bool]) -> Callable[[], None]:
        """Wait for the lock ``name`` and take it.

        :param gone: whether who asked has gone away; then its turn is passed on.
        :returns: what lets go of it.
        :raises CommandFailed: ``TOO_MANY`` wait already; ``STOPPING``: it took too long.
        :raises Dropped: who asked has gone.
        """
        if name in self._waiting:
            await self._wait(name, gone)
        else:
            self._waiting[name] = deque()
        return lambda: self._release(name)

    async def _wait(self, name: str, gone: Callable[[], bool]) -> None:
        queue = self._waiting[name]
        if len(queue) >= self._waiting_at_most:
            raise CommandFailed(
                Ecode.TOO_MANY, f"{len(queue)} requests wait already to change the same; try again later"
            )
        waiter = _Waiter(gone)
        waiter.timer = self._clock.callLater(WAIT_AT_MOST, self._give_up, queue, waiter)
        queue.append(waiter)
        await waiter.turn

    def _give_up(self, queue: deque[_Waiter], waiter: _Waiter) -> None:
        queue.remove(waiter)
        waiter.turn.errback(
            CommandFailed(
                Ecode.STOPPING, f"others have been changing the same for {WAIT_AT_MOST:.0f} s; try again later"
            )
        )

    def _release(self, name: str) -> None:
        queue = self._waiting[name]
        while queue:
            waiter = queue.popleft()
            if waiter.timer is not None and waiter.timer.active():
                waiter.timer.cancel()
            if not waiter.gone():
                waiter.turn.callback(None)
                return
            waiter.turn.errback(Dropped())
        del self._waiting[name]

    def stop(self) -> None:
        """Refuse all that wait: the server is stopping."""
        for queue in self._waiting.values():
            while queue:
                waiter = queue.popleft()
                if waiter.timer is not None:
                    waiter.timer.cancel()
                waiter.turn.errback(CommandFailed(Ecode.STOPPING, "the server is stopping; try again later"))
