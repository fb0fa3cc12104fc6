"""The invariants of ``docs/design.md``, each with a checker of its own.

A checker looks at what is known from outside (what clients were told, what devices heard, hold and said) and at what
is stored. It returns what is wrong, in words; nothing is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import define

from tests.simulation.devices import Box
from tests.simulation.memory import PARTS
from tests.simulation.model.again import done_again
from tests.simulation.model.answers import OFFLINE, events, follows, may_rest
from tests.simulation.model.late import not_completed
from tests.simulation.model.once import answered_otherwise, carried_out_for_one_key, carried_out_twice
from tests.simulation.model.registers import complaints
from tests.simulation.model.stored import Order, Stored
from tests.simulation.records import DONE, LOST, MAX_REV, STALE, Heard, Request
from tests.simulation.timeline import name_of
from tests.simulation.world import World

#: Seconds that lie between two messages of one order at least, unless it was answered; less what the network takes.
RESENT_AFTER = 10.0
#: So far above what it did late a device is told to delete something that the server has forgotten.
LEAP = 2**20
#: A device that claims a higher rev than it was sent is followed so often (design.md).
FOLLOWED = 3


@define
class Evidence:
    """A world that has come to rest, and what is stored in it."""

    world: World
    stored: Stored

    @property
    def boxes(self) -> list[Box]:
        """The devices."""
        return self.world.boxes

    @property
    def requests(self) -> list[Request]:
        """All that clients have asked."""
        return self.world.ledger.requests

    def orders_of(self, box: Box) -> dict[tuple[str, str], Order]:
        """The rows of ``box``."""
        return {order.key: order for order in self.stored.orders.values() if order.dev_unid == box.dev_unid}


def _of(invariant: str, evidence: Evidence) -> Iterator[str]:
    for which, complaint in complaints(evidence.world.ledger, evidence.stored, evidence.world.first):
        if which == invariant:
            yield complaint


def i1(evidence: Evidence) -> Iterator[str]:
    """What a client was told "ok" survives a power cut, and was on the disk before it was told."""
    yield from _of("I1", evidence)
    settled = {each.command_id: each for each in evidence.world.settled}
    for request in evidence.requests:
        command_id = (request.answer or {}).get("command_id")
        if not request.ok or command_id is None or request.command == "post devices/call":
            continue
        if command_id not in evidence.stored.commands:
            yield f"request {request.number} was answered ok, and command {command_id} is not in the history"
        elif command_id in settled and settled[command_id].tick > (request.written_at or 0):
            yield f"request {request.number} was answered at {request.written_at}, before it was committed"


def i2(evidence: Evidence) -> Iterator[str]:
    """No order takes effect twice on a device that keeps its revs."""
    for box in evidence.boxes:
        for key, rev, params in box.journal.conflicts:
            yield f"{box.dev_refid} had done rev {rev} of {key}, and was sent another order with it: {params}"
        yield from done_again(box, evidence.requests)


def i3(evidence: Evidence) -> Iterator[str]:
    """Every request gets exactly one answer or its connection closes; every command ends in one terminal state."""
    for request in evidence.requests:
        if len(request.answers) > 1:
            yield f"request {request.number} was answered {len(request.answers)} times: {request.answers}"
        if not request.answers and request.lost_at is None:
            yield f"request {request.number} ({request.command}) was never answered, and its connection is there"
        if request.wrong and request.ok:
            yield f"request {request.number} cannot succeed, and did: {request.command} {request.params}"
        if any(late < early for (early, _), (late, _) in zip(request.progress, request.progress[1:], strict=False)):
            yield f"the progress of request {request.number} went back: {request.progress}"
        yield from _right_answer(evidence, request)
        yield from answered_otherwise(request)
    yield from events(evidence.world)
    yield from carried_out_twice(evidence.world, evidence.world.host.thread.query)
    yield from carried_out_for_one_key(evidence.world)
    yield from not_completed(evidence.world.host.thread.query)
    for client in evidence.world.clients:
        if client.strays:
            yield f"{client.name} was told what it had not asked: {client.strays}"
    for command_id, command in evidence.stored.commands.items():
        if command.settled_at is None or command.ecode is None or command.open:
            yield f"command {command_id} has not ended: {command}"
        wanted = follows(command.name, command.params, {"devices": command.devices})
        if command.ecode in (*DONE, OFFLINE) and wanted is not None and wanted != command.ecode:
            yield f"command {command_id} has ended with {command.ecode}, and {wanted} follows from {command}"
        before = evidence.world.ended.setdefault(command_id, command)
        if before != command:
            yield f"command {command_id} had ended as {before}, and is {command} now"


def _right_answer(evidence: Evidence, request: Request) -> Iterator[str]:
    answer = request.answer or {}
    stored = evidence.stored.commands.get(answer.get("command_id", ""))
    if stored is not None and stored.ecode != answer["ecode"]:
        yield f"request {request.number} was answered {answer['ecode']}, and the store has {stored.ecode}"
    called = request.command == "post devices/call" and request.ok
    if called and answer["answer"].get("echo") != request.params["params"]:
        yield f"call {request.number} got the answer of another: {answer}"


def i4(evidence: Evidence) -> Iterator[str]:
    """Memory, queues and timers are bounded: at rest nothing is left."""
    yield from evidence.world.over_bounds
    service, world = evidence.world.host.service, evidence.world
    delivery, hub = service.delivery, service.hub
    online = sum(bool(box.sockets) for box in evidence.boxes)
    clients = sum(client.socket is not None for client in (*world.clients, world.auditor))
    for what, found, wanted in (
        ("lanes", len(delivery._lanes), 0),
        ("hungry lanes", len(delivery._reader._hungry), 0),
        ("answers to be written", len(delivery._book._waiting), 0),
        ("locks", len(service.locks._waiting), 0),
        ("devices that are waited for", len(service.arrivals._waiters), 0),
        ("requests with a key", len(service.registry._keys._under_way), 0),
        ("devices connected", len(hub._links), online),
        ("sockets", len(service.sessions), online + clients),
        ("requests to devices", sum(len(link.pending) for link in hub._links.values()), 0),
        ("requests of devices", sum(link.asking for link in hub._links.values()), 0),
        ("requests of clients", sum(peer._in_flight for peer in world.operators()), 0),
        ("unread", sum(len(peer._unread) for peer in [*world.operators(), *world.devices()]), 0),
    ):
        if found != wanted:
            yield f"{found} {what} are left, not {wanted}"
    left = [name_of(call) for call in evidence.world.host.clock.getDelayedCalls()]
    # One for each kind of connection, one for the history, and one for all that rests or has rested.
    if set(left) - {"Keepalive._run", "LoopingCall", "Resting.look"} or len(left) > 4:
        yield f"timers are left: {left}"


def i5(evidence: Evidence) -> Iterator[str]:
    """Messages of one (device, task, subtask) arrive in order, and one at a time."""
    for box in evidence.boxes:
        newest: dict[tuple[str, str], tuple[int, int]] = {}
        for heard in box.journal.heard:
            socket, rev = newest.get(heard.key, (-1, 0))
            if heard.socket >= socket:
                if heard.rev < rev and not _forgotten(evidence, box, heard):
                    yield f"{box.dev_refid} heard rev {heard.rev} of {heard.key} after {rev}"
                newest[heard.key] = (heard.socket, heard.rev)
        yield from _one_at_a_time(box)


def _forgotten(evidence: Evidence, box: Box, heard: Heard) -> bool:
    """Whether the server had no task any longer, and so no counter.

    Whatever the device had said to *delete* was the end of it; and what it did late it is told to delete at a rev far
    above that one.
    """
    refused = any(
        each.key == heard.key and each.kind == "delete" and each.rev > heard.rev and each.written_as != 0
        for each in box.journal.said
    )
    return heard.kind == "delete" and (refused or heard.rev > LEAP) and heard.key[0] not in evidence.stored.tasks


def _one_at_a_time(box: Box) -> Iterator[str]:
    answered: dict[tuple[int, Any, int], int] = {}
    for said in box.journal.said:
        answered.setdefault((said.socket, said.key, said.rev), said.tick)
    last: dict[tuple[int, Any], Any] = {}
    for heard in box.journal.heard:
        before = last.get((heard.socket, heard.key))
        last[(heard.socket, heard.key)] = heard
        if before is None or heard.written.now - before.written.now >= RESENT_AFTER:
            continue
        at = heard.written.tick
        if answered.get((before.socket, before.key, before.rev), at) >= at:
            yield f"{box.dev_refid} was sent rev {heard.rev} of {heard.key} before it had answered rev {before.rev}"


def i6(evidence: Evidence) -> Iterator[str]:
    """A replaced connection changes nothing: every acknowledgement came on the connection that counted."""
    boxes = {box.dev_unid: box for box in evidence.boxes}
    for ack in evidence.world.acks:
        if ack.epoch != ack.current:
            yield f"an answer of connection {ack.epoch} was written when {ack.current} was the newest: {ack}"
        box = boxes[ack.dev_unid]
        socket = evidence.world.socket_of(box, ack.epoch)
        key = (ack.task_id, ack.subtask_id)
        said = {
            each.written_as
            for each in box.journal.said
            if (each.socket, each.key, each.rev) == (socket, key, ack.rev) and each.counts
        }
        if ack.ecode not in said and not (ack.ecode == LOST and may_rest(evidence.world, box, key)):
            yield f"{ack} was written; {box.dev_refid} said {said} on that connection"


def i7(evidence: Evidence) -> Iterator[str]:
    """Once faults have stopped, every device holds what the store says, and those that said no are listed."""
    yield from evidence.world.restless
    stored = evidence.stored
    for box in evidence.boxes:
        orders = evidence.orders_of(box)
        yield from _should_have(evidence, box, orders)
        for key, order in orders.items():
            if order.rests:
                yield from _rests_rightly(evidence.world, box, order)
            elif order.life == "deleted" or order.pending:
                yield f"{box.dev_refid} is connected, and {order} is not over"
            elif order.refused:
                said = {each.written_as for each in box.journal.said if (each.key, each.rev) == (key, order.acked_rev)}
                if box.came_back and order.ecode != STALE:
                    yield f"{order} is listed as refused; {box.dev_refid} has connected since, and says no to nothing"
                if _undone(stored, box, order):
                    yield f"{order} is listed as refused; what {box.dev_refid} refused was undone, and it holds the old"
                if order.ecode not in said and not _before(box, order):
                    yield f"{order} is listed as refused; {box.dev_refid} said {said}"
                if order.ecode == STALE and not _would_not_follow(box, order):
                    yield f"{order} is listed as refused; {box.dev_refid} told its rev, and was not sent a higher one"
        yield from not_held(stored, box, orders.values())
        # What it kept against a delete, it is told to delete once more when it registers.
        told = box.came_back and box.registers
        surplus = [
            key
            for key in box.held
            if key not in orders and not (key in box.kept and (not told or box.revs[key] >= MAX_REV))
        ]
        if surplus:
            yield f"{box.dev_refid} holds {surplus}, of which the store knows nothing"
    yield from _listed(evidence)


def _rests_rightly(world: World, box: Box, order: Order) -> Iterator[str]:
    if not may_rest(world, box, order.key):
        yield f"{order} rests, and {box.dev_refid} has lost {len(box.journal.connected)} connections in all"
    if world.mended:
        yield f"{order} rests, and nothing has killed {box.dev_refid} for more than an hour"


def _undone(stored: Stored, box: Box, order: Order) -> bool:
    """Whether ``box`` has refused changes of ``order`` and nothing else, and holds what it should have all the same."""
    if not box.trusted or order.life != "present" or stored.content(order.key) != box.held.get(order.key):
        return False
    no = [each for each in box.journal.said if each.key == order.key and each.written_as != 0]
    held = box.held[order.key]
    for said in no:
        sent = [each.params for each in box.journal.heard if (each.key, each.rev) == (order.key, said.rev)]
        if said.kind != "put" or said.written_as in (None, STALE):
            return False
        if not sent or all(held.get(name) == value for name, value in sent[0].items() if name in PARTS):
            return False  # it said no to what it has: then it is refused, and it holds it
    return bool(no)


def _before(box: Box, order: Order) -> bool:
    # What a refused change was undone to counts again, with what the device had said to that.
    return any(each.key == order.key and each.written_as == order.ecode for each in box.journal.said)


def _would_not_follow(box: Box, order: Order) -> bool:
    """Whether it claimed a rev that it cannot have, or a higher one each time it was sent one above its last."""
    claims = [(each.rev, each.device_rev) for each in box.journal.said if each.key == order.key and each.ecode == STALE]
    possible = [rev for rev, claimed in claims if isinstance(claimed, int) and rev <= claimed <= MAX_REV]
    return len(possible) < len(claims) or len(set(possible)) >= FOLLOWED


def _should_have(evidence: Evidence, box: Box, orders: Iterable[tuple[str, str]]) -> Iterator[str]:
    stored = evidence.stored
    wanted = {(task_id, "") for task_id, task in stored.tasks.items() if box.dev_unid in task.dev_unids}
    wanted |= {(each.task_id, key) for key, each in stored.subtasks.items() if each.dev_unid == box.dev_unid}
    present = {key for key in orders if stored.orders[(box.dev_unid, *key)].life == "present"}
    if wanted != present:
        yield f"{box.dev_refid} should have {sorted(wanted)}, and is to be sent {sorted(present)}"


def not_held(stored: Stored, box: Box, orders: Iterable[Order]) -> Iterator[str]:
    """What the store says that ``box`` has confirmed, and it does not hold."""
    for order in orders:
        if order.confirmed and order.life == "present" and box.trusted:
            wanted, held = stored.content(order.key), box.held.get(order.key)
            if wanted != held:
                yield f"{box.dev_refid} has confirmed {order}, and holds {held}, not {wanted}"


def _listed(evidence: Evidence) -> Iterator[str]:
    """What the lists say is what the tables say."""
    world, stored = evidence.world, evidence.stored
    states = {box.dev_unid: list(evidence.orders_of(box).values()) for box in evidence.boxes}
    for item in world.lists.get("devices", ()):
        orders = states.get(item["dev_unid"], [])
        counts = (sum(order.pending for order in orders), sum(order.refused for order in orders))
        if item["dev_unid"] in states and (item["pending"], item["refused"]) != counts:
            yield f"get devices says {item}, and the store has {counts}"
    for item in world.lists.get("tasks", ()):
        orders = [each for each in stored.orders.values() if each.task_id == item["task_id"] and each.life == "present"]
        state = "refused" if any(each.refused for each in orders) else "confirmed"
        state = "pending" if state == "confirmed" and any(each.pending for each in orders) else state
        if item["state"] != state:
            yield f"get tasks says {item}, and its orders are {orders}"
    for name, table in (("tasks", stored.tasks), ("subtasks", stored.subtasks), ("store_confs", stored.confs)):
        unid = {"tasks": "task_id", "subtasks": "subtask_id", "store_confs": "unid"}[name]
        listed = {item[unid] for item in world.lists.get(name, ())}
        if listed != set(table):
            yield f"get {name} lists {sorted(listed)}, and {sorted(table)} are stored"
    for box in evidence.boxes:
        yield from _told(evidence, box)


def _told(evidence: Evidence, box: Box) -> Iterator[str]:
    """What a device is told that it should have is what it should have."""
    if box.told is None:
        yield f"{box.dev_refid} has asked what it should have, and was not told"
        return
    for params in box.told["tasks"]:
        key = (params["task_id"], params.get("subtask_id", ""))
        wanted = evidence.stored.content(key) or {}
        if {name: params.get(name) for name in wanted} != wanted:
            yield f"{box.dev_refid} was told that it should have {params}, not {wanted}"
    keys = {(params["task_id"], params.get("subtask_id", "")) for params in box.told["tasks"]}
    if keys != {key for key, order in evidence.orders_of(box).items() if order.life == "present"}:
        yield f"{box.dev_refid} was told that it should have {sorted(keys)}"


def i8(evidence: Evidence) -> Iterator[str]:
    """There is no unhandled error in the log."""
    yield from evidence.world.errors


def i9(evidence: Evidence) -> Iterator[str]:
    """An error answer leaves what is stored as it was; devices that took the change are pending the old."""
    yield from _of("I9", evidence)


Checker = Callable[[Evidence], Iterator[str]]

#: All of them, by name.
CHECKERS: dict[str, Checker] = {
    "I1": i1,
    "I2": i2,
    "I3": i3,
    "I4": i4,
    "I5": i5,
    "I6": i6,
    "I7": i7,
    "I8": i8,
    "I9": i9,
}
#: Those that hold at any time, whenever the server has started.
AT_START = ("I1", "I9")
