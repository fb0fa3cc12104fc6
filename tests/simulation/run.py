"""One run: a history is played, faults stop, the world comes to rest, and what is left is checked."""

from __future__ import annotations

import gc
import os
import sqlite3
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cache
from pathlib import Path

from attrs import frozen

from tests.simulation.host import Host, cheap_starts
from tests.simulation.model.answers import deleted_everywhere, refused_at_once, still_there, told_rightly
from tests.simulation.model.checkers import AT_START, CHECKERS, Evidence, not_held
from tests.simulation.model.once import not_waited_for
from tests.simulation.model.preconditions import while_it_ran
from tests.simulation.model.stored import Stored, read_orders
from tests.simulation.pipe import Quality
from tests.simulation.records import Request
from tests.simulation.seen import EVENTS_AT_LEAST
from tests.simulation.steps import LENGTH, Step, history, take
from tests.simulation.storage import Image
from tests.simulation.timeline import RunawayError, Timeline
from tests.simulation.world import BOXES, World

#: What is broken when the simulation has failed, and not the server.
ITSELF = "the simulation itself"
#: Seconds of simulated time in which everything is in order again once faults have stopped: the longest pause before
#: an order is sent again (10 minutes), and what the last attempt may take.
AT_REST_WITHIN = 700.0
#: Seconds after which the server sends once more what has cost a device its connections.
RESTS = 3700.0
#: Seconds after which nothing is under way any longer that devices have put off.
PUT_OFF = 32.0


@frozen
class Outcome:
    """What became of a run.

    :ivar complaints: which invariants were broken, and how.
    :ivar seen: how often each kind of thing has happened.
    :ivar events: how many things happened: steps, connections, arrivals, messages heard, commits.
    :ivar steps: what was played.
    :ivar digest: of all that happened, and when, with each byte that arrived: the same for the same seed.
    """

    seed: int
    complaints: list[tuple[str, str]]
    seen: Counter[str]
    events: int
    steps: list[Step]
    digest: str

    @property
    def broken(self) -> list[str]:
        """The invariants that were broken."""
        return sorted({invariant for invariant, _ in self.complaints})


