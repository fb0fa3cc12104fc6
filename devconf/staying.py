"""Staying connected: again and again, at random times, so that not all come back at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from devconf.connection import Client, Disconnected
from devconf.ways_in import CannotConnect, RequestFailed

#: Seconds: the pause before the n-th new attempt is random, at most BACKOFF * 2**n and at most BACKOFF_MAX. One that
#: was connected for BACKOFF_MAX begins anew.
BACKOFF = 1.0
BACKOFF_MAX = 60.0

#: Close codes (§6) of which all connections hear at the same time, or which ask for patience: the first attempt is
#: spread over so many seconds.
_PATIENCE = {1001: 5.0, 1013: 30.0}

#: Seconds that a device stays away at least once another connection has taken its place (4001), and again as many at
#: random: two that have the same name would otherwise throw each other out for ever.
_REPLACED = 4001
REPLACED_PAUSE = 300.0

_log = Logger()


@define(eq=False)
class Staying:
    """A loop that connects, and connects again whenever that fails or the connection is lost.

    :ivar _fraction: returns a random float in [0, 1).
    :ivar _connect: makes a connection.
    :ivar _lost: told the end of each connection.
    :ivar _failed: told why an attempt failed; what it raises ends the loop.
    """

    _clock: IReactorTime
    _fraction: Callable[[], float]
    _connect: Callable[[], Awaitable[Client]]
    _lost: Callable[[Disconnected], None]
    _failed: Callable[[Exception], None]
    _stopped: bool = field(default=False, init=False)
    _running: Deferred[None] | None = field(default=None, init=False)

    def start(self) -> Deferred[None]:
        """Begin; once only.

        :returns: fires with None when it was stopped; fails with what ``failed`` has raised.
        """
        self._running = Deferred.fromCoroutine(self._run())
        return self._running

    def stop(self) -> None:
        """End, also from within one of the functions that it calls; a connection that was made is left as it is."""
        # While the loop itself runs, to cancel it would do nothing.
        self._stopped = True
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        failures = 0
        try:
            while True:
                code, hint, lasted = await self._connection()
                # One that is thrown out at once again and again is not better off for having been let in.
                failures = 0 if lasted >= BACKOFF_MAX else failures
                await deferLater(self._clock, pause(code, failures, self._fraction(), hint))
                failures += 1
        except CancelledError:
            pass

    async def _connection(self) -> tuple[int, float, float]:
        """Have one connection, or fail to; return the close code, the server's hint, and how long it lasted."""
        try:
            client = await self._connect()
        except CancelledError:
            raise
        except Exception as failure:
            self._go_on()  # what is cancelled while it connects fails in several ways
            self._failed(failure)
            if not isinstance(failure, CannotConnect | RequestFailed):
                _log.failure("an attempt to connect failed in a way that nobody thought of")
            self._go_on()
            return 0, getattr(failure, "retry_after", 0.0), 0.0
        self._go_on()
        since = self._clock.seconds()
        ending = await client.when_closed()
        self._lost(ending)
        self._go_on()
        return ending.code, ending.retry_after, self._clock.seconds() - since

    def _go_on(self) -> None:
        if self._stopped:
            raise CancelledError


def pause(code: int, failures: int, fraction: float, hint: float = 0.0) -> float:
    """Return how many seconds to wait before the next attempt: what the server asks for, and some at random.

    :param code: the close code of the connection that was lost; 0: there was none.
    :param failures: attempts that came to nothing, or not to much, before this one.
    :param fraction: random, in [0, 1).
    :param hint: seconds to wait at least, as the server said.
    """
    if code == _REPLACED:
        return max(hint, REPLACED_PAUSE) + fraction * REPLACED_PAUSE
    return hint + fraction * max(_PATIENCE.get(code, 0.0), min(BACKOFF_MAX, BACKOFF * 2.0 ** min(failures, 16)))
