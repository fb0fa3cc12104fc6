"""Commands in a closed loop, and what they cost the server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from attrs import define, field, frozen

from benchmarks.process import PATIENCE, Failed, Process
from benchmarks.sockets import Connection, Sockets, unasked

#: Seconds that the server has for what it does after the last answer.
QUIET = 0.1


class Work(Protocol):
    """Commands of one kind.

    :ivar orders: messages to devices that one command makes.
    """

    orders: int

    def command(self, number: int) -> bytes | None:
        """Return a command that can be told by ``number``; None: there are no more."""

    def answered(self, payload: bytes) -> int:
        """Return the number of the command that ``payload`` answers.

        :raises Failed: it is no success.
        """


@frozen
class Driven:
    """What has been done.

    :ivar seconds: from the first command to the last answer.
    :ivar latencies: from a command to its answer, in seconds, the least first.
    """

    seconds: float
    latencies: list[float]


@define
class _Loop:
    """Each answer is followed by another command, until the time is over or there are no more; there is a first."""

    work: Work
    until: float
    number: int = field(default=0, init=False)
    sent: dict[int, float] = field(factory=dict, init=False)
    latencies: list[float] = field(factory=list, init=False)

    def another(self) -> bytes | None:
        now = time.perf_counter()
        if self.number and now > self.until:
            return None
        payload = self.work.command(self.number)
        if payload is not None:
            self.sent[self.number] = now
            self.number += 1
        return payload

    def answered(self, payload: bytes) -> bytes | None:
        number = self.work.answered(payload)
        sent = self.sent.pop(number, None)
        if sent is None:
            raise Failed(f"a command was answered twice, or never given: {payload[:300]!r}")
        self.latencies.append(time.perf_counter() - sent)
        return self.another()


def drive(
    sockets: Sockets, operators: Sequence[Connection], work: Work, *, window: int, seconds: float = float("inf")
) -> Driven:
    """Give commands of ``work`` for ``seconds``, or until there are no more, and wait for all answers.

    :param window: commands that each of the ``operators`` has in flight.
    :raises Failed: a command failed, or was not answered.
    """
    start = time.perf_counter()
    loop = _Loop(work, start + seconds)
    for operator in operators:
        operator.received = loop.answered
    for operator in [*operators] * window:
        if (payload := loop.another()) is not None:
            operator.send(payload)
    heard, last = 0, start
    while loop.sent:
        # Without waiting: the server is not to pay for waking us.
        sockets.pump(0)
        now = time.perf_counter()
        if len(loop.latencies) > heard:
            heard, last = len(loop.latencies), now
        elif now - last > PATIENCE:
            raise Failed(f"{len(loop.sent)} commands have got no answer for {PATIENCE:g} s")
    for operator in operators:
        operator.received = unasked
    return Driven(last - start, sorted(loop.latencies))


@frozen
class Measured:
    """One measurement.

    :ivar cpu_us: CPU time of the server per message that its commands brought to a device, in microseconds.
    :ivar rate: commands per second.
    :ivar busy: CPU time of the server per second; 1: it had no more to give on its CPU.
    """

    commands: int
    cpu_us: float
    rate: float
    busy: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@define
class Devices:
    """Counts what devices have answered: the proof that commands went all the way."""

    answered: int = 0


def measure(
    server: Process,
    devices: Devices,
    sockets: Sockets,
    operators: Sequence[Connection],
    work: Work,
    *,
    window: int,
    seconds: float,
) -> Measured:
    """Measure the commands of ``work`` from rest to rest, after a tenth of the time to warm up.

    :raises Failed: as :func:`drive` does, or the server logged an error, or not all commands came to their devices.
    """
    drive(sockets, operators, work, window=window, seconds=seconds / 10)
    sockets.rest(QUIET)
    answered, used = devices.answered, server.cpu()
    driven = drive(sockets, operators, work, window=window, seconds=seconds)
    sockets.rest(QUIET)
    used = server.cpu() - used
    server.check()
    count = len(driven.latencies)
    brought = devices.answered - answered
    if brought != count * work.orders:
        raise Failed(f"{count} commands should have come to {work.orders} devices each, but {brought} messages did")

    def percentile(part: float) -> float:
        return driven.latencies[round(part * (count - 1))] * 1e3

    return Measured(
        count,
        used / brought * 1e6,
        count / driven.seconds,
        used / (driven.seconds + QUIET),
        percentile(0.5),
        percentile(0.95),
        percentile(0.99),
    )
