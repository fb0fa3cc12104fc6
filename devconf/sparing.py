"""A log that a flood of peers does not fill: so many lines a minute, and then how many more there were."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

#: Lines of one kind within a minute; a kind is a format.
LINES = 20
MINUTE = 60.0


@define
class SparingLog:
    """Writes what peers cause: at most :data:`LINES` lines of each kind in a minute.

    :ivar _clock: monotonic.
    """

    _clock: IReactorTime
    _log: Logger
    _kinds: dict[str, _Kind] = field(factory=dict, init=False)

    def info(self, message: str, **fields: Any) -> None:
        """Write a line, or count it.

        :param message: a format of the code's own, so that there are few of them.
        """
        now = self._clock.seconds()
        kind = self._kinds.get(message)
        if kind is None or now - kind.since >= MINUTE:
            if kind is not None and kind.lines > LINES:
                self._log.info("{count} more of this: {message}", count=kind.lines - LINES, message=message)
            kind = self._kinds[message] = _Kind(now)
        kind.lines += 1
        if kind.lines <= LINES:
            self._log.info(message, **fields)


@define
class _Kind:
    since: float
    lines: int = 0


class Muted:
    """The log of a library that has a line for each peer that breaks the rules: of it only errors are written."""

    _log = Logger()

    def __getattr__(self, name: str) -> Any:
        return _nothing if name in ("trace", "debug", "info", "warn") else getattr(self._log, name)


def _nothing(*_args: Any, **_fields: Any) -> None:
    pass
