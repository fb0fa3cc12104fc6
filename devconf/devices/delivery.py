"""Delivery: what devices should have is sent to them, and what they answer is written.

One machine serves every cause: a running command, a device that connects, a retry, a late answer. The rows are in
the store (:mod:`devconf.store.orders`); in memory there is a slot only for what is sent, watched or due, so that
idle devices cost nothing. The states are told in ``docs/design.md``.

    commands -> watch(rows)  ... due rows are read, sent, answered, written ...  -> what became of each
    commands -> settle       -> release(rows)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from devconf import failpoints, wire
from devconf.clock import Now, Random
from devconf.devices.answer_book import AnswerBook
from devconf.devices.bulk import Bulk
from devconf.devices.hub import Hub, IDelivery
from devconf.devices.interpret import interpret
from devconf.devices.lane import Lane, Phase, Slot, bare
from devconf.devices.link import Link
from devconf.devices.pace import Pace
from devconf.devices.pending import NoAnswer
from devconf.devices.reader import Reader
from devconf.devices.resting import Resting
from devconf.devices.suspects import Suspects
from devconf.devices.watch import Seen, Watch
from devconf.model import LOST, Answer, OrderKey, State
from devconf.store import Store
from devconf.store.answers import Acknowledgement, Outcome
from devconf.store.outbox import Order

#: After the first deadline of an order: seconds until it is tried again.
RETRY_AFTER = 10.0
RETRY_AT_MOST = 600.0

_COMMANDS = {"add": "post", "modify": "put", "delete": "delete"}
_TASKS = wire.PREFIX + "tasks"


@implementer(IDelivery)
@define(eq=False)
class Delivery:
    """The machine.

    :ivar clock: monotonic.
    :ivar _timeout: seconds a device has to answer, besides 1 s per 64 KiB of message.
    :ivar sent: orders that were handed to a socket; :ivar silent: those that were not answered in time.
    :ivar answers: answers that were written, by outcome.
    :ivar waits_ended: commands wait for nothing any more: the server is stopping.
    """

    _log = Logger()

    _clock: IReactorTime
    _now: Now
    _random: Random
    _store: Store
    _hub: Hub
    _timeout: float
    sent: int = field(default=0, init=False)
    silent: int = field(default=0, init=False)
    answers: Counter[str] = field(factory=Counter, init=False)
    waits_ended: bool = field(default=False, init=False)
    _lanes: dict[str, Lane] = field(factory=dict, init=False)
    _reader: Reader = field(init=False)
    _book: AnswerBook = field(init=False)
    _pace: Pace = field(init=False)
    _suspects: Suspects = field(init=False)
    _resting: Resting = field(init=False)
    _stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._hub.delivery = self
        self._pace = Pace(self._clock)
        self._reader = Reader(self._clock, self._store, self._lanes, self._send, self._tidy)
        self._book = AnswerBook(self._store, self._now, self._hub.events, self._written, self._not_written)
        self._suspects = Suspects(self._clock)
        self._resting = Resting(self._clock, self._now, self._store, self.nudge)

    def start(self) -> None:
        """Begin to wake what has rested long enough."""
        self._resting.look()

    # -- for commands

    def watch(
        self, targets: Mapping[OrderKey, int], progress: Callable[[int, int], None]
    ) -> Deferred[dict[OrderKey, Seen]]:
        """Send what is due of ``targets``, and wait until devices have answered or the wait is over.

        A device that is offline now is not waited for. Until :meth:`release`, nothing more is sent of the targets
        once the wait is over: what was seen stays true until the command is settled.

        :param targets: each order, and the rev that has to be answered.
        :param progress: called with how many have been answered, and of how many.
        :returns: fires with what became of each; never fails, and must not be cancelled.
        """
        watch = Watch(progress, targets)
        now = self._clock.seconds()
        for key, rev in targets.items():
            online = key.dev_unid in self._hub
            slot = self._lane(key.dev_unid).slot(key)
            slot.watches.append(watch)
            watch.add(key, rev, waited=online, now=now)
        self.nudge(targets)
        for dev_unid in {key.dev_unid for key in targets if key.dev_unid in self._hub}:
            self._lanes[dev_unid].arm(now + self._timeout)
        watch.tell()
        if self.waits_ended or not watch.open:
            watch.finish()
        return watch.done

    def release(self, targets: Mapping[OrderKey, int], changed: Collection[OrderKey]) -> None:
        """Note that the command that watched ``targets`` is settled: what no other holds of them may be sent.

        :param changed: those that the settling itself gave something to send.
        """
        for key in targets:
            lane = self._lanes.get(key.dev_unid)
            slot = lane.slots.get(key) if lane is not None else None
            if lane is not None and slot is not None:
                slot.watches = [watch for watch in slot.watches if watch.targets is not targets]
                if lane.link is not None and not slot.busy:
                    lane.queue[key] = None
        self.nudge(changed)
        for dev_unid in {key.dev_unid for key in targets}:
            if (lane := self._lanes.get(dev_unid)) is not None:
                self._reader.feed(lane)
                self._tidy(lane)

    def nudge(self, keys: Collection[OrderKey]) -> None:
        """Note that there may be something to send of ``keys``."""
        for key in keys:
            link = self._hub.get(key.dev_unid)
            if link is not None:
                lane = self._lane(key.dev_unid)
                slot = lane.slots.get(key)
                if slot is not None:
                    slot.dirty = True
                if slot is None or not slot.busy:
                    lane.queue[key] = None
                    self._reader.feed(lane)

    def catch_up(self, dev_unid: str) -> None:
        """Send a device all that is due: it has been taken to have nothing (``devices/resync``)."""
        if dev_unid in self._hub:
            lane = self._lane(dev_unid)
            for slot in lane.slots.values():
                slot.dirty = True
            self._begin(lane)

    def _begin(self, lane: Lane) -> None:
        """Send all that is due, if that was not done a moment ago; else only what commands wait for, and all later."""
        lane.later = self._pace.begin(lane.dev_unid)
        if lane.later is None:
            lane.scan = OrderKey(lane.dev_unid, "", "")
        else:
            lane.queue |= {slot.key: None for slot in lane.slots.values() if slot.watches}
            lane.arm(lane.later)
        self._reader.feed(lane)

    def end_waits(self) -> None:
        """End what commands wait for, now and from now on, as if all deadlines had passed: the server is stopping."""
        self.waits_ended = True
        slots = (slot for lane in self._lanes.values() for slot in lane.slots.values())
        for watch in dict.fromkeys(watch for slot in slots for watch in slot.watches):
            if not watch.over:
                watch.finish()

    def stop(self) -> None:
        """Send nothing more; answers that have come are still written."""
        self._stopped = True
        self._reader.stop()
        self._pace.stop()
        self._resting.stop()
        for lane in self._lanes.values():
            lane.disarm()

    @property
    def lanes(self) -> int:
        """How many devices something is under way to, or was and is remembered."""
        return len(self._lanes)

    @property
    def bulk(self) -> Bulk:
        """The large messages."""
        return self._reader.bulk

    # -- from the hub: IDelivery

    def connected(self, link: Link) -> None:
        """See :class:`IDelivery`."""
        if self._stopped:
            return
        lane = self._lanes.get(link.dev_unid)
        if lane is None and not link.behind:
            return
        lane = self._lane(link.dev_unid)
        lane.link = link
        self._begin(lane)

    def drained(self, link: Link) -> None:
        """See :class:`IDelivery`."""
        self._reader.bulk.done(link)

    def lost(self, link: Link) -> None:
        """See :class:`IDelivery`."""
        lane = self._lanes.get(link.dev_unid)
        for order in self._suspects.lost(lane) if lane is not None else ():
            rests = Acknowledgement(order.key, order.rev, link.epoch, Outcome.LOST, LOST.ecode, LOST.enote)
            self._lane(link.dev_unid).slot(order.key).write(rests)
            self._book.add(rests, order)

    def disconnected(self, link: Link) -> None:
        """See :class:`IDelivery`."""
        self._reader.bulk.done(link)
        lane = self._lanes.get(link.dev_unid)
        if lane is not None:
            lane.lost()
            self._tidy(lane)

    def has_room(self, link: Link) -> None:
        """See :class:`IDelivery`."""
        lane = self._lanes.get(link.dev_unid)
        if lane is not None:
            self._reader.feed(lane)

    def answered_late(self, link: Link, order: Order, answer: wire.DeviceAnswer) -> None:
        """See :class:`IDelivery`."""
        lane = self._lane(link.dev_unid)
        slot = lane.slot(order.key)
        self._suspects.answered(None, order.key)
        lane.heard_at = self._clock.seconds()
        late = interpret(order, answer, link.epoch, slot.stale, late=True)
        if slot.phase is Phase.SILENT:
            slot.write(late)
        self._book.add(late, order)

    # -- lanes

    def _lane(self, dev_unid: str) -> Lane:
        lane = self._lanes.get(dev_unid)
        if lane is None:
            lane = Lane(dev_unid, self._clock, self._on_timer, self._hub.get(dev_unid))
            self._lanes[dev_unid] = lane
        return lane

    def _tidy(self, lane: Lane) -> None:
        lane.forget_idle()
        if lane.idle:
            lane.disarm()
            self._reader.forget(lane)
            if self._lanes.get(lane.dev_unid) is lane:  # and not one that was begun after it
                del self._lanes[lane.dev_unid]

    def _on_timer(self, lane: Lane) -> None:
        now = self._clock.seconds()
        if lane.later is not None and lane.later <= now:
            self._begin(lane)
        for slot in list(lane.slots.values()):
            if slot.phase is Phase.SILENT and slot.retry_at <= now and lane.link is not None:
                slot.phase = Phase.IDLE
                lane.queue[slot.key] = None
            for watch in slot.watches if lane.runs(slot) else ():
                if watch.expire(slot.key, now, self._timeout, lane.heard_at, lane.link is not None):
                    watch.finish()
        soonest = lane.soonest(self._timeout)
        if soonest is not None:
            lane.arm(soonest)
        self._reader.feed(lane)
        self._tidy(lane)

    # -- sending what is due

    def _send(self, lane: Lane, order: Order) -> bool:
        """Send ``order`` if it can be sent; returns False if it is large, and its turn has yet to come."""
        slot, link = lane.slots.get(order.key), lane.link
        if link is None or (slot is not None and not slot.may_send(self._clock.seconds())):
            return True
        if lane.room() <= 0:
            lane.queue[order.key] = None
            return True
        if self._suspects.put_off(lane, order):
            return True
        params: dict[str, Any] = order.params
        if order.conf is not None:
            params = {**params, "store_conf": self._reader.contents[order.conf]}
        req_id = self._hub.next_req_id()
        parts = wire.encode_parts(req_id, f"{_COMMANDS[order.kind]} {_TASKS}", params)
        if not self._reader.bulk.admits(order.key, parts):
            return False
        self.sent += 1
        slot = lane.slot(order.key)
        size = sum(map(len, parts))
        timeout = self._timeout + size / 65536
        slot.phase = Phase.SENT
        slot.dirty = False
        self._suspects.sent(lane, slot, order, size)
        deadline = self._clock.seconds() + timeout
        for watch in slot.watches:
            watch.sent(order.key, order.rev, deadline)
        if slot.watches:
            lane.arm(deadline)
        sent = bare(order)
        link.request(req_id, parts, timeout).addCallbacks(
            self._answered,
            self._unanswered,
            callbackArgs=(lane, slot, sent, link),
            errbackArgs=(lane, slot, sent, link, req_id),
        )
        self._reader.bulk.sent(link, parts)
        return True

    # -- what comes back

    def _answered(self, answer: wire.DeviceAnswer, lane: Lane, slot: Slot, order: Order, link: Link) -> None:
        failpoints.reach("answer received")
        self._suspects.answered(lane, order.key)
        lane.heard_at = self._clock.seconds()
        written = interpret(order, answer, link.epoch, slot.stale)
        slot.write(written)
        self._book.add(written, order)

    def _unanswered(self, failure: Failure, lane: Lane, slot: Slot, order: Order, link: Link, req_id: str) -> None:
        if not failure.check(NoAnswer):
            if slot.phase is Phase.SENT:
                slot.phase = Phase.IDLE
            return
        link.remember(req_id, order)
        self._silent(lane, slot)
        link.mute()

    def _silent(self, lane: Lane, slot: Slot) -> None:
        self.silent += 1
        slot.phase = Phase.SILENT
        pause = min(RETRY_AT_MOST, RETRY_AFTER * 2.0 ** min(slot.attempts, 16))
        slot.attempts += 1
        slot.retry_at = self._clock.seconds() + self._random.jitter(pause)
        if slot.dirty:
            slot.phase = Phase.IDLE
            lane.queue[slot.key] = None
        if not self._stopped:
            lane.arm(slot.retry_at)

    def _written(self, rows: dict[OrderKey, Any], batch: list[tuple[Acknowledgement, Order]]) -> None:
        if any(answer.outcome is Outcome.LOST for answer, _ in batch):
            self._resting.added()
        self.answers.update(answer.outcome.value for answer, _ in batch)
        for answer, _ in batch:
            # Nothing else need be under way: it may be late, and yet give the device something to do.
            lane = self._lane(answer.key.dev_unid)
            self._acknowledged(lane, lane.slot(answer.key), answer, rows.get(answer.key))
        for lane in dict.fromkeys(self._lane(answer.key.dev_unid) for answer, _ in batch):
            self._reader.feed(lane)
            self._tidy(lane)

    def _acknowledged(self, lane: Lane, slot: Slot, answer: Acknowledgement, row: Any) -> None:
        slot.written(answer)
        slot.stale = slot.stale + 1 if answer.outcome is Outcome.STALE else 0
        over = answer.outcome in (Outcome.APPLIED, Outcome.REFUSED, Outcome.LOST)
        if over and (row is None or row.acked_rev >= answer.rev):
            slot.reset()
            ended = (
                Answer(State.CONFIRMED, 0, "ok")
                if answer.outcome is Outcome.APPLIED
                else Answer(State.REFUSED, answer.ecode, answer.enote)
            )
            for watch in slot.watches:
                if watch.answered(slot.key, answer.rev, ended):
                    watch.finish()
        if slot.busy:
            return
        if lane.link is not None and row is not None and row.wanted_rev > row.acked_rev:
            lane.queue[slot.key] = None
        else:
            slot.reset()

    def _not_written(self, batch: list[tuple[Acknowledgement, Order]]) -> None:
        for answer, _ in batch:
            lane = self._lanes.get(answer.key.dev_unid)
            if lane is None:
                continue
            slot = lane.slots.get(answer.key)
            # What a lost connection leaves is simply behind.
            if slot is not None and slot.written(answer) and lane.link is not None:
                self._silent(lane, slot)
                self._reader.feed(lane)
            self._tidy(lane)
