"""Subscriptions (protocol §4): the events that a client has heard, and waiting for them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kit import PATIENCE, Client, Json, ok, payload

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TOPICS = ("devices", "deliveries", "commands")


def subscribe(client: Client, *topics: str) -> Client:
    """From here on it hears of these topics; of all if none is named."""
    assert payload(client.call("post subscriptions", {"topics": list(topics or TOPICS)})) == {}
    return client


def unsubscribe(client: Client, *topics: str) -> None:
    assert payload(client.call("delete subscriptions", {"topics": list(topics or TOPICS)})) == {}


def events(client: Client, topic: str | None = None) -> list[Json]:
    """What it has heard so far, in the order in which it came; each is whole."""
    with client.changed:
        found = [m for m in client.inbox if isinstance(m, dict) and "event" in m]
    for event in found:
        assert set(event) == {"event", "seq", "at", "data"}, event
        assert event["event"] in TOPICS, event
        assert TIME.fullmatch(event["at"]), event
    return [event for event in found if topic in (None, event["event"])]


def data_of(found: Iterable[Json]) -> list[Json]:
    return [event["data"] for event in found]


def wait_events(client: Client, count: int, topic: str | None = None) -> list[Json]:
    """Wait until it has heard so many; no more may have come by the next answer on this connection."""
    with client.changed:
        client.changed.wait_for(lambda: len(events(client, topic)) >= count, PATIENCE)
    ok(client.call("get tasks", {"limit": 1}))
    found = events(client, topic)
    assert len(found) == count, found
    return found


def assert_no_gap(client: Client, first: int = 1) -> None:
    """`seq` counts up, one by one."""
    numbers = [event["seq"] for event in events(client)]
    assert numbers == list(range(first, first + len(numbers)))
