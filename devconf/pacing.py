"""When peers have their turn, and when they have been silent for too long. One timer each for all peers."""

from __future__ import annotations

from collections import OrderedDict
from enum import IntFlag
from typing import TYPE_CHECKING, Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from devconf.sparing import SparingLog

#: Seconds of silence before a ping, and within which it has to be answered.
PING_EVERY = 30.0
PONG_WITHIN = 10.0
#: Seconds within which a peer reads something of what waits for it; not less than ``PING_EVERY``.
READ_WITHIN = 60.0
#: Messages that came to nothing: so many may come at once, and then so many a second.
USELESS_BURST = 1000
USELESS_RATE = 100.0


class Hold(IntFlag):
    """Why nothing more is read of a peer."""

    NONE = 0
    #: Others have their turn.
    TURN = 1
    #: Too much of what it sent came to nothing.
    USELESS = 2
    #: Its requests in flight are too large.
    BUSY = 4


class Paced(Protocol):
    """What is needed of a peer."""

    peer: str | None

    @property
    def unread(self) -> bool:
        """Whether it has something to read."""

    @property
    def held(self) -> bool:
        """Whether nothing is read of it."""

    def sendPing(self) -> object:
        """Ask whether it is there."""

    def give_up(self) -> None:
        """Drop it."""

    def go_on(self) -> None:
        """Take more of what it has sent."""


if TYPE_CHECKING:
    Waiting = OrderedDict[Paced, float]


@define
class Keepalive:
    """Pings peers that have been silent for long, and drops those that stay so, or do not read."""

    _clock: IReactorTime
    _log: SparingLog
    # When to act on each peer. Each is in the order of time, since all that are in it wait equally long.
    _quiet: Waiting = field(factory=OrderedDict, init=False)
    _pinged: Waiting = field(factory=OrderedDict, init=False)
    _unread: Waiting = field(factory=OrderedDict, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    def __len__(self) -> int:
        """Return how many peers are watched."""
        return len(self._quiet) + len(self._pinged)

    def add(self, peer: Paced) -> None:
        """Watch ``peer``."""
        self._quiet[peer] = self._clock.seconds() + PING_EVERY
        self._arm()

    def heard(self, peer: Paced) -> None:
        """Note that ``peer`` lives; one that is not watched is fine."""
        if peer in self._quiet or self._pinged.pop(peer, None) is not None:
            self._quiet[peer] = self._clock.seconds() + PING_EVERY
            self._quiet.move_to_end(peer)

    def reads_not(self, peer: Paced) -> None:
        """Note that ``peer`` has something to read."""
        if peer in self._quiet or peer in self._pinged:
            self._unread[peer] = self._clock.seconds() + READ_WITHIN

    def reads(self, peer: Paced) -> None:
        """Note that ``peer`` has read something: it lives."""
        self._unread.pop(peer, None)
        self.heard(peer)

    def remove(self, peer: Paced) -> None:
        """Watch ``peer`` no longer."""
        for waiting in (self._quiet, self._pinged, self._unread):
            waiting.pop(peer, None)
        if not self._quiet and not self._pinged and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        # One that has something to read is in one of the others too, and due there first.
        times = [next(iter(waiting.values())) for waiting in (self._quiet, self._pinged, self._unread) if waiting]
        if times and self._timer is None:
            self._timer = self._clock.callLater(max(0.0, min(times) - self._clock.seconds()), self._run)

    def _run(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for peer in self._due(self._unread, now):
            self._log.info("{peer} does not read: connection dropped", peer=peer.peer)
            peer.give_up()
        for peer in self._due(self._pinged, now):
            if peer.unread or peer.held:
                self._quiet[peer] = now + PING_EVERY
            else:
                self._log.info("{peer} is silent: connection dropped", peer=peer.peer)
                peer.give_up()
        for peer in self._due(self._quiet, now):
            if peer.unread:
                self._quiet[peer] = now + PING_EVERY
                continue
            # The answer of one that is not read would not be heard; but if it is gone, the system says so.
            if peer.held:
                self._quiet[peer] = now + PING_EVERY
            else:
                self._pinged[peer] = now + PONG_WITHIN
            peer.sendPing()
        self._arm()

    def _due(self, waiting: Waiting, now: float) -> list[Paced]:
        due = []
        while waiting and next(iter(waiting.values())) <= now:
            due.append(waiting.popitem(last=False)[0])
        return due


@define
class Useless:
    """Messages of one peer that came to nothing: how many more than it may send."""

    _level: float = field(default=0.0, init=False)
    _at: float = field(default=0.0, init=False)

    def too_many(self, now: float) -> bool:
        """Note another one at ``now``, in seconds; tell whether that is too many."""
        self._level = max(0.0, self._level - (now - self._at) * USELESS_RATE) + 1
        self._at = now
        return self._level > USELESS_BURST


@define
class Turns:
    """Peers that have sent more than fits into their turn: each turn of the reactor one of them goes on."""

    _clock: IReactorTime
    _waiting: OrderedDict[Paced, None] = field(factory=OrderedDict, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    def wait(self, peer: Paced) -> None:
        """Let ``peer`` go on when those before it had their turn."""
        self._waiting[peer] = None
        if self._timer is None:
            self._timer = self._clock.callLater(0, self._next)

    def forget(self, peer: Paced) -> None:
        """Let ``peer`` go on no longer; one that does not wait is fine."""
        self._waiting.pop(peer, None)
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._timer = None
        peer, _ = self._waiting.popitem(last=False)
        if self._waiting:
            self._timer = self._clock.callLater(0, self._next)
        peer.go_on()
