"""What is under way to one device: its orders that are sent, watched or due."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from attrs import define, evolve, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from devconf.devices.link import Link
from devconf.devices.watch import Watch
from devconf.model import OrderKey
from devconf.store.answers import Acknowledgement
from devconf.store.outbox import Order

#: Seconds until it is looked again whether a device's time runs.
LOOK_AGAIN = 5.0
#: Large messages of a device that wait for their turn; while there are so many, it is not read what else is due.
LINED = 8


class Phase(Enum):
    """Where an order is on its way."""

    IDLE = "nothing is under way"
    SENT = "sent; the answer is awaited"
    WRITING = "answered; the answer is being written"
    SILENT = "not answered in time; sent again later"


@frozen
class Sent:
    """What was sent: enough to know an answer, or a loss, by. The content would be in memory for as long as that takes.

    :ivar order: without its content.
    :ivar digest: tells it from others.
    :ivar at: when.
    :ivar blamed_until: a loss of the connection until then is put down to it.
    """

    order: Order
    digest: bytes
    at: float
    blamed_until: float


def bare(order: Order) -> Order:
    """Return ``order`` without its content."""
    return evolve(order, params={}, conf=None)


@define(eq=False)
class Slot:
    """One order of a device.

    :ivar dirty: it has changed since it was sent.
    :ivar attempts: how often in a row it was not answered in time.
    :ivar retry_at: when it is sent again, if it is silent.
    :ivar stale: how often in a row the device said that its rev is newer.
    :ivar sent: what was sent last on this connection.
    :ivar writing: of several answers, the one that is waited for to be written.
    """

    key: OrderKey
    phase: Phase = Phase.IDLE
    dirty: bool = False
    attempts: int = 0
    retry_at: float = 0.0
    stale: int = 0
    sent: Sent | None = None
    writing: Acknowledgement | None = None
    watches: list[Watch] = field(factory=list)

    @property
    def busy(self) -> bool:
        """One message of an order is outstanding at a time."""
        return self.phase in (Phase.SENT, Phase.WRITING)

    @property
    def held(self) -> bool:
        """A command that watched it is being settled: nothing of it is sent meanwhile."""
        return any(watch.over for watch in self.watches)

    @property
    def idle(self) -> bool:
        """Nothing is under way, and nothing has to be kept in mind for the next attempt."""
        return self.phase is Phase.IDLE and not (self.watches or self.attempts or self.stale)

    def write(self, answer: Acknowledgement) -> None:
        """Note that ``answer`` has come, and that nothing is sent until it is written."""
        self.phase = Phase.WRITING
        self.writing = answer

    def written(self, answer: Acknowledgement) -> bool:
        """Note that ``answer`` has been written, or could not be; tell whether it was waited for."""
        if self.phase is not Phase.WRITING or self.writing is not answer:
            return False
        self.phase = Phase.IDLE
        self.writing = None
        return True

    def reset(self) -> None:
        """Begin anew: it was answered, or there is nothing to send, or the connection is another."""
        self.attempts = 0
        self.stale = 0

    def may_send(self, now: float) -> bool:
        """Tell whether a message of it may be sent now."""
        if self.busy or self.held:
            return False
        return self.phase is not Phase.SILENT or self.dirty or self.retry_at <= now


@define(eq=False)
class Lane:
    """The orders of one device that are under way.

    :ivar link: its live connection.
    :ivar queue: what may be due, in the order in which it became so.
    :ivar lined: large messages of it that wait for their turn among those of all devices.
    :ivar suspects: what is due and may kill the device, with how many connections it has cost: it goes alone, and last.
    :ivar chosen: the suspect that has been taken to be sent next.
    :ivar alone_until: a suspect was sent: until then nothing else is, unless it is answered.
    :ivar scan: how far what is due has been read from the store (catching up); None: all of it has been.
    :ivar later: when it is caught up, if it was a moment ago.
    :ivar reading: what is due of it is being read.
    :ivar heard_at: when it last answered, or its turn came.
    """

    dev_unid: str
    _clock: IReactorTime
    _on_timer: Callable[[Lane], None]
    link: Link | None
    slots: dict[OrderKey, Slot] = field(factory=dict, init=False)
    queue: dict[OrderKey, None] = field(factory=dict, init=False)
    lined: set[OrderKey] = field(factory=set, init=False)
    suspects: dict[OrderKey, int] = field(factory=dict, init=False)
    chosen: OrderKey | None = field(default=None, init=False)
    alone_until: float = field(default=0.0, init=False)
    scan: OrderKey | None = field(default=None, init=False)
    later: float | None = field(default=None, init=False)
    reading: bool = field(default=False, init=False)
    heard_at: float = field(default=0.0, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    def slot(self, key: OrderKey) -> Slot:
        """Return the slot of ``key``, a new one if need be."""
        slot = self.slots.get(key)
        if slot is None:
            slot = self.slots[key] = Slot(key)
        return slot

    def room(self) -> int:
        """Return how many messages may be sent now; those that wait for their turn take no room before it comes."""
        return 0 if self.link is None or self.alone else self.link.room()

    @property
    def alone(self) -> bool:
        """A suspect was sent, and must not be joined by anything."""
        return self._clock.seconds() < self.alone_until

    @property
    def quiet(self) -> bool:
        """Nothing is due but suspects, and no answer is awaited."""
        return (
            not self.queue and self.scan is None and not any(slot.phase is Phase.SENT for slot in self.slots.values())
        )

    @property
    def crowded(self) -> bool:
        """So many large messages wait for their turn that no more of what is due is looked for."""
        return len(self.lined) >= LINED

    def wants(self) -> bool:
        """Tell whether there is something to read, and room for it."""
        if not self.room():  # first: `quiet` looks at all slots
            return False
        more = self.scan is not None and not self.crowded
        return bool(self.queue or more or (self.suspects and self.quiet and not self.lined))

    def take(self, most: int) -> list[OrderKey]:
        """Take from the queue up to ``most`` orders that may be sent; what may not is dropped from it.

        Whatever holds an order up looks at it again when it is over.
        """
        now = self._clock.seconds()
        taken: list[OrderKey] = []
        while self.queue and len(taken) < most:
            key = next(iter(self.queue))
            del self.queue[key]
            slot = self.slots.get(key)
            if slot is None or slot.may_send(now):
                taken.append(key)
        if not taken and self.suspects and self.quiet and not self.lined:
            self.chosen = min(self.suspects, key=self.suspects.__getitem__)
            del self.suspects[self.chosen]
            slot = self.slots.get(self.chosen)
            if slot is None or slot.may_send(now):
                taken.append(self.chosen)
        return taken

    def lost(self) -> None:
        """Note that the connection is gone: what was sent is simply behind."""
        self.link = None
        self.queue.clear()
        self.lined.clear()
        self.suspects.clear()
        self.alone_until = 0.0
        self.scan = self.later = None
        for slot in self.slots.values():
            if slot.phase in (Phase.SENT, Phase.SILENT):
                slot.phase = Phase.IDLE
            slot.sent = None
            slot.reset()

    def forget_idle(self) -> None:
        """Forget slots that nothing is under way for."""
        for key in [key for key, slot in self.slots.items() if slot.idle]:
            del self.slots[key]

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        under_way = self.slots or self.queue or self.lined or self.suspects or self.reading
        return not under_way and self.scan is None and self.later is None

    # -- one timer, for the soonest of its deadlines and retries

    def arm(self, when: float) -> None:
        """Look at the lane at ``when``, if not sooner."""
        if self._timer is not None:
            if self._timer.getTime() <= when:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._fire)

    def disarm(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._on_timer(self)

    def soonest(self, timeout: float) -> float | None:
        """Return when the lane has to be looked at next.

        :param timeout: ``device_timeout``, seconds.
        """
        times = [self.later] if self.later is not None else []
        if self.alone:
            times.append(self.alone_until)
        for slot in self.slots.values():
            if slot.phase is Phase.SILENT and self.link is not None:
                times.append(slot.retry_at)
            for watch in slot.watches:
                deadline = watch.deadline(slot.key, timeout, self.heard_at)
                if deadline is not None:
                    times.append(deadline if self.runs(slot) else max(deadline, self._clock.seconds() + LOOK_AGAIN))
        return min(times, default=None)

    def runs(self, slot: Slot) -> bool:
        """Tell whether the device's time for ``slot`` runs; not while the server has still to do something for it."""
        if slot.phase is Phase.SENT:
            return True
        # It has answered, or waits for its turn, or for being read, maybe behind what waits for its turn.
        if slot.phase is Phase.WRITING or slot.key in self.lined or (self.scan is not None and self.crowded):
            return False
        return not (self.reading or self.wants())
