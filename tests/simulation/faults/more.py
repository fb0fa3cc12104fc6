"""Deliberate faults besides those of the issue."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from devconf.commands import settle as settling
from devconf.commands.arrivals import Arrivals
from devconf.commands.locks import Locks
from devconf.commands.machine import Machine
from devconf.devices.delivery import Delivery
from devconf.devices.lane import Slot
from devconf.devices.link import Link
from devconf.devices.resting import Resting
from devconf.devices.suspects import Suspects
from devconf.errors import Ecode
from devconf.operators.protocol import OperatorProtocol
from devconf.pacing import Keepalive
from devconf.store import answers, awaited, keys, orders, outbox
from devconf.websocket import Peer
from tests.simulation.faults.fault import fault, tell_early
from tests.simulation.host import replaced


@fault("answer before the disk has it", "I1", required=False)
def _answer_before_commit(stack: ExitStack) -> None:
    """Whatever the store is asked is answered before it is committed."""
    tell_early(stack, lambda _function: True)


@fault("crash not settled", "I3", required=False)
def _not_recovered(stack: ExitStack) -> None:
    """What was under way when the server ended stays so."""

    async def recover(_self: Machine, _ended: Callable[[], bool]) -> int:
        return 0

    stack.enter_context(replaced(Machine, "recover", recover))


@fault("not brought back", "I7", "I9", required=False)
def _not_brought_back(stack: ExitStack) -> None:
    """Devices that took a change which was undone keep it."""
    put_back = orders.put_back

    def leave(connection: Any, key: Any, before: Any, rev: int, _may_have: bool, new: int) -> bool:
        return put_back(connection, key, before, rev, False, new)

    stack.enter_context(replaced(orders, "put_back", leave))


@fault("refused put not undone", "I9", required=False)
def _not_undone(stack: ExitStack) -> None:
    """``put tasks`` is answered with an error, and what it wrote stays."""

    def keep(settled: Any) -> Any:
        ecode = settled.worst()
        ecode = ecode if ecode is Ecode.REFUSED else Ecode.OK
        return settling.Settled(ecode, settled.summary(), {"devices": settled.entries}, [])

    stack.enter_context(replaced(settling, "_RULES", {**settling._RULES, "put_task": keep}))


@fault("answered twice", "I3", required=False)
def _answered_twice(stack: ExitStack) -> None:
    """Each tenth response is sent twice."""
    respond = OperatorProtocol._respond
    count = iter(range(10**9))

    def twice(self: OperatorProtocol, echoed: Any, response: Any) -> None:
        respond(self, echoed, response)
        if next(count) % 10 == 9:
            respond(self, echoed, response)

    stack.enter_context(replaced(OperatorProtocol, "_respond", twice))


@fault("no bound for a peer that does not read", "I4", required=False)
def _unbounded(stack: ExitStack) -> None:
    """Everything is kept for it."""

    def send_data(self: Peer, data: bytes, _sync: bool = False, _chopsize: int | None = None) -> None:
        if self._paused:
            self._unread.append(data)
        else:
            self._write(data)

    stack.enter_context(replaced(Peer, "sendData", send_data))


@fault("no keep-alive", "I4", "I7", required=False)
def _no_keepalive(stack: ExitStack) -> None:
    """A connection that is half open is never noticed."""
    stack.enter_context(replaced(Keepalive, "_arm", lambda _self: None))


@fault("registration ignored", "I7", "I9", required=False)
def _registration_ignored(stack: ExitStack) -> None:
    """What a device says that it has is not compared with what it should have."""
    stack.enter_context(replaced(answers, "reconcile", lambda *_args: None))


@fault("stale rev not overtaken", "I7", required=False)
def _not_overtaken(stack: ExitStack) -> None:
    """``1004090008`` is heard, and the counter stays."""
    stack.enter_context(replaced(answers, "_overtake", lambda *_args: None))


@fault("too many wait for a lock", "I4", required=False)
def _locks_unbounded(stack: ExitStack) -> None:
    """As many as like may wait."""
    wait = Locks._wait

    async def wait_anyway(self: Locks, name: str, asker: Any) -> None:
        self._waiting_at_most = 10**9
        await wait(self, name, asker)

    stack.enter_context(replaced(Locks, "_wait", wait_anyway))


@fault("window ignored", "I4", required=False)
def _window_ignored(stack: ExitStack) -> None:
    """More is sent to a device than may be outstanding."""
    stack.enter_context(replaced(Link, "room", lambda self: 50 if self.live and self.transport.writable else 0))


@fault("one message at a time ignored", "I5", required=False)
def _not_one_at_a_time(stack: ExitStack) -> None:
    """A change is sent although the one before it has not been answered."""
    stack.enter_context(replaced(Slot, "busy", property(lambda _self: False)))


@fault("sent again with a new rev", "I2", required=False)
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


@fault("an error that nobody handles", "I8", required=False)
def _not_handled(stack: ExitStack) -> None:
    """That a device has not answered is handled, and left to the Deferred all the same."""
    unanswered = Delivery._unanswered

    def leave(self: Delivery, failure: Any, *args: Any) -> Any:
        unanswered(self, failure, *args)
        return failure

    stack.enter_context(replaced(Delivery, "_unanswered", leave))


@fault("idempotency key not written", "I3", required=False)
def _key_not_written(stack: ExitStack) -> None:
    """A request with a key is carried out, and the key is not noted with it."""
    stack.enter_context(replaced(keys, "begin", lambda *_args: None))


@fault("connect_wait ignored", "I3", required=False)
def _not_waited_for(stack: ExitStack) -> None:
    """A command does not wait for its devices."""

    async def wait(_self: Arrivals, *_args: Any) -> None:
        return None

    stack.enter_context(replaced(Arrivals, "wait", wait))


@fault("what kills a device is sent for ever", "I7", required=False)
def _never_rests(stack: ExitStack) -> None:
    """An order that costs a device its connection each time never rests."""
    stack.enter_context(replaced(Suspects, "lost", lambda *_args: []))


@fault("what rests is never sent again", "I7", required=False)
def _never_woken(stack: ExitStack) -> None:
    """Nobody looks what has rested for an hour."""
    stack.enter_context(replaced(Resting, "added", lambda _self: None))
    stack.enter_context(replaced(Resting, "look", lambda _self: None))


@fault("a late answer completes nothing", "I3", required=False)
def _never_completed(stack: ExitStack) -> None:
    """Answers are written, and nobody looks which command they complete."""
    stack.enter_context(replaced(awaited, "acknowledged", lambda *_args: []))
