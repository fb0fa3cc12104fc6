"""Large messages, over all devices: those that sockets have been handed and have not taken, and those that wait.

A socket is handed a large message piece by piece (:mod:`devconf.websocket`), and what is common to many messages is
one object. So each of them costs two pieces and what is its own, and what they share is counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from devconf.devices.link import Link
from devconf.model import OrderKey
from devconf.websocket import PIECE

#: Bytes that a message has to have to count as large.
LARGE = 65536
#: Bytes that a transport holds of one of them.
HANDED = 2 * PIECE
#: Bytes that large messages may take while sockets have not taken them.
ROOM = 32 * 1024 * 1024
#: Seconds after which one that its socket has still not taken is counted no longer, so that others have their turn.
WITHIN = 30.0


@frozen
class _Held:
    since: float
    own: int
    shared: tuple[bytes, ...]


@define(eq=False)
class Bulk:
    """Admits large messages as there is room, in the order in which they asked.

    :ivar _freed: called when there may be room for those that wait.
    """

    _clock: IReactorTime
    _freed: Callable[[], None]
    _line: dict[OrderKey, None] = field(factory=dict, init=False)
    _called: set[OrderKey] = field(factory=set, init=False)  # until one of them does not fit
    _full: bool = field(default=False, init=False)
    _held: dict[Link, _Held] = field(factory=dict, init=False)
    _shared: Counter[int] = field(factory=Counter, init=False)  # by the id of what is held, so that it is not another's
    _bytes: int = field(default=0, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    @property
    def held(self) -> int:
        """Bytes that sockets have not taken yet; what is common to several messages counts once."""
        return self._bytes

    @property
    def waiting(self) -> int:
        """How many messages wait for their turn."""
        return len(self._line)

    # -- who waits

    def wait(self, key: OrderKey) -> None:
        """Let ``key`` wait for its turn; one that waits already keeps its place."""
        self._line.setdefault(key)

    def leave(self, key: OrderKey) -> None:
        """Note that ``key`` waits no longer."""
        self._line.pop(key, None)

    def call(self) -> list[OrderKey]:
        """Return those whose turn has come, and that are to be made now; they leave when it is known what they are."""
        most = 0 if self._full else max(not self._held, (ROOM - self._bytes) // HANDED)
        called = list(islice(self._line, most))
        self._called = set(called)
        return called

    # -- room

    def admits(self, key: OrderKey, parts: Sequence[bytes]) -> bool:
        """Tell whether a message of ``key`` may be handed to its socket: it is small, or it is its turn and fits."""
        if sum(map(len, parts)) <= LARGE:
            return True
        if key not in self._called and self._line:
            return False
        own, shared = _divided(parts)
        more = own + sum(len(part) for part in shared if not self._shared[id(part)])
        # Alone it has to fit, whatever its size.
        fits = not self._held or self._bytes + more <= ROOM
        self._full = not fits
        if not fits:
            # Nobody behind it goes first: it might never fit.
            self._called.clear()
        return fits

    def sent(self, link: Link, parts: Sequence[bytes]) -> None:
        """Count a message that the socket of ``link`` was handed, until :meth:`done`; what it took at once is none."""
        if link.transport.writable or sum(map(len, parts)) <= LARGE:
            return
        own, shared = _divided(parts)
        self.done(link)
        for part in shared:
            self._bytes += 0 if self._shared[id(part)] else len(part)
            self._shared[id(part)] += 1
        self._bytes += own
        self._held[link] = _Held(self._clock.seconds(), own, shared)
        if self._timer is None:
            self._timer = self._clock.callLater(WITHIN, self._late)

    def done(self, link: Link) -> None:
        """Note that the socket of ``link`` has taken what it was handed, or that the connection is gone."""
        held = self._held.pop(link, None)
        if held is None:
            return
        for part in held.shared:
            self._shared[id(part)] -= 1
            if not self._shared[id(part)]:
                del self._shared[id(part)]
                self._bytes -= len(part)
        self._bytes -= held.own
        self._full = False
        self._freed()

    def _late(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._held:
            link, oldest = next(iter(self._held.items()))
            over = oldest.since + WITHIN
            if over > now:
                # Not `since - (now - WITHIN)`, which may be so little that no clock moves on by it.
                self._timer = self._clock.callLater(over - now, self._late)
                return
            self.done(link)

    def stop(self) -> None:
        """Count no longer."""
        self._line.clear()
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _divided(parts: Sequence[bytes]) -> tuple[int, tuple[bytes, ...]]:
    """Return what a message of ``parts`` takes for itself, and what others may have in common with it."""
    shared = tuple(part for part in parts if len(part) > LARGE)
    return HANDED + sum(len(part) for part in parts if len(part) <= LARGE), shared
