"""``subscriptions``: which events a connection is told of (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from devconf.commands.registry import Call, command
from devconf.commands.schemas import Params, unique
from devconf.events import Topic
from devconf.model import Role


class Topics(Params):
    """Params of ``post subscriptions`` and ``delete subscriptions``."""

    topics: Annotated[list[Topic], Meta(min_length=1)]


class SubscriptionCommands:
    """The handlers."""

    @command("post subscriptions", Topics, Role.VIEWER, for_subscribers=True)
    async def post(self, call: Call) -> dict[str, Any]:
        """Let the connection be told of ``topics``."""
        for topic in _topics(call):
            call.subscriber.subscribe(topic)
        return {}

    @command("delete subscriptions", Topics, Role.VIEWER, for_subscribers=True)
    async def delete(self, call: Call) -> dict[str, Any]:
        """Let the connection be told of ``topics`` no longer."""
        for topic in _topics(call):
            call.subscriber.unsubscribe(topic)
        return {}


def _topics(call: Call) -> list[Topic]:
    topics: list[Topic] = call.params.topics
    unique(list(topics), "$.params.topics")
    return topics
