"""The reactor of this process: run until something is done, or until Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(SystemExit):
    """A signal has ended the process; quietly, with the status that a shell gives to that."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def run(main: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` with the reactor, and return or raise as it does. Works once in a process.

    The first SIGINT or SIGTERM cancels it; it may still finish what must not be broken off. The second ends it.

    :raises Interrupted: it was.
    """
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    reactor: Any = installed
    outcome: list[Any] = []
    received: list[int] = []

    def start() -> None:
        running = Deferred.fromCoroutine(main(reactor))

        def interrupt(number: int) -> None:
            received.append(number)
            if len(received) > 1:
                reactor.stop()
            else:
                running.cancel()

        # The reactor has handlers of its own by now, which would stop it under our feet.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: reactor.callFromThread(interrupt, number))
        running.addBoth(done)

    def done(result: Any) -> None:
        outcome.append(result)
        if len(received) < 2:
            reactor.stop()

    reactor.callWhenRunning(start)
    reactor.run()
    if received or not outcome:
        raise Interrupted(received[0] if received else signal.SIGINT)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    result: T = outcome[0]
    return result
