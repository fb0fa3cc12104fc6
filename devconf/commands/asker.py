"""Who asked: there until the response, or gone before it."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field


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

    _members: list[Asker] = field(factory=list, init=False)

    @property
    def gone(self) -> bool:
        """Whether all have gone away."""
        return all(member.gone for member in self._members)

    def join(self, asker: Asker) -> None:
        """Let ``asker`` wait, too."""
        self._members.append(asker)
        asker.observe(self._left)

    def _left(self) -> None:
        if self.gone:
            self._tell()

    def disperse(self) -> None:
        """Note that there is a response: nobody waits for it any longer."""
        for member in self._members:
            member.ignore(self._left)
