"""What a simulated device does with its orders: it remembers what it was told, or misbehaves."""

from __future__ import annotations

import hashlib
import sys
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import msgspec
from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from devconf.client import Message
from devconf.device import IApplication, Key, Order, Refuse
from devconf.errors import Ecode
from devconf.simulator.plan import Kind, Plan

_encode = msgspec.json.Encoder(order="deterministic").encode


def canonical(value: Any) -> str | None:
    """Return a JSON ``value`` as a text: the same for equal values, and kept once by all who hold it; None for null."""
    return None if value is None else sys.intern(_encode(value).decode())


def digested(store_conf: Message | None) -> str | None:
    """Return a ``store_conf`` of a message (§6) as :func:`canonical` does, with a digest in place of its content."""
    if store_conf is None:
        return None
    content = b64decode(store_conf["file_b64"])
    named = {name: store_conf[name] for name in ("unid", "name", "file_ext")}
    return canonical({**named, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})


@frozen
class Held:
    """A task or subtask as a device has it; thousands of devices may hold the same.

    :ivar rev: of the last order that was carried out.
    :ivar algo_comb: as :func:`canonical` returns it, and so :ivar vchan: the video channel.
    :ivar store_conf: as :func:`digested` returns it.
    """

    rev: int
    task_type: str
    name: str
    algo_comb: str | None
    store_conf: str | None
    vchan: str | None

    @classmethod
    def added(cls, params: Message) -> Held:
        """Return what the params of an *add* make."""
        return cls(
            params["rev"],
            params["task_type"],
            sys.intern(params["name"]),
            canonical(params.get("algo_comb")),
            digested(params.get("store_conf")),
            canonical(params.get("vchan")),
        )

    def modified(self, params: Message) -> Held:
        """Return what the params of a *modify* make of it."""
        changes: dict[str, Any] = {"rev": params["rev"]}
        if "name" in params:
            changes["name"] = sys.intern(params["name"])
        if "algo_comb" in params:
            changes["algo_comb"] = canonical(params["algo_comb"])
        if "store_conf" in params:
            changes["store_conf"] = digested(params["store_conf"])
        return evolve(self, **changes)


def _nothing() -> None:
    pass


@implementer(IApplication)
@define(eq=False)
class SimulatedApplication:
    """Takes every order, after a while, unless it misbehaves just then.

    :ivar report: told each order that has been carried out or refused, as a line for people.
    :ivar cut: ends the device's connections (dropping).
    :ivar misbehaving: set by whoever knows the time.
    :ivar tasks: what the device has.
    :ivar refused: the tasks and subtasks whose last order it refused.
    """

    _clock: IReactorTime
    _plan: Plan
    report: Callable[[str], None]
    cut: Callable[[], None] = _nothing
    misbehaving: bool = field(default=False, init=False)
    tasks: dict[Key, Held] = field(factory=dict, init=False)
    refused: set[Key] = field(factory=set, init=False)

    async def add(self, order: Order) -> None:
        """See :class:`IApplication`."""
        await self._carry_out(order, self._add)

    async def modify(self, order: Order) -> None:
        """See :class:`IApplication`."""
        await self._carry_out(order, self._modify)

    async def delete(self, order: Order) -> None:
        """See :class:`IApplication`."""
        await self._carry_out(order, self._delete)

    async def call(self, command: str, params: Message) -> Message:
        """Answer with what was heard. See :class:`IApplication`."""
        await self._misbehave(lambda: self.report(f"was called: {command}"))
        return {"heard": params}

    async def _carry_out(self, order: Order, take: Callable[[Key, Order], None]) -> None:
        key = (order.task_id, order.subtask_id)
        try:
            await self._misbehave(lambda: take(key, order))
        except Refuse as refusal:
            self.refused.add(key)
            self.report(f"refused {_name(order)} with {refusal.ecode}")
            raise

    def _add(self, key: Key, order: Order) -> None:
        self.tasks[key] = Held.added(order.params)
        self.refused.discard(key)
        self.report(f"added {_name(order)}")

    def _modify(self, key: Key, order: Order) -> None:
        if key not in self.tasks:
            # It took a delete and was cut off before it could note that.
            lacks = Ecode.NO_SUCH_TASK if order.subtask_id is None else Ecode.NO_SUCH_SUBTASK
            raise Refuse(lacks, "simulated: there is no such thing here")
        self.tasks[key] = self.tasks[key].modified(order.params)
        self.refused.discard(key)
        parts = [part for part in ("name", "algo_comb", "store_conf") if part in order.params]
        self.report(f"changed {' and '.join(parts) or 'nothing'} of {_name(order)}")

    def _delete(self, key: Key, order: Order) -> None:
        self.tasks.pop(key, None)
        self.refused.discard(key)
        self.report(f"deleted {_name(order)}")

    async def _misbehave(self, take: Callable[[], None]) -> None:
        """Do what the device does with an order or a call; ``take`` carries it out.

        :raises Refuse: it is not carried out.
        """
        plan = self._plan
        if plan.latency:
            await deferLater(self._clock, plan.latency)
        kind = plan.kind if self.misbehaving else Kind.WELL
        if kind is Kind.REFUSING:
            raise Refuse(plan.ecode, "simulated: this device refuses")
        if kind is Kind.SILENT or kind is Kind.DROPPING:
            if plan.takes:
                take()
            if kind is Kind.DROPPING:
                self.cut()
            # Until the device is stopped: it is never answered.
            await Deferred()
        if kind is Kind.LATE and not plan.takes:
            await deferLater(self._clock, plan.delay)
        take()
        if kind is Kind.LATE and plan.takes:
            await deferLater(self._clock, plan.delay)


def _name(order: Order) -> str:
    if order.subtask_id is None:
        return f"task {order.task_id} (rev {order.rev})"
    return f"subtask {order.subtask_id} of task {order.task_id} (rev {order.rev})"
