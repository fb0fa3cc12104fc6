"""Locks by name: first come, first served, bounded in number and time (``docs/protocol.md`` §4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from devconf.commands.asker import Asker, Dropped
from devconf.errors import CommandFailed, Ecode

#: Seconds that a request waits for a lock at most.
WAIT_AT_MOST = 60.0


@define
class Locks:
    """The locks of one server.

    :ivar _waiting_at_most: how many may wait for one lock.
    """

    _clock: IReactorTime
    _waiting_at_most: int
    # A name is here as long as somebody holds its lock, with the turns of those that wait for it.
    _waiting: dict[str, deque[Deferred[None]]] = field(factory=dict, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def waiting(self) -> int:
        """How many wait, for whichever lock."""
        return sum(map(len, self._waiting.values()))

    async def acquire(self, name: str, asker: Asker) -> Callable[[], None]:
        """Wait for the lock ``name`` and take it.

        :param asker: who asks; if it goes away meanwhile, its place is free at once.
        :returns: what lets go of it.
        :raises CommandFailed: ``TOO_MANY`` wait already; ``STOPPING``: it took too long, or the server stops.
        :raises Dropped: who asked has gone, and the lock is not free.
        """
        if self._stopped:
            raise _stopping()
        if name in self._waiting:
            await self._wait(name, asker)
        else:
            self._waiting[name] = deque()
        return lambda: self._release(name)

    async def _wait(self, name: str, asker: Asker) -> None:
        queue = self._waiting[name]
        if asker.gone:
            raise Dropped
        if len(queue) >= self._waiting_at_most:
            raise CommandFailed(
                Ecode.TOO_MANY, f"{len(queue)} requests wait already to change the same; try again later"
            )
        turn: Deferred[None] = Deferred()

        def leave() -> None:
            queue.remove(turn)
            turn.errback(Dropped())

        def give_up() -> None:
            queue.remove(turn)
            turn.errback(
                CommandFailed(
                    Ecode.STOPPING, f"others have been changing the same for {WAIT_AT_MOST:.0f} s; try again later"
                )
            )

        queue.append(turn)
        timer = self._clock.callLater(WAIT_AT_MOST, give_up)
        asker.observe(leave)
        try:
            await turn
        finally:
            asker.ignore(leave)
            if timer.active():
                timer.cancel()

    def _release(self, name: str) -> None:
        queue = self._waiting[name]
        if queue:
            queue.popleft().callback(None)
        else:
            del self._waiting[name]

    def stop(self) -> None:
        """Refuse all that wait, and all that would begin now: the server is stopping."""
        self._stopped = True
        for queue in self._waiting.values():
            while queue:
                queue.popleft().errback(_stopping())


def _stopping() -> CommandFailed:
    return CommandFailed(Ecode.STOPPING, "the server is stopping; try again later")
