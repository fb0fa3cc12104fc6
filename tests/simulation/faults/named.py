"""The deliberate faults that issue 4 names."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from attrs import evolve
from sqlalchemy import case, update
from twisted.internet.defer import Deferred

from devconf.commands import settle as settling
from devconf.commands.locks import Locks
from devconf.commands.machine import Machine
from devconf.devices.delivery import Delivery
from devconf.devices.hub import Hub
from devconf.devices.link import Link
from devconf.devices.pending import PendingRequests
from devconf.devices.watch import Seen, Watch
from devconf.model import CONFIRMED, OFFLINE
from devconf.store import answers, orders, outbox
from devconf.store.answers import Outcome
from devconf.store.tables import orders as order_rows
from tests.simulation.faults.fault import fault, tell_early
from tests.simulation.host import replaced


@fault("answer before settle", "I1")
def _answer_before_settle(stack: ExitStack) -> None:
    """The client is told as soon as it is decided, and before that is committed."""
    tell_early(stack, lambda function: function is settling.settle)


@fault("settle before all confirmed", "I3", "I7")
def _settle_early(stack: ExitStack) -> None:
    """The first answer ends the wait, and speaks for all."""

    def close(self: Watch, entry: Any) -> bool:
        entry.waited = False
        self.open = 0
        return True

    def finish(self: Watch) -> None:
        self.over = True
        answered = any(entry.answer for entry in self._entries.values())
        self.done.callback(
            {
                key: Seen(entry.answer or (CONFIRMED if answered else OFFLINE), entry.sent)
                for key, entry in self._entries.items()
            }
        )

    stack.enter_context(replaced(Watch, "_close", close))
    stack.enter_context(replaced(Watch, "finish", finish))


def _leave_older_connections(stack: ExitStack) -> None:
    def opened(self: Hub, identity: Any, address: str, transport: Any) -> Link:
        link = Link(identity, address, self._now(), transport, self)
        older = self._links.pop(link.dev_unid, None)
        self._links[link.dev_unid] = link
        if older is not None and older.live:
            self.delivery.disconnected(older)
        self._store.run(answers.connect, link.dev_unid).addCallbacks(
            self._connected, self._cannot_connect, callbackArgs=(link,), errbackArgs=(link,)
        )
        return link

    def closed(self: Hub, link: Link) -> None:
        if self._links.get(link.dev_unid) is link:
            del self._links[link.dev_unid]
            self._end(link)
        else:
            link.end()

    stack.enter_context(replaced(Hub, "opened", opened))
    stack.enter_context(replaced(Hub, "closed", closed))


@fault("no fencing", "I6")
def _no_fencing(stack: ExitStack) -> None:
    """A replaced connection goes on, and the store does not ask which connection an answer came on."""
    _leave_older_connections(stack)
    applied = case((order_rows.c.life == "present", answers._answered["acked_rev"]), else_=0)
    statements = {
        Outcome.APPLIED: update(order_rows).where(orders.this, answers._newer).values(
            applied_rev=applied, **answers._answered
        ),
        Outcome.REFUSED: update(order_rows).where(orders.this, answers._newer).values(**answers._answered),
        Outcome.LACKS: answers._statements[Outcome.LACKS],
    }  # fmt: skip
    stack.enter_context(replaced(answers, "_statements", statements))


@fault("confirm on the old connection", "I6")
def _confirm_on_the_old_connection(stack: ExitStack) -> None:
    """What comes on a replaced connection is taken as if it had come on the newest."""
    _leave_older_connections(stack)
    answered = Delivery._answered

    def newest(self: Delivery, answer: Any, lane: Any, slot: Any, order: Any, link: Link) -> None:
        answered(self, answer, lane, slot, order, self._hub.get(link.dev_unid) or link)

    stack.enter_context(replaced(Delivery, "_answered", newest))


@fault("rev counter per device", "I5", "I2")
def _rev_counter_per_device(stack: ExitStack) -> None:
    """A device that gets a task begins at rev 1, whatever the task's counter is."""
    want_present = orders.want_present
    stack.enter_context(
        replaced(orders, "want_present", lambda connection, keys, _rev: want_present(connection, keys, 1))
    )


@fault("modify with one part only", "I7")
def _one_part_only(stack: ExitStack) -> None:
    """Of several parts that have changed, *modify* carries the first."""
    whole = outbox._order

    def first(row: Any, algo_combs: Any) -> Any:
        order = whole(row, algo_combs)
        changed = [part for part in ("name", "algo_comb") if part in order.params]
        if order.kind != "modify" or not changed:
            return order
        kept = {key: value for key, value in order.params.items() if key not in changed[1:] and key != "store_conf"}
        return evolve(order, params=kept, conf=None)

    stack.enter_context(replaced(outbox, "_order", first))


@fault("no retry while connected", "I7")
def _no_retry(stack: ExitStack) -> None:
    """What a device has not answered is sent again only when it connects anew."""
    silent = Delivery._silent

    def for_ever(self: Delivery, lane: Any, slot: Any) -> None:
        silent(self, lane, slot)
        slot.retry_at = float("inf")

    stack.enter_context(replaced(Delivery, "_silent", for_ever))


@fault("watch cancelled with the client", "I3")
def _cancelled_with_the_client(stack: ExitStack) -> None:
    """A client that goes away cancels its command, wherever that is."""
    run = Machine._run

    async def run_while_there(self: Machine, call: Any, planner: Any, told: Any) -> Any:
        running = Deferred.fromCoroutine(run(self, call, planner, told))

        def look() -> None:
            if running.called:
                return
            if call.gone():
                running.cancel()
            else:
                self.clock.callLater(0.5, look)

        look()
        return await running

    stack.enter_context(replaced(Machine, "_run", run_while_there))


@fault("acknowledgement not written", "I7", "I9")
def _not_written(stack: ExitStack) -> None:
    """Now and then an answer is taken for written that is not."""
    acknowledge = answers.acknowledge
    count = iter(range(10**9))

    def lose(connection: Any, batch: Any, now: float) -> Any:
        written = [each for each in batch if next(count) % 9]
        return acknowledge(connection, written, now) if written else {}

    stack.enter_context(replaced(answers, "acknowledge", lose))


@fault("timer leak", "I4")
def _timer_leak(stack: ExitStack) -> None:
    """A connection that ends leaves the timer of its requests behind."""
    close = PendingRequests.close

    def leave(self: PendingRequests) -> None:
        self._timer = None
        close(self)

    stack.enter_context(replaced(PendingRequests, "close", leave))


@fault("lock not released", "I3", "I4", "I7")
def _lock_not_released(stack: ExitStack) -> None:
    """A command that fails keeps its lock."""
    acquire = Locks.acquire

    async def acquire_for_ever(self: Locks, name: str, gone: Any) -> Any:
        release = await acquire(self, name, gone)

        def release_if_it_went_well() -> None:
            if sys.exc_info()[0] is None:
                release()

        return release_if_it_went_well

    stack.enter_context(replaced(Locks, "acquire", acquire_for_ever))


@fault("late answer to the wrong row", "I6")
def _late_to_the_wrong_row(stack: ExitStack) -> None:
    """A late answer is taken for that to another order of the device."""
    remember = Link.remember
    before: dict[int, Any] = {}

    def mixed_up(self: Link, req_id: str, order: Any) -> None:
        remember(self, req_id, before.get(id(self), order))
        before[id(self)] = order

    stack.enter_context(replaced(Link, "remember", mixed_up))
