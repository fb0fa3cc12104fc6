"""Who asked: there until the response, or gone before it."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field


class Dropped(Exception):
    """The client went away while its request waited: nothing was done, and nobody is there to answer."""


@define(eq=False)
class Asker:
    """A client that waits for responses, and may go away."""

    _gone: bool = field(default=False, init=False)
    _observers: dict[Callable[[], None], None] = field(factory=dict, init=False)

    @property
    def gone(self) -> bool:
        """Whether it has gone away."""
        return self._gone

    def leave(self) -> None:
        """Note that it has gone away."""
        self._gone = True
        self._tell()

    def _tell(self) -> None:
        for observer in list(self._observers):
            observer()

    def observe(self, observer: Callable[[], None]) -> None:
        """Let ``observer`` be called when it goes away, until :meth:`ignore`."""
        self._observers[observer] = None

    def ignore(self, observer: Callable[[], None]) -> None:
        """Let ``observer`` be called no longer."""
        self._observers.pop(observer, None)


@define(eq=False)
class Everyone(Asker):
    """All that wait for one response: gone when none of them is there."""

    _members: dict[Asker, None] = field(factory=dict, init=False)

    @property
    def gone(self) -> bool:
        """Whether all have gone away."""
        return all(member.gone for member in self._members)

    def join(self, asker: Asker) -> None:
        """Let ``asker`` wait, too."""
        self._members[asker] = None
        asker.observe(self._left)

    def part(self, asker: Asker) -> None:
        """Note that ``asker`` waits no longer; one that has parted already is fine."""
        self._members.pop(asker, None)
        asker.ignore(self._left)

    def _left(self) -> None:
        if self.gone:
            self._tell()
