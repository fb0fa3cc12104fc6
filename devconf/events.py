"""What happens, told to whoever wants to know: publish and subscribe within the process.

Events go up by this module, and never by an import: devices and commands publish, operators' connections subscribe
(``docs/protocol.md`` §4, subscriptions).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from attrs import define, field, frozen
from twisted.logger import Logger

from devconf.clock import Now

#: What can be subscribed to.
Topic = Literal["devices", "deliveries", "commands"]


@frozen
class Event:
    """Something that has happened.

    :ivar at: when, in seconds since the epoch.
    :ivar data: what, as it is told on the wire; nobody may change it.
    :ivar owner: the ``user_unid`` of who caused it; empty where that does not matter.
    """

    topic: Topic
    at: float
    data: dict[str, Any]
    owner: str = ""


Observer = Callable[[Event], None]


def _nobody() -> dict[Topic, dict[Observer, None]]:
    return {topic: {} for topic in get_args(Topic)}


@define
class Events:
    """The subscriptions of one server."""

    _log = Logger()

    _now: Now
    _observers: dict[Topic, dict[Observer, None]] = field(factory=_nobody, init=False)

    def publish(self, topic: Topic, data: dict[str, Any], owner: str = "") -> None:
        """Tell the observers of ``topic``. What one of them does wrong is logged, and ends nothing."""
        if not self._observers[topic]:
            return
        event = Event(topic, self._now(), data, owner)
        for observer in list(self._observers[topic]):
            try:
                observer(event)
            except Exception:
                self._log.failure("an observer of {topic} failed", topic=topic)

    def subscribe(self, topic: Topic, observer: Observer) -> None:
        """Let ``observer`` be told of ``topic`` from now on; it may be so already."""
        self._observers[topic][observer] = None

    def unsubscribe(self, topic: Topic, observer: Observer) -> None:
        """Let ``observer`` be told of ``topic`` no longer; it may be so already."""
        self._observers[topic].pop(observer, None)
