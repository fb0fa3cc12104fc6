"""Reading what is due: one read serves many devices, so that a fleet that comes back costs few."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf.devices.bulk import Bulk
from devconf.devices.contents import Contents
from devconf.devices.lane import Lane
from devconf.model import OrderKey
from devconf.store import Store, complain, outbox
from devconf.store.outbox import Order

#: Devices that are served by one read of what is due: others have their turn in between.
LANES_PER_READ = 200
#: After a failure of the store: seconds until what is due is read again.
READ_AGAIN = 1.0


@define(eq=False)
class Reader:
    """Reads what is due of lanes that have room for it.

    :ivar _lanes: by device; shared with the delivery.
    :ivar _send: given each order that is due; returns False if it is large, and its turn has yet to come.
    :ivar _served: given each lane that has been served.
    :ivar contents: what orders refer to, encoded.
    """

    _log = Logger()

    _clock: IReactorTime
    _store: Store
    _lanes: dict[str, Lane]
    _send: Callable[[Lane, Order], bool]
    _served: Callable[[Lane], None]
    contents: Contents = field(factory=Contents, init=False)
    bulk: Bulk = field(init=False)
    _hungry: dict[Lane, None] = field(factory=dict, init=False)
    _reading: bool = field(default=False, init=False)
    _again_call: IDelayedCall | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.bulk = Bulk(self._clock, self._read)

    def feed(self, lane: Lane) -> None:
        """Read what is due of ``lane``, if it has room, in its turn."""
        if lane.wants() and not self._stopped:
            self._hungry[lane] = None
            self._read()

    def forget(self, lane: Lane) -> None:
        """Note that nothing is under way in ``lane`` any longer."""
        self._hungry.pop(lane, None)

    def stop(self) -> None:
        """Read nothing more."""
        self._stopped = True
        self._hungry.clear()
        self.bulk.stop()
        if self._again_call is not None and self._again_call.active():
            self._again_call.cancel()

    def _read(self) -> None:
        if self._reading:
            return
        called = self._called()
        keys = [*called]
        scans: list[tuple[OrderKey, int]] = []
        served: list[Lane] = []
        while self._hungry and len(served) < LANES_PER_READ:
            lane = next(iter(self._hungry))
            del self._hungry[lane]
            if not lane.wants():
                continue
            served.append(lane)
            lane.reading = True
            room = lane.room()
            mine = lane.take(room)
            keys += mine
            if lane.scan is not None and not lane.crowded and len(mine) < room:
                scans.append((lane.scan, room - len(mine)))
        if served or called:
            self._reading = True
            due = self._store.run(outbox.read, keys, scans, self.contents.known())
            due.addCallback(self._due, served, called, keys, scans).addErrback(self._cannot_read, served, keys)

    def _called(self) -> list[OrderKey]:
        """Return the large orders whose turn has come, and that can be sent."""
        called: list[OrderKey] = []
        # Those that cannot be sent leave the line, and it is the turn of those behind them.
        while not called and (keys := self.bulk.call()):
            called = [key for key in keys if self._can_be_sent(key)]
        return called

    def _can_be_sent(self, key: OrderKey) -> bool:
        """Tell whether ``key``, whose turn has come, can be sent; else it waits for its turn no longer."""
        lane = self._lanes.get(key.dev_unid)
        slot = lane.slots.get(key) if lane is not None else None
        if lane is None or lane.link is None or not lane.link.room():
            self._leave(key)
            if lane is not None and lane.link is not None:
                lane.queue[key] = None
            return False
        if slot is None or slot.may_send(self._clock.seconds()):
            return True
        self._leave(key)
        return False

    def _leave(self, key: OrderKey) -> None:
        """Note that ``key`` waits for its turn no longer; what waits for it waits from now on."""
        self.bulk.leave(key)
        lane = self._lanes.get(key.dev_unid)
        if lane is not None and key in lane.lined:
            lane.lined.remove(key)
            lane.heard_at = self._clock.seconds()

    def _due(self, due: outbox.Due, *asked: Any) -> None:
        # The next read begins when all lanes of this one have been looked at: a lane is in one read at a time.
        try:
            self._take_in(due, *asked)
        finally:
            self._reading = False
        self._read()

    def _take_in(
        self,
        due: outbox.Due,
        served: list[Lane],
        called: list[OrderKey],
        keys: list[OrderKey],
        scans: list[tuple[OrderKey, int]],
    ) -> None:
        for conf, encoded in due.contents.items():
            self.contents.add(conf, encoded)
        for (after, _), position in zip(scans, due.positions, strict=True):
            lane = self._lanes.get(after.dev_unid)
            # One that connected anew meanwhile begins at the beginning.
            if lane is not None and lane.scan == after:
                lane.scan = position
        # Those whose turn it is come first: nobody else takes their room.
        waiting = self._send_all(due.orders)
        self.contents.trim()
        waiting |= self._put_off(due.left)
        for key in called:
            if key not in waiting:
                self._leave(key)
            if (lane := self._lanes.get(key.dev_unid)) is not None and lane not in served:
                served.append(lane)
        self._nothing_due(set(keys) - {order.key for order in due.orders} - set(due.left))
        for lane in served:
            lane.reading = False
            self.feed(lane)
            self._served(lane)

    def _send_all(self, orders: Iterable[Order]) -> set[OrderKey]:
        """Send what can be sent, and return what waits for its turn."""
        waiting = set()
        failures = []
        for order in orders:
            lane = self._lanes.get(order.key.dev_unid)
            if lane is None or self._stopped:
                continue
            try:
                handed = self._send(lane, order)
            except Exception:
                # It is looked at again when it changes, or its device connects anew; the others go on.
                failures.append(Failure())
                handed = True
            if handed:
                self._leave(order.key)
            else:
                self.bulk.wait(order.key)
                lane.lined.add(order.key)
                waiting.add(order.key)
        if failures:
            self._log.failure("{count} orders could not be sent; the first:", failures[0], count=len(failures))
        return waiting

    def _put_off(self, keys: Iterable[OrderKey]) -> set[OrderKey]:
        """Let ``keys`` be read again; what stands in line keeps its place. Returns those that do."""
        lined = set()
        for key in keys:
            lane = self._lanes.get(key.dev_unid)
            if lane is not None and key in lane.lined:
                lined.add(key)
            elif lane is not None and lane.link is not None:
                lane.queue[key] = None
        return lined

    def _nothing_due(self, keys: Collection[OrderKey]) -> None:
        for key in keys:
            lane = self._lanes.get(key.dev_unid)
            slot = lane.slots.get(key) if lane is not None else None
            if slot is not None and not slot.busy:
                slot.reset()

    def _cannot_read(self, failure: Failure, served: list[Lane], keys: list[OrderKey]) -> None:
        self._reading = False
        complain(self._log, failure, "what is due could not be read; trying again")
        self._put_off(keys)
        for lane in served:
            lane.reading = False
            self._served(lane)  # its device may have gone meanwhile
        if not self._stopped and self._again_call is None:
            self._again_call = self._clock.callLater(READ_AGAIN, self._again)

    def _again(self) -> None:
        self._again_call = None
        for lane in list(self._lanes.values()):
            self.feed(lane)
        self._read()
