"""Deliberate faults: the server with one thing wrong in it, to show that the checkers see it.

Each is put in from here, by replacing something of devconf for a while; devconf itself knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from attrs import evolve, frozen
from sqlalchemy import case, update
from twisted.internet.defer import Deferred

from devconf.commands import settle as settling
from devconf.commands.locks import Locks
from devconf.commands.machine import Machine
from devconf.devices.delivery import Delivery
from devconf.devices.hub import Hub
from devconf.devices.lane import Slot
from devconf.devices.link import Link
from devconf.devices.pending import PendingRequests
from devconf.devices.reader import Reader
from devconf.devices.watch import Seen, Watch
from devconf.errors import Ecode
from devconf.model import CONFIRMED, OFFLINE
from devconf.operators.protocol import OperatorProtocol
from devconf.pacing import Keepalive
from devconf.store import Store, answers, orders, outbox
from devconf.store.answers import Outcome
from devconf.store.tables import orders as order_rows
from devconf.websocket import Peer
from tests.simulation.host import replaced

Put = Callable[[ExitStack], None]


@frozen
class Fault:
    """Something that is wrong.

    :ivar by: the invariants that it breaks: it is found when one of these is seen to be broken.
    :ivar required: the issue names it.
    """

    name: str
    by: tuple[str, ...]
    put: Put
    required: bool = True

    @contextmanager
    def present(self) -> Iterator[None]:
        """Let it be wrong for a while."""
        with ExitStack() as stack:
            self.put(stack)
            yield


FAULTS: dict[str, Fault] = {}


def _fault(name: str, *by: str, required: bool = True) -> Callable[[Put], Put]:
    def note(put: Put) -> Put:
        FAULTS[name] = Fault(name, by, put, required)
        return put

    return note


def _tell_early(stack: ExitStack, which: Callable[[Any], bool]) -> None:
    """Let the store say of the functions ``which`` that they are done when they have run, and not when committed."""
    run = Store.run

    def tell(self: Store, function: Any, *args: Any) -> Deferred[Any]:
        if not which(function):
            return run(self, function, *args)
        told: Deferred[Any] = Deferred()

        def tell_and_go_on(connection: Any, *inner: Any) -> Any:
            result = function(connection, *inner)
            told.callback(result)
            return result

        run(self, tell_and_go_on, *args).addErrback(lambda failure: None if told.called else told.errback(failure))
        return told

    stack.enter_context(replaced(Store, "run", tell))


@_fault("answer before settle", "I1")
def _answer_before_settle(stack: ExitStack) -> None:
    """The client is told as soon as it is decided, and before that is committed."""
    _tell_early(stack, lambda function: function is settling.settle)


@_fault("settle before all confirmed", "I3", "I7")
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


@_fault("no fencing", "I6")
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


@_fault("confirm on the old connection", "I6")
def _confirm_on_the_old_connection(stack: ExitStack) -> None:
    """What comes on a replaced connection is taken as if it had come on the newest."""
    _leave_older_connections(stack)
    answered = Delivery._answered

    def newest(self: Delivery, answer: Any, lane: Any, slot: Any, order: Any, link: Link) -> None:
        answered(self, answer, lane, slot, order, self._hub.get(link.dev_unid) or link)

    stack.enter_context(replaced(Delivery, "_answered", newest))


@_fault("rev counter per device", "I5", "I2")
def _rev_counter_per_device(stack: ExitStack) -> None:
    """A device that gets a task begins at rev 1, whatever the task's counter is."""
    want_present = orders.want_present
    stack.enter_context(
        replaced(orders, "want_present", lambda connection, keys, _rev: want_present(connection, keys, 1))
    )


@_fault("modify with one part only", "I7")
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


@_fault("no retry while connected", "I7")
def _no_retry(stack: ExitStack) -> None:
    """What a device has not answered is sent again only when it connects anew."""
    silent = Delivery._silent

    def for_ever(self: Delivery, lane: Any, slot: Any) -> None:
        silent(self, lane, slot)
        slot.retry_at = float("inf")

    stack.enter_context(replaced(Delivery, "_silent", for_ever))


@_fault("watch cancelled with the client", "I3")
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


@_fault("acknowledgement not written", "I7", "I9")
def _not_written(stack: ExitStack) -> None:
    """Now and then an answer is taken for written that is not."""
    acknowledge = answers.acknowledge
    count = iter(range(10**9))

    def lose(connection: Any, batch: Any, now: float) -> Any:
        written = [each for each in batch if next(count) % 9]
        return acknowledge(connection, written, now) if written else {}

    stack.enter_context(replaced(answers, "acknowledge", lose))


@_fault("timer leak", "I4")
def _timer_leak(stack: ExitStack) -> None:
    """A connection that ends leaves the timer of its requests behind."""
    close = PendingRequests.close

    def leave(self: PendingRequests) -> None:
        self._timer = None
        close(self)

    stack.enter_context(replaced(PendingRequests, "close", leave))


@_fault("lock not released", "I3", "I4", "I7")
def _lock_not_released(stack: ExitStack) -> None:
    """A command that fails keeps its lock."""

    async def run(self: Machine, call: Any, lock: str, planner: Any, told: Any) -> Any:
        release = await self.locks.acquire(lock, call.gone)
        payload = await self._run(call, planner, told)
        release()
        return payload

    stack.enter_context(replaced(Machine, "run", run))