@cache
def folder() -> Path:
    """Return where databases are made: in memory if the machine has such a place."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = tempfile.TemporaryDirectory(prefix="devconf-simulation-", dir=parent)
    _kept.append(made)
    return Path(made.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _prepared() -> Image:
    """Return the disk of a server that has its devices enrolled, and nothing else."""
    timeline = Timeline()
    host = Host(timeline, folder(), 2**64, Counter())
    host.start()
    timeline.advance(1)
    for name in (*(f"box-{number}" for number in range(BOXES)), "absent"):
        host.service.request("post devices", {"dev_refid": name})
    timeline.advance(1)
    host.stop(lambda: None)
    timeline.advance(10)
    return Image.read(host.path)


def play(seed: int, steps: Sequence[Step] | None = None, fault: AbstractContextManager[None] | None = None) -> Outcome:
    """Play the run ``seed``.

    :param steps: those of its history that are left in; if it is left out, as many as it takes until enough happens.
    :param fault: something that is wrong as long as the run lasts.
    """
    with cheap_starts(), _no_collecting(), fault or nullcontext():
        prepared = _prepared()
        if _collects(seed):
            # Python ends what was under way in servers that are gone when it collects them, and what they say then is
            # no error of this run.
            gc.collect()
        world = World(seed, folder(), prepared)
        world.log.begin()
        try:
            played = _enough(world, history(seed)) if steps is None else iter(steps)
            found = _play(world, played)
        except Exception:
            found = [(ITSELF, traceback.format_exc())]
        finally:
            world.log.end()
            world.host.take_away()
        return Outcome(seed, found, world.seen, world.events, world.steps, world.timeline.digest[:16])


@contextmanager
def _no_collecting() -> Iterator[None]:
    # What the collector finds is logged, and when it runs must not depend on what ran before.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _enough(world: World, steps: Sequence[Step]) -> Iterator[Step]:
    """Return ``steps``, one after the other, until enough has happened."""
    for step in steps:
        if step.place >= LENGTH and world.events > EVENTS_AT_LEAST:
            return
        yield step


def _play(world: World, steps: Iterator[Step]) -> list[tuple[str, str]]:
    world.watch_answer, world.watch_start, world.watch_disabled = _at_answer, _at_start, still_there
    try:
        world.start()
        world.timeline.advance(0)
        for peer in world.peers:
            peer.dial()
        world.look_after()
        for step in steps:
            world.timeline.advance(step.gap)
            world.saw("events: step")
            world.steps.append(step)
            take(world, step)
            world.check_bounds()
        _calm_down(world)
        if not world.host.up:
            return [*world.found, *(("I7", complaint) for complaint in world.restless)]
        return [*world.found, *_check(world), *_end(world)]
    except RunawayError as error:
        return [*world.found, ("I4", str(error))]


def _collects(seed: int) -> bool:
    """Return whether errors are looked for that Deferreds tell of when they are collected: that takes long."""
    return seed % 8 == 0


# -- while it runs


def _at_start(world: World, stored: Stored) -> Iterator[tuple[str, str]]:
    evidence = Evidence(world, stored)
    for name in AT_START:
        for complaint in CHECKERS[name](evidence):
            yield name, complaint
    for command_id, command in stored.commands.items():
        if command.settled_at is None:
            yield "I3", f"the server has started, and {command_id} is not settled: {command}"


def _at_answer(world: World, request: Request) -> Iterator[tuple[str, str]]:
    query = world.host.thread.query if world.host.up else lambda _statement: []
    for complaint in (
        *told_rightly(world, request),
        *not_waited_for(world, request),
        *deleted_everywhere(world, request),
    ):
        yield "I3", complaint
    for complaint in refused_at_once(world, request, query):
        yield "I9", complaint
    if request.failed and "devices" in (request.answer or {}):
        orders = read_orders(world.host.thread.query) if world.host.up else []
        if orders:
            stored = Stored.read(world.host.thread.query)
            for box in world.boxes:
                for complaint in not_held(stored, box, [each for each in orders if each.dev_unid == box.dev_unid]):
                    yield "I9", f"after request {request.number} failed: {complaint}"


# -- coming to rest


def _calm_down(world: World) -> None:
    """Stop all faults, and wait until everything is in order again."""
    world.calm = True
    world._crash = None
    world.slow([0.0], 0.0)
    for box in world.boxes:
        box.moods.clear()
        box.away = False
    for twin in world.twins:
        twin.leave()
    for connection in world._connections:
        connection.read(True)
        connection.up.quality = connection.down.quality = connection.quality = Quality()
    world.timeline.advance(PUT_OFF)
    world.host.thread.fail.clear()
    if world.host.up:
        orders = read_orders(world.host.thread.query)
        for invariant in while_it_ran(world, orders, collected=_collects(world.seed)):
            world.saw(f"precondition: {invariant}")
    waited = 0.0
    while waited < AT_REST_WITHIN and any(client.waiting for client in world.clients):
        world.timeline.advance(5)
        waited += 5
    # Not before: among what clients still ask may be to disable a device.
    _administer(world)
    _rest(world, AT_REST_WITHIN - waited)
    if world.seed % 4 in (1, 2) and not world.restless:
        _come_back(world)
    if world.host.up and any(order.rests for order in read_orders(world.host.thread.query)):
        world.saw("server: lets an order rest")
        if world.seed % 2:
            _mend(world)
    # Timers of what was answered last run out.
    world.timeline.advance(25)
    _read_lists(world)


def _come_back(world: World) -> None:
    """Let all boxes connect anew: what they refused is sent again, and none of them says no any longer."""
    for box in world.boxes:
        box.came_back = True
        box.leave()
    world.timeline.advance(60)
    _rest(world, 120)


def _rest(world: World, within: float) -> None:
    world.restless = list(_restless(world))
    waited = 0.0
    while waited < within and world.restless:
        world.timeline.advance(5)
        waited += 5
        world.restless = list(_restless(world))


def _mend(world: World) -> None:
    """Let boxes die of nothing any longer, and wait until what rests has been sent once more."""
    world.saw("server: sends what has rested once more")
    world.mended = True
    for box in world.boxes:
        box.kills.clear()
    # The rest is longer by as much as the clock is set back.
    world.timeline.advance(RESTS + max(0.0, world.host.highest_skew - world.host.skew))
    _rest(world, 60)


def _administer(world: World) -> None:
    """Do what only people can: enable, accept other hardware, and help boxes that forgot and cannot say so."""
    for box in world.boxes:
        world.request(
            world.auditor, "put devices", {"dev_unid": box.dev_unid, "enabled": True, "dev_refid": box.dev_refid}
        )
        if not box.trusted:
            world.request(world.auditor, "post devices/resync", {"dev_unid": box.dev_unid})
            box.trusted = True


def _restless(world: World) -> Iterator[str]:
    if not world.host.up:
        yield "the server is not up"
        return
    for client in (*world.clients, world.auditor):
        if client.waiting:
            yield f"{client.name} waits for answers to {[each.number for each in client.requests.values()]}"
    hub = world.host.service.hub
    sockets = [socket for box in world.boxes for socket in box.sockets]
    sockets += [peer.socket for peer in (*world.clients, world.auditor) if peer.socket is not None]
    if len(world.host.service.sessions) != len(sockets):
        yield f"the server has {len(world.host.service.sessions)} sockets, and peers believe in {len(sockets)}"
    if any(socket.connection.cut for socket in sockets):
        yield "a connection is cut, and somebody believes in it"
    pending = {order.dev_unid for order in read_orders(world.host.thread.query) if order.pending}
    for box in world.boxes:
        if not box.sockets or box.dev_unid not in hub:
            yield f"{box.dev_refid} is not connected"
        elif box.dev_unid in pending:
            yield f"{box.dev_refid} is connected, and has not been sent what it should have"


def _read_lists(world: World) -> None:
    requests = {
        name: world.request(world.auditor, f"get {name}", {"limit": 1000})
        for name in ("tasks", "subtasks", "store_confs", "devices")
    }
    for box in world.boxes:
        box.ask()
    world.timeline.advance(12)
    for name, request in requests.items():
        world.lists[name] = (request.answer or {}).get(name, [])


def _check(world: World) -> Iterator[tuple[str, str]]:
    evidence = Evidence(world, Stored.read(world.host.thread.query))
    if _collects(world.seed):
        gc.collect()
    for name, checker in CHECKERS.items():
        for complaint in checker(evidence):
            yield name, complaint


def _end(world: World) -> Iterator[tuple[str, str]]:
    """Stop the server, which leaves nothing behind but what it has stored."""
    thread = world.host.thread
    world.stop(back_after=60)
    world.timeline.advance(15)
    if thread.open:
        yield "I4", "the service has not stopped within 15 seconds"
        return
    with closing(sqlite3.connect(world.host.path)) as file:
        stored = Stored.read(lambda statement: file.execute(statement).fetchall())
    yield from _at_start(world, stored)
    for timers in world.left_at_stop:
        yield "I4", f"timers were left when the service had stopped: {timers}"


def left_out(seed: int, places: set[int]) -> list[Step]:
    """Return the history of ``seed`` with only the steps at ``places``."""
    return [step for step in history(seed) if step.place in places]


def seeds_from(text: str) -> range:
    """Return the seeds that ``text`` names: a count, or ``first:end``."""
    first, _, end = text.rpartition(":")
    return range(int(first or 0), int(end))
