"""Simulated devices: real connections, a few at a time on their way in, and misbehaviour as it is planned."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from itertools import count
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, DeferredList

from devconf.device import Device, Journal
from devconf.simulator.agenda import Agenda
from devconf.simulator.application import SimulatedApplication
from devconf.simulator.network import Line
from devconf.simulator.plan import Kind, Manners, Plan, plan

#: Devices that are on their way in at the same time: each has one connection that is not logged in, and by default
#: (§7) a server takes 20 of them from one address.
AT_ONCE = 8
#: Seconds: a device that could not come in tries again at random, at first after at most the one, at last the other.
RETRY_FIRST, RETRY_AT_MOST = 1.0, 60.0

#: What a device reports when it is in; whatever else it reports, it is not.
_CONNECTED = "connected"


class Status(Enum):
    """Where a device is."""

    OFF = "off, and comes again after a pause"
    WAITING = "waiting for its turn to come in"
    COMING = "coming in"
    IN = "in"


@define(eq=False)
class SimulatedDevice:
    """One of the fleet.

    :ivar dev_refid: its name.
    :ivar program: what runs on it.
    :ivar line: its network, if that is not as it should be.
    :ivar status: where it is.
    :ivar blank: it began with nothing, or was re-imaged, and has not been in since.
    :ivar trouble: why it could not come in the last time; empty when it is in.
    :ivar pause_number: tells its pause from others, when it makes one; else 0.
    """

    dev_refid: str
    plan: Plan
    application: SimulatedApplication
    program: Device
    line: Line | None
    status: Status = Status.OFF
    blank: bool = True
    trouble: str = ""
    pause_number: int = 0
    _failures: int = 0
    _since: float = 0.0

    @property
    def misbehaving(self) -> bool:
        """Whether it misbehaves now."""
        return self.application.misbehaving

    def came_in(self, now: float) -> None:
        """Note that it is in, from ``now``."""
        self.status, self.trouble, self.blank, self._since = Status.IN, "", False, now

    def pause(self, now: float) -> float:
        """Return how many seconds it waits after it was lost, or could not come in; the same in each run."""
        # One that is thrown out again and again has to wait longer each time.
        if self.status is Status.IN and now - self._since >= RETRY_AT_MOST:
            self._failures = 0
        longest = min(RETRY_AT_MOST, RETRY_FIRST * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return longest * random.Random(f"{self.plan.seed}/{self._failures}").random()

    def forget(self) -> None:
        """Have nothing any longer."""
        self.application.tasks.clear()
        self.application.refused.clear()
        self.blank = True


def _ignore(_dev_refid: str, _what: str) -> None:
    pass


class Simulator:
    """Many simulated devices in one process. They keep nothing on disk: each start begins with empty ones.

    A device that has lost its connection is switched off and on again, and has to wait for its turn like the others:
    if each came back by itself, a restarted server would close most of their connections, since they all come from one
    address.

    :param url: the server's address, as for :func:`devconf.client.connect`.
    :param keys: ``dev_refid`` and ``dev_key`` of each device.
    :param manners: how they behave; by default well, and at once.
    :param seed: who of them misbehaves, how and when; see :func:`devconf.simulator.plan.plan`.
    :param at_once: how many may be on their way in at the same time.
    :param report: told what a device did: its ``dev_refid``, and a line for people.
    :ivar devices: by ``dev_refid``.
    :ivar all_in_after: seconds after the start when the last of them had been in; None: not yet.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        keys: Iterable[tuple[str, str]],
        *,
        manners: Manners | None = None,
        seed: int = 0,
        at_once: int = AT_ONCE,
        report: Callable[[str, str], None] = _ignore,
    ) -> None:
        self._reactor = reactor
        self._url = url
        self._report = report
        self._keys = dict(keys)
        self._at_once = at_once
        self._agenda = Agenda(reactor)
        self._waiting: deque[SimulatedDevice] = deque()
        self._coming = 0
        self._began = 0.0
        self._never_in = set(self._keys)
        self._pauses = count(1)
        self._calm = False
        self._stopped = False
        self.all_in_after: float | None = None
        manners = manners or Manners()
        self.devices = {dev_refid: self._make(dev_refid, plan(seed, dev_refid, manners)) for dev_refid in self._keys}

    def _make(self, dev_refid: str, its_plan: Plan) -> SimulatedDevice:
        line = Line(self._reactor) if its_plan.kind is not Kind.WELL else None
        application = SimulatedApplication(self._reactor, its_plan, partial(self._report, dev_refid))
        if line is not None:
            application.cut = line.cut
        return SimulatedDevice(dev_refid, its_plan, application, self._program(dev_refid, line, application), line)

    def _program(self, dev_refid: str, line: Line | None, application: SimulatedApplication) -> Device:
        return Device(
            line or self._reactor,
            self._url,
            dev_refid,
            self._keys[dev_refid],
            application,
            dev_type="simulated",
            journal=Journal(),
            report=partial(self._heard, dev_refid),
            # It is switched off before it would try again.
            fraction=lambda: 0.999,
        )

    # -- for whoever runs it

    def start(self) -> None:
        """Have all devices come in; they come back until :meth:`stop`. Works once."""
        self._began = self._reactor.seconds()
        for device in self.devices.values():
            self._queue(device)
            if device.plan.kind is not Kind.WELL:
                self._plan_next(device, 0)

    def stop(self) -> Deferred[None]:
        """Disconnect all devices.

        :returns: fires with None when all are disconnected; never fails.
        """
        self._stopped = True
        self._agenda.stop()
        self._waiting.clear()
        lines = [device.line for device in self.devices.values() if device.line is not None]
        for line in lines:
            line.thaw(0.0)
            line.slow_down(None)
        stopping = DeferredList([device.program.stop() for device in self.devices.values()])

        def stopped(_: Any) -> None:
            for line in lines:
                line.cut()

        return stopping.addCallback(stopped)

    def calm_down(self) -> None:
        """Let no device misbehave any longer, nor wait before it comes again; what is late already stays late."""
        self._calm = True
        for device in self.devices.values():
            if device.misbehaving:
                self.behave(device)
            if device.pause_number:
                self._queue(device)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return float(self._reactor.seconds()) - self._began

    def count(self) -> Counter[Status]:
        """Return how many devices have each status."""
        return Counter(device.status for device in self.devices.values())

    # -- the way in

    def _queue(self, device: SimulatedDevice) -> None:
        device.status, device.pause_number = Status.WAITING, 0
        self._waiting.append(device)
        self._admit()

    def _admit(self) -> None:
        while self._coming < self._at_once and self._waiting and not self._stopped:
            device = self._waiting.popleft()
            device.status = Status.COMING
            self._coming += 1
            device.program.start()

    def _heard(self, dev_refid: str, what: str) -> None:
        """Take what a device reports of its connection."""
        self._report(dev_refid, what)
        device = self.devices[dev_refid]
        if self._stopped or device.status not in (Status.COMING, Status.IN):
            return
        if what == _CONNECTED:
            self._came_in(device)
        else:
            if device.status is Status.COMING:
                device.trouble = what
            self._switch_off(device, device.pause(self._reactor.seconds()))

    def _came_in(self, device: SimulatedDevice) -> None:
        if device.status is Status.COMING:
            self._coming -= 1
        device.came_in(self._reactor.seconds())
        self._never_in.discard(device.dev_refid)
        if not self._never_in and self.all_in_after is None:
            self.all_in_after = self.elapsed
        self._admit()

    def _switch_off(self, device: SimulatedDevice, pause: float) -> None:
        """Switch a device off, and have it wait for its turn again after ``pause`` seconds."""
        if device.status is Status.COMING:
            self._coming -= 1
        device.status = Status.OFF

        def off() -> None:
            device.program.stop().addCallback(stopped)

        def stopped(_: Any) -> None:
            number = device.pause_number = next(self._pauses)
            self._agenda.after(0.0 if self._calm else pause, partial(on, number))

        def on(number: int) -> None:
            if device.pause_number == number:
                self._queue(device)

        # Not from within what the device is just doing.
        self._agenda.after(0.0, off)
        self._admit()

    # -- misbehaviour

    def _plan_next(self, device: SimulatedDevice, number: int) -> None:
        begin, end = (self._began + time for time in device.plan.window(number))

        def over() -> None:
            if device.misbehaving:
                self.behave(device)
            self._plan_next(device, number + 1)

        self._agenda.at(begin, partial(self.misbehave, device))
        self._agenda.at(end, over)

    def misbehave(self, device: SimulatedDevice) -> None:
        """Have a device misbehave in its way, whatever is planned for this time; not after :meth:`calm_down`."""
        line = device.line
        if self._calm or line is None:
            return
        device.application.misbehaving = True
        self._report(device.dev_refid, f"begins to misbehave: {device.plan.kind.value}")
        match device.plan.kind:
            case Kind.DOUBLE:
                line.doubling = True
            case Kind.DROPPING:
                line.cut()
            case Kind.HALF_OPEN:
                line.freeze()
            case Kind.SLOW_READING:
                line.slow_down(device.plan.rate)
            case Kind.FORGETTING:
                self._reimage(device, line)

    def behave(self, device: SimulatedDevice) -> None:
        """Have a device that misbehaves behave well, until that is planned for it again."""
        line = device.line
        device.application.misbehaving = False
        self._report(device.dev_refid, "behaves again")
        if line is not None:
            match device.plan.kind:
                case Kind.DOUBLE:
                    line.doubling = False
                case Kind.HALF_OPEN:
                    line.thaw(device.plan.linger)
                case Kind.SLOW_READING:
                    line.slow_down(None)
                case Kind.SILENT:
                    # What hangs is never answered: it starts anew.
                    line.cut()

    def _reimage(self, device: SimulatedDevice, line: Line) -> None:
        line.cut()
        if device.status in (Status.COMING, Status.IN):
            self._switch_off(device, device.pause(self._reactor.seconds()))

        def forget() -> None:
            device.forget()
            device.program = self._program(device.dev_refid, line, device.application)

        # After it is switched off: then nothing is being carried out any longer.
        self._agenda.after(0.0, forget)
