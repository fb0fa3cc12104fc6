"""A device and a fake server, for the tests of devices."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from zope.interface import implementer

from devconf.device import Device, IApplication, Journal, Order
from tests.fake_server import TASKS, URL, FakeServer, Json, Socket


@implementer(IApplication)
@define
class Application:
    """Notes what it is told, and answers what the test says."""

    answers: list[Any] = field(factory=list)
    done: list[Any] = field(factory=list)

    def add(self, order: Order) -> Any:
        return self._do(order)

    def modify(self, order: Order) -> Any:
        return self._do(order)

    def delete(self, order: Order) -> Any:
        return self._do(order)

    def call(self, command: str, params: Json) -> Any:
        return self._do((command, params))

    def _do(self, what: Any) -> Any:
        self.done.append(what)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


@define
class Bench:
    """A device and a server."""

    server: FakeServer = field(factory=FakeServer)
    application: Application = field(factory=Application)
    reports: list[str] = field(factory=list)
    journal: Journal = field(factory=Journal)
    fraction: float = 0.5
    device: Device = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.device = self.make()

    def make(self, **more: Any) -> Device:
        return Device(
            self.server.reactor,
            URL,
            "ref-1",
            more.pop("dev_key", "key"),
            self.application,
            dev_type="box",
            dev_name="a box",
            journal=self.journal,
            report=self.reports.append,
            fraction=lambda: self.fraction,
            **more,
        )

    def start(self) -> Socket:
        self.device.start()
        self.server.flush()
        return self.server.sockets[-1]

    def order(self, method: str, req_id: str = "q", **params: Any) -> list[Json]:
        """Send an order on the newest connection; what the device says then."""
        socket = self.server.sockets[-1]
        socket.tell({"command": f"{method} {TASKS}", "req_id": req_id, "src_page": req_id, "params": params})
        return socket.heard()
