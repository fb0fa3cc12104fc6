"""A device that takes its time to change a task, so that there is progress to see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.task import deferLater
from zope.interface import implementer

from devconf.client import Client, Message
from devconf.device import Device, IApplication, Order

#: Seconds; from one second on there is progress.
TAKES = 1.3


@implementer(IApplication)
class SlowApplication:
    """Takes everything, and changes slowly."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def add(self, order: Order) -> None:
        """See IApplication."""

    async def modify(self, order: Order) -> None:  # noqa: ARG002 (as the interface has it)
        """See IApplication."""
        await deferLater(self._reactor, TAKES)

    def delete(self, order: Order) -> None:
        """See IApplication."""

    def call(self, command: str, params: Message) -> Message:
        """See IApplication."""
        return {"command": command, "params": params}


@asynccontextmanager
async def slow_device(server: Any, client: Client, dev_refid: str) -> AsyncIterator[str]:
    """Enrol and run one; its ``dev_unid``.

    :param server: has a reactor and a url.
    """
    enrolled = await client.request("post devices", {"dev_refid": dev_refid})
    device = Device(server.reactor, server.url, dev_refid, enrolled["dev_key"], SlowApplication(server.reactor))
    device.start()
    try:
        while not (await client.request("get devices", {"dev_unid": enrolled["dev_unid"], "online": True}))["devices"]:
            await deferLater(server.reactor, 0.05)
        yield enrolled["dev_unid"]
    finally:
        await device.stop()
