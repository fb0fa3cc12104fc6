"""Pages: answers that may be large, and of which many may be asked for at once, by clients and by devices.

An answer is made before anybody knows its size, and stands in memory until its peer has taken it. So few are made at
a time, of each account in turn, and a large one is handed over only if its peer reads and there is room; else it is
thrown away, and made again when those before it have been taken. Small ones pass.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

#: Bytes that an answer has to have to count as large.
LARGE = 65536
#: Bytes that large answers may take that have been handed over and not been taken.
ROOM = 32 * 1024 * 1024
#: Answers that are being made at a time.
MAKING = 8
#: Seconds after which one that has still not been taken is counted no longer, so that others have their turn.
WITHIN = 30.0


class Reader(Protocol):
    """Who is answered. One that does not read gets one large answer and no other, until it has taken that."""

    @property
    def account(self) -> str:
        """Whose it is."""

    @property
    def gone(self) -> bool:
        """Whether nobody is there any longer."""

    @property
    def writable(self) -> bool:
        """Whether it has taken all that was sent. When it has, or is gone, :meth:`Pages.taken` is to be called."""


@define(eq=False)
class _Asked:
    reader: Reader
    make: Callable[[], Deferred[bytes]]
    hand: Callable[[bytes], object]
    done: Deferred[None] = field(factory=Deferred)
    size: int = 0  # when it was made and thrown away


@define
class _Held:
    size: int
    timer: IDelayedCall


@define(eq=False)
class Pages:
    """Lets answers be made, and handed over, as there is room: large ones in the order in which they were asked for."""

    _clock: IReactorTime
    _making: int = field(default=0, init=False)
    _new: OrderedDict[str, deque[_Asked]] = field(factory=OrderedDict, init=False)  # by account
    _line: deque[_Asked] = field(factory=deque, init=False)
    _behind: dict[Reader, list[_Asked]] = field(factory=dict, init=False)  # what waits for its own reader
    _remade: dict[Reader, int] = field(factory=dict, init=False)  # the bytes for which room is kept
    _held: dict[Reader, _Held] = field(factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    _going: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def held(self) -> int:
        """Bytes of large answers that have been handed over and not been taken, or are about to be."""
        return self._bytes

    @property
    def waiting(self) -> int:
        """How many answers wait to be made, or made again."""
        return len(self._line) + sum(map(len, (*self._new.values(), *self._behind.values())))

    def answer(
        self, reader: Reader, make: Callable[[], Deferred[bytes]], hand: Callable[[bytes], object]
    ) -> Deferred[None]:
        """Let an answer be made, and handed over in its turn.

        :param make: makes it; may be called again, and must change nothing.
        :param hand: hands it to the socket.
        :returns: fires when it has been handed over; never, if ``reader`` is gone. Fails with what ``make`` failed
            with.
        """
        asked = _Asked(reader, make, hand)
        self._new.setdefault(reader.account, deque()).append(asked)
        self._go_on()
        return asked.done

    def taken(self, reader: Reader) -> None:
        """Note that ``reader`` has taken all that was sent, or is gone; one that had nothing to take is fine."""
        if reader in self._held or reader in self._behind:
            self._let_go(reader)
            self._go_on()

    def stop(self) -> None:
        """Let all that waits be made now: whoever makes it has nothing more to give."""
        self._stopped = True
        for reader in list(self._held):
            self._let_go(reader)
        self._go_on()

    # -- making

    def _go_on(self) -> None:
        # A loop, since one that is made at once would begin the next one from within.
        if self._going:
            return
        self._going = True
        try:
            while self._making < MAKING and (asked := self._next()) is not None:
                self._making += 1
                if asked.size:
                    self._remade[asked.reader] = asked.size
                    self._bytes += asked.size
                asked.make().addBoth(self._made, asked)
        finally:
            self._going = False

    def _next(self) -> _Asked | None:
        while self._line:
            asked = self._line[0]
            if asked.reader.gone:
                self._line.popleft()
            elif self._may_have(asked.reader):
                return self._line.popleft() if self._fits(asked.size) else self._next_new()
            else:
                self._behind.setdefault(asked.reader, []).append(self._line.popleft())
        return self._next_new()

    def _next_new(self) -> _Asked | None:
        while self._new:
            account, waiting = self._new.popitem(last=False)
            asked = waiting.popleft()
            if waiting:  # behind all others: an account that asks for much must not keep them waiting
                self._new[account] = waiting
            if not asked.reader.gone:
                return asked
        return None

    def _made(self, answer: bytes | Failure, asked: _Asked) -> None:
        self._making -= 1
        reader, again = asked.reader, asked.size > 0
        if again:
            self._bytes -= self._remade.pop(reader)
            self._line.extend(self._behind.pop(reader, ()))
        size = 0 if isinstance(answer, Failure) or len(answer) <= LARGE else len(answer)
        if reader.gone:
            pass
        elif isinstance(answer, Failure):
            asked.done.errback(answer)
        elif size and not ((again or not self._line) and self._may_have(reader) and self._fits(size)):
            asked.size = size
            if again:
                self._line.appendleft(asked)
            else:
                self._line.append(asked)
        else:
            if size and reader not in self._held:
                self._hold(reader, size)
            asked.hand(answer)
            asked.done.callback(None)
            if reader.writable:
                self.taken(reader)
        self._go_on()

    # -- room

    def _may_have(self, reader: Reader) -> bool:
        # Of what is made again for one reader, room is kept for one: also when the server stops.
        return reader not in self._remade and (self._stopped or (reader.writable and reader not in self._held))

    def _fits(self, size: int) -> bool:
        # Alone it has to fit, whatever its size.
        return self._stopped or not self._bytes or self._bytes + size <= ROOM

    def _hold(self, reader: Reader, size: int) -> None:
        self._held[reader] = _Held(size, self._clock.callLater(WITHIN, self._late, reader))
        self._bytes += size

    def _let_go(self, reader: Reader) -> None:
        held = self._held.pop(reader, None)
        if held is not None:
            self._bytes -= held.size
            if held.timer.active():
                held.timer.cancel()
        self._line.extend(self._behind.pop(reader, ()))

    def _late(self, reader: Reader) -> None:
        # It is still held: it gets no other before it has taken this one.
        self._bytes -= self._held[reader].size
        self._held[reader].size = 0
        self._go_on()
