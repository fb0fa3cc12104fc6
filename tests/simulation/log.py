"""What the server logs as an error, without what a run has done on purpose."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests.simulation.storage import ON_PURPOSE

_HEADING = "Unhandled error in Deferred:"


@implementer(ILogObserver)
class Errors:
    """Keeps errors, between :meth:`begin` and :meth:`end`."""

    def __init__(self) -> None:
        self._events: list[LogEvent] = []

    def begin(self) -> None:
        """Listen."""
        globalLogPublisher.addObserver(self)

    def end(self) -> None:
        """Listen no longer."""
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        # Twisted says that heading in an event of its own, and the failure itself in the next.
        if event["log_level"] in (LogLevel.error, LogLevel.critical) and event.get("log_format") != _HEADING:
            self._events.append(event)

    def unexpected(self) -> list[str]:
        """Return the errors, but for those of a store that was made to fail; even these have to be handled."""
        found = []
        for event in self._events:
            text = event["log_failure"].getTraceback() if "log_failure" in event else formatEvent(event)
            on_purpose = any(words in text for words in ON_PURPOSE)
            if not on_purpose or event["log_namespace"] == "twisted.internet.defer":
                found.append(text)
        return found

    @property
    def on_purpose(self) -> bool:
        """Whether there was an error of what was made to fail."""
        return len(self.unexpected()) < len(self._events)
