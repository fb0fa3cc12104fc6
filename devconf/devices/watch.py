"""Watching orders: what a running command waits for, and for how long (``docs/protocol.md`` §6, delivery)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from devconf.errors import Ecode
from devconf.model import OFFLINE, SILENT, Answer, OrderKey, State


@frozen
class Seen:
    """What became of an order while it was watched.

    :ivar sent: how often the device was sent it.
    """

    answer: Answer
    sent: int

    @property
    def may_have(self) -> bool:
        """Whether the device took it, or may have.

        Of one that refused, the message it refused did nothing; but it may have taken one before, unanswered. One
        that lost its connection each time has not answered at all.
        """
        if self.answer.state is State.CONFIRMED or self.answer.ecode == Ecode.LOST:
            return True
        return self.sent > (self.answer.state is State.REFUSED)


@define(eq=False)
class _Entry:
    rev: int
    waited: bool
    since: float
    answer: Answer | None = None
    sent: int = 0
    deadline: float | None = None


@define(eq=False)
class Watch:
    """The orders one command watches.

    :ivar targets: what it was begun with; told from an equal one of another command by its identity.
    :ivar open: how many are still waited for.
    :ivar over: nothing is waited for any longer.
    :ivar done: fires with what became of each.
    """

    _progress: Callable[[int, int], None]
    targets: Mapping[OrderKey, int]
    open: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)
    done: Deferred[dict[OrderKey, Seen]] = field(factory=Deferred, init=False)
    _entries: dict[OrderKey, _Entry] = field(factory=dict, init=False)

    def add(self, key: OrderKey, rev: int, *, waited: bool, now: float) -> None:
        """Watch ``key`` until ``rev`` is answered; one that is not ``waited`` for does not hold the command up."""
        self._entries[key] = _Entry(rev, waited, now)
        self.open += waited

    def sent(self, key: OrderKey, rev: int, deadline: float) -> None:
        """Note that a message of ``key`` was handed to the socket; the first one sets the deadline."""
        entry = self._entries[key]
        if rev >= entry.rev:
            entry.sent += 1
            if entry.deadline is None:
                entry.deadline = deadline

    def answered(self, key: OrderKey, rev: int, answer: Answer) -> bool:
        """Note that ``rev`` of ``key`` was answered.

        :returns: whether that was the last that was waited for.
        """
        entry = self._entries[key]
        if self.over or rev < entry.rev or entry.answer is not None:
            return False
        entry.answer = answer
        return self._close(entry)

    def deadline(self, key: OrderKey, timeout: float, heard_at: float) -> float | None:
        """Return when the wait for ``key`` is over; None if it is not waited for.

        What could not be sent yet is waited for as long as the device keeps answering other things.

        :param timeout: ``device_timeout``, seconds.
        :param heard_at: when the device last answered anything.
        """
        entry = self._entries[key]
        if self.over or not entry.waited:
            return None
        return max(entry.since, heard_at) + timeout if entry.deadline is None else entry.deadline

    def expire(self, key: OrderKey, now: float, timeout: float, heard_at: float, online: bool) -> bool:
        """End the wait for ``key`` if its deadline has passed.

        :returns: whether that was the last that was waited for.
        """
        deadline = self.deadline(key, timeout, heard_at)
        if deadline is None or deadline > now:
            return False
        entry = self._entries[key]
        entry.answer = SILENT if online else OFFLINE
        return self._close(entry)

    def _close(self, entry: _Entry) -> bool:
        if not entry.waited:
            return False
        entry.waited = False
        self.open -= 1
        self.tell()
        return self.open == 0

    def tell(self) -> None:
        """Tell how far it is."""
        self._progress(len(self._entries) - self.open, len(self._entries))

    def finish(self) -> None:
        """End the watch."""
        self.over = True
        self.done.callback(
            {
                key: Seen(entry.answer or (SILENT if entry.sent else OFFLINE), entry.sent)
                for key, entry in self._entries.items()
            }
        )
