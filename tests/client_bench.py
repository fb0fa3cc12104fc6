"""A client that stays and a fake server, for the tests of such clients."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from devconf.client import LastingClient
from tests.fake_server import URL, FakeServer, Socket


@define
class Bench:
    """A client and a server."""

    server: FakeServer = field(factory=FakeServer)
    reports: list[str] = field(factory=list)
    heard: list[str] = field(factory=list)
    client: LastingClient = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.client = LastingClient(
            self.server.reactor,
            URL,
            "alice",
            "secret",
            connected=lambda: self.heard.append("connected"),
            lost=lambda why: self.heard.append(f"lost: {why.code}"),
            report=self.reports.append,
            fraction=lambda: 0.5,
        )

    def start(self) -> Socket:
        self.client.start()
        self.server.flush()
        return self.server.sockets[-1]

    def come_back(self, pause: float = 0.5) -> Socket:
        """Lose the connection, and wait for the next attempt."""
        self.server.asked.clear()
        self.server.sockets[-1].drop()
        self.server.advance(pause)
        return self.server.sockets[-1]

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.server.advance(1)

    def asked(self) -> list[tuple[str, str | None]]:
        """Address and ``authorization`` of what came over HTTP."""
        return [(path, authorization) for _, path, authorization, _ in self.server.asked]

    def outcome(self, deferred: Deferred[Any]) -> list[Any]:
        """A list that gets the result, or the exception, once there is one."""
        found: list[Any] = []
        deferred.addCallbacks(found.append, lambda failure: found.append(failure.value))
        self.server.flush()
        return found