@_fault("late answer to the wrong row", "I6")
def _late_to_the_wrong_row(stack: ExitStack) -> None:
    """A late answer is taken for that to another order of the device."""
    remember = Link.remember
    before: dict[int, Any] = {}

    def mixed_up(self: Link, req_id: str, order: Any) -> None:
        remember(self, req_id, before.get(id(self), order))
        before[id(self)] = order

    stack.enter_context(replaced(Link, "remember", mixed_up))


# -- more than the issue asks for


@_fault("answer before the disk has it", "I1", required=False)
def _answer_before_commit(stack: ExitStack) -> None:
    """Whatever the store is asked is answered before it is committed."""
    _tell_early(stack, lambda _function: True)


@_fault("crash not settled", "I3", required=False)
def _not_recovered(stack: ExitStack) -> None:
    """What was under way when the server ended stays so."""

    async def recover(_self: Machine) -> int:
        return 0

    stack.enter_context(replaced(Machine, "recover", recover))


@_fault("not brought back", "I7", "I9", required=False)
def _not_brought_back(stack: ExitStack) -> None:
    """Devices that took a change which was undone keep it."""
    put_back = orders.put_back

    def leave(connection: Any, key: Any, before: Any, rev: int, _may_have: bool, new: int) -> bool:
        return put_back(connection, key, before, rev, False, new)

    stack.enter_context(replaced(orders, "put_back", leave))


@_fault("refused put not undone", "I9", required=False)
def _not_undone(stack: ExitStack) -> None:
    """``put tasks`` is answered with an error, and what it wrote stays."""

    def keep(settled: Any) -> Any:
        ecode = settled.worst()
        ecode = ecode if ecode is Ecode.REFUSED else Ecode.OK
        return settling.Settled(ecode, settled.summary(), {"devices": settled.entries}, [])

    stack.enter_context(replaced(settling, "_RULES", {**settling._RULES, "put_task": keep}))


@_fault("answered twice", "I3", required=False)
def _answered_twice(stack: ExitStack) -> None:
    """Each tenth response is sent twice."""
    respond = OperatorProtocol._respond
    count = iter(range(10**9))

    def twice(self: OperatorProtocol, echoed: Any, response: Any) -> None:
        respond(self, echoed, response)
        if next(count) % 10 == 9:
            respond(self, echoed, response)

    stack.enter_context(replaced(OperatorProtocol, "_respond", twice))


@_fault("no bound for a peer that does not read", "I4", required=False)
def _unbounded(stack: ExitStack) -> None:
    """Everything is kept for it."""

    def send_data(self: Peer, data: bytes, _sync: bool = False, _chopsize: int | None = None) -> None:
        if self._paused:
            self._unread.append(data)
        else:
            self._write(data)

    stack.enter_context(replaced(Peer, "sendData", send_data))


@_fault("no keep-alive", "I4", "I7", required=False)
def _no_keepalive(stack: ExitStack) -> None:
    """A connection that is half open is never noticed."""
    stack.enter_context(replaced(Keepalive, "_arm", lambda _self: None))


@_fault("registration ignored", "I7", "I9", required=False)
def _registration_ignored(stack: ExitStack) -> None:
    """What a device says that it has is not compared with what it should have."""
    stack.enter_context(replaced(answers, "reconcile", lambda *_args: None))


@_fault("stale rev not overtaken", "I7", required=False)
def _not_overtaken(stack: ExitStack) -> None:
    """``1004090008`` is heard, and the counter stays."""
    stack.enter_context(replaced(answers, "_overtake", lambda *_args: None))


@_fault("too many wait for a lock", "I4", required=False)
def _locks_unbounded(stack: ExitStack) -> None:
    """As many as like may wait."""
    wait = Locks._wait

    async def wait_anyway(self: Locks, name: str, gone: Any) -> None:
        self._waiting_at_most = 10**9
        await wait(self, name, gone)

    stack.enter_context(replaced(Locks, "_wait", wait_anyway))


@_fault("window ignored", "I4", required=False)
def _window_ignored(stack: ExitStack) -> None:
    """More is sent to a device than may be outstanding."""
    stack.enter_context(replaced(Link, "room", lambda self: 50 if self.live and self.transport.writable else 0))


@_fault("one message at a time ignored", "I5", required=False)
def _not_one_at_a_time(stack: ExitStack) -> None:
    """A change is sent although the one before it has not been answered."""
    stack.enter_context(replaced(Slot, "busy", property(lambda _self: False)))


@_fault("sent again with a new rev", "I2", required=False)
def _new_rev_each_time(stack: ExitStack) -> None:
    """Each sending raises the rev, so that a device cannot tell that it has done it already."""
    read = outbox.read

    def raise_and_read(connection: Any, keys: Any, *args: Any) -> Any:
        for key in keys:
            condition = orders.behind
            for column, value in zip(orders.KEY, key, strict=True):
                condition = condition & (column == value)
            orders.raise_rows(connection, condition)
        return read(connection, keys, *args)

    stack.enter_context(replaced(outbox, "read", raise_and_read))


@_fault("an error that nobody handles", "I8", required=False)
def _not_handled(stack: ExitStack) -> None:
    """That what is due could not be read is left to the Deferred, which tells of it when it is collected."""
    stack.enter_context(replaced(Reader, "_cannot_read", lambda _self, failure, *_args: failure))
