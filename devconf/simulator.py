"""Simulated devices: real connections, and an application that only remembers what it was told."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from devconf.client import Message
from devconf.device import Device, IApplication, Key, Order


def _ignore(_dev_refid: str, _what: str) -> None:
    pass


@implementer(IApplication)
@define(eq=False)
class SimulatedApplication:
    """Takes every order, after a while.

    :ivar latency: seconds that an order takes.
    :ivar report: told each order that has been carried out, as a line for people.
    :ivar tasks: what the device has: the params of an order to add, as changed since.
    """

    _clock: IReactorTime
    latency: float
    report: Callable[[str], None]
    tasks: dict[Key, Message] = field(factory=dict, init=False)

    async def add(self, order: Order) -> None:
        """See :class:`IApplication`."""
        await self._work()
        self.tasks[order.task_id, order.subtask_id] = order.params
        self.report(f"added {_name(order)}")

    async def modify(self, order: Order) -> None:
        """See :class:`IApplication`."""
        await self._work()
        self.tasks[order.task_id, order.subtask_id] |= order.params
        parts = [part for part in ("name", "algo_comb", "store_conf") if part in order.params]
        self.report(f"changed {' and '.join(parts) or 'nothing'} of {_name(order)}")

    async def delete(self, order: Order) -> None:
        """See :class:`IApplication`."""
        await self._work()
        self.tasks.pop((order.task_id, order.subtask_id), None)
        self.report(f"deleted {_name(order)}")

    async def call(self, command: str, params: Message) -> Message:
        """Answer with what was heard. See :class:`IApplication`."""
        await self._work()
        self.report(f"was called: {command}")
        return {"heard": params}

    async def _work(self) -> None:
        if self.latency:
            await deferLater(self._clock, self.latency)


def _name(order: Order) -> str:
    if order.subtask_id is None:
        return f"task {order.task_id} (rev {order.rev})"
    return f"subtask {order.subtask_id} of task {order.task_id} (rev {order.rev})"


class Simulator:
    """Many simulated devices in one process. They keep nothing on disk: each start begins with empty ones.

    :param url: the server's address, as for :func:`devconf.client.connect`.
    :param keys: ``dev_refid`` and ``dev_key`` of each device.
    :param latency: seconds that a device needs for an order.
    :param report: told what a device did: its ``dev_refid``, and a line for people.
    :param fraction: as for :class:`Device`.
    :ivar devices: the devices, and :ivar applications: what they have, by ``dev_refid``.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        keys: Iterable[tuple[str, str]],
        *,
        latency: float = 0.0,
        report: Callable[[str, str], None] = _ignore,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self.devices: dict[str, Device] = {}
        self.applications: dict[str, SimulatedApplication] = {}
        for dev_refid, dev_key in keys:
            tell = partial(report, dev_refid)
            application = SimulatedApplication(reactor, latency, tell)
            self.applications[dev_refid] = application
            self.devices[dev_refid] = Device(
                reactor, url, dev_refid, dev_key, application, dev_type="simulated", report=tell, fraction=fraction
            )

    def start(self) -> None:
        """Connect all devices; they come back by themselves until :meth:`stop`."""
        for device in self.devices.values():
            device.start()

    def stop(self) -> Deferred[None]:
        """Disconnect all devices.

        :returns: fires with None when all are disconnected; never fails.
        """
        return DeferredList([device.stop() for device in self.devices.values()]).addCallback(lambda _: None)
