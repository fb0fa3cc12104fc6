"""The history of a run: steps made from its seed before it begins, and what each of them does.

A step has numbers of its own and depends on no other, so that any of them can be left out: the run that is left is
another run, but one of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from attrs import frozen

from tests.simulation.asking import KINDS as REQUESTS
from tests.simulation.asking import NUMBERS, Draw
from tests.simulation.moods import MOODS
from tests.simulation.tangles import tangle, undo
from tests.simulation.twins import Twin

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Steps of a history: a run ends after the first number of them if enough has happened, and else goes on.
LENGTH, LENGTH_AT_MOST = 30, 80


@frozen
class Step:
    """Something that is done to the world.

    :ivar place: where it stands in the history; its name when others are left out.
    :ivar gap: seconds that pass before it.
    """

    place: int
    gap: float
    kind: str
    detail: str
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        detail = f" {self.detail}" if self.detail else ""
        return f"{self.place:3} after {self.gap:6.2f} s  {self.kind}{detail} {' '.join(map(str, self.numbers))}"


#: How often each request occurs, in parts.
ASKED = {
    "post_pic": 10,
    "post_video": 4,
    "put_task": 14,
    "pic_task_config": 18,
    "delete_task": 6,
    "post_subtask": 8,
    "delete_subtask": 4,
    "post_conf": 5,
    "put_conf": 9,
    "delete_conf": 2,
    "call": 5,
    "resync": 2,
    "rename": 2,
    "disable": 2,
    "read": 5,
    "subscribe": 2,
    "wrong": 5,
}
assert set(ASKED) == set(REQUESTS)

#: What goes wrong, in groups: a run has some of them and not others, since what goes wrong often hides what goes wrong
#: seldom.
GROUPS: dict[str, dict[str, int]] = {
    "devices": {"mood": 36, "box late": 8},
    "comings": {"box away": 5, "box back": 5, "box again": 4, "box twice": 5, "box silent twice": 4},
    "memory": {"box forgets": 4, "other hardware": 2},
    "sick": {"box dies": 6, "box away": 2, "twin": 3},
    "network": {"cut": 6, "half open": 5, "stall": 5},
    "reading": {"box reads not": 3, "client reads not": 4, "flood": 3},
    "clients": {"client leaves": 6, "garbage": 3, "box asks": 3},
    "keys": {"ask again": 12, "client leaves": 3},
    "crashes": {"kill": 3, "power cut": 3, "crash later": 5, "crash in a commit": 4, "stop": 3},
    "store": {"slow": 6, "store fails": 6},
    "clock": {"clock jumps": 4},
    "tangles": {"tangle": 12, "undo": 16},
}


def history(seed: int) -> list[Step]:
    """Return the history of the run ``seed``."""
    random = Random(f"history {seed}")
    weights = {"ask": 60}
    for group in GROUPS.values():
        if random.random() < 0.36:
            weights |= {kind: weights.get(kind, 0) + weight for kind, weight in group.items()}
    moods = random.sample(MOODS, random.randint(2, len(MOODS)))
    kinds, parts = list(weights), list(weights.values())
    steps = []
    for place in range(LENGTH_AT_MOST):
        kind = _OPENING[place] if place < len(_OPENING) else random.choices(kinds, parts)[0]
        detail = ""
        if kind == "ask":
            detail = "post_conf" if place == 0 else random.choices(list(ASKED), list(ASKED.values()))[0]
            detail = "post_pic" if place in (1, 2) else detail
        elif kind == "mood":
            detail = random.choice(moods)
        numbers = tuple(random.randrange(1000) for _ in range(NUMBERS))
        steps.append(Step(place, round(_gap(random, place), 3), kind, detail, numbers))
    return steps


_OPENING = ["ask", "ask", "ask"]


def _gap(random: Random, place: int) -> float:
    if place < len(_OPENING):
        return 0.3
    kind = random.random()
    if kind < 0.55:
        return random.uniform(0, 0.3)
    if kind < 0.85:
        return random.uniform(0.3, 3)
    return random.uniform(3, 14) if kind < 0.98 else random.uniform(30, 60)


def take(world: World, step: Step) -> None:
    """Do ``step``."""
    _KINDS[step.kind](world, step.detail, Draw(step.numbers))


# -- what clients do


def _ask(world: World, detail: str, draw: Draw) -> None:
    client = draw.one(world.clients)
    world.ask(client, detail, draw)


def _flood(world: World, _detail: str, draw: Draw) -> None:
    """More than the server takes at once."""
    client = draw.one(world.clients)
    world.saw("client: floods")
    kind = draw.one(["read", "pic_task_config", "call"])
    first = draw.number()
    for turn in range(12):
        # Of one task, so that they wait for one lock.
        which = first if kind == "pic_task_config" else first + turn
        world.ask(client, kind, Draw((which, *range(turn, turn + 4))))
    for seconds in (0.1, 0.5, 1.5):
        world.after(seconds, world.check_bounds)


def _ask_again(world: World, _detail: str, draw: Draw) -> None:
    world.ask_again(draw.one(world.clients), draw)


def _client_leaves(world: World, _detail: str, draw: Draw) -> None:
    draw.one(world.clients).go_away(politely=draw.chance(50))


def _client_reads_not(world: World, _detail: str, draw: Draw) -> None:
    client = draw.one(world.clients)
    if client.socket is not None:
        world.saw("client: does not read")
        client.socket.connection.read(False)
        world.after(draw.one([2.0, 20.0, 60.0]), client.socket.connection.read, True)
        for turn in range(10):
            world.ask(client, "read", Draw((draw.number() + turn, 49, turn)))


def _garbage(world: World, _detail: str, draw: Draw) -> None:
    draw.one(world.clients).garble(draw.number())


# -- what devices do


def _mood(world: World, detail: str, draw: Draw) -> None:
    box = draw.one(world.boxes)
    box.moods.extend([detail] * (1 + draw.number() % 3))


def _box_late(world: World, _detail: str, draw: Draw) -> None:
    """Answer several orders late, and lose nothing meanwhile."""
    draw.one(world.boxes).moods.extend(["late"] * 4)


def _box_away(world: World, _detail: str, draw: Draw) -> None:
    box = draw.one(world.boxes)
    world.saw("device: away")
    box.away = True
    box.leave()


def _box_back(world: World, _detail: str, draw: Draw) -> None:
    for box in world.boxes:
        box.away = False
        box.dial()


def _box_again(world: World, _detail: str, draw: Draw) -> None:
    draw.one(world.boxes).leave()


def _box_twice(world: World, _detail: str, draw: Draw) -> None:
    box = draw.one(world.boxes)
    if box.sockets:
        box.dial(second=True)


def _box_silent_twice(world: World, _detail: str, draw: Draw) -> None:
    """Hear and say nothing; then connect once more, and say on the old connection that all was done."""
    box = draw.one(world.boxes)
    box.moods.clear()
    box.moods.extend(["silent"] * 2)
    world.after(draw.one([0.5, 2.0, 5.0]), _second, box)


def _second(box: object) -> None:
    box.dial(second=True)  # type: ignore[attr-defined]


def _box_dies(world: World, _detail: str, draw: Draw) -> None:
    """Of what it is sent next, each time it is sent it."""
    box = draw.one(world.boxes)
    box.moods.appendleft("dies")
    if draw.chance(50):
        # Among others: all that it should have is due at once, and only one of that kills it.
        box.moods.extendleft(["silent"] * (draw.number() % 3))
        world.request(draw.one(world.clients), "post devices/resync", {"dev_unid": box.dev_unid})


def _twin(world: World, _detail: str, draw: Draw) -> None:
    box = draw.one(world.boxes)
    world.twins.append(Twin(world, box.dev_refid, Random(f"twin {draw.number()}"), 4 + draw.number() % 6))


def _box_forgets(world: World, _detail: str, draw: Draw) -> None:
    box = draw.one(world.boxes)
    world.saw("device: forgets and registers" if box.registers else "device: forgets and says nothing")
    box.forget()


def _other_hardware(world: World, _detail: str, draw: Draw) -> None:
    world.exchange(draw.one(world.boxes), draw)


def _box_reads_not(world: World, _detail: str, draw: Draw) -> None:
    box = draw.one(world.boxes)
    for socket in box.sockets[-1:]:
        world.saw("device: does not read")
        socket.connection.read(False)
        world.after(draw.one([2.0, 15.0, 60.0]), socket.connection.read, True)


def _box_asks(world: World, _detail: str, draw: Draw) -> None:
    draw.one(world.boxes).ask()


# -- what the network does


def _cut(world: World, _detail: str, draw: Draw) -> None:
    connection = world.some_connection(draw)
    if connection is not None:
        world.saw("network: cut")
        server, peer = draw.one([0.0, 0.5, 5.0]), draw.one([0.0, 0.5, 5.0])
        if server != peer:
            world.saw("network: cut, noticed at different times")
        connection.break_off(server, peer)


def _half_open(world: World, _detail: str, draw: Draw) -> None:
    connection = world.some_connection(draw)
    if connection is not None:
        if draw.chance(60):
            world.saw("network: half open, the server believes it")
            connection.break_off(None, draw.one([0.0, 3.0, None]))
        else:
            world.saw("network: half open, the peer believes it")
            connection.break_off(draw.one([0.0, 3.0]), None)


def _stall(world: World, _detail: str, draw: Draw) -> None:
    connection = world.some_connection(draw)
    if connection is not None:
        world.saw("network: stall")
        connection.stall(draw.one([1.0, 4.0, 12.0]))


# -- what happens to the server


def _kill(world: World, _detail: str, draw: Draw) -> None:
    world.crash(power=False, back_after=_back_after(draw))


def _power_cut(world: World, _detail: str, draw: Draw) -> None:
    world.crash(power=True, back_after=_back_after(draw))


def _crash_later(world: World, _detail: str, draw: Draw) -> None:
    """After so many events, wherever that is."""
    last = world.tick + draw.number() % 120
    world.crash_when(lambda: world.tick >= last, power=draw.chance(60), back_after=_back_after(draw))


def _crash_in_a_commit(world: World, _detail: str, draw: Draw) -> None:
    world.slow([0.05], draw.one([1.0, 5.0]))
    turns = iter(range(draw.number() % 8))
    power, back_after = draw.chance(80), _back_after(draw)
    if draw.chance(40):
        # The scrub of a storage configuration moves the log: a crash in there is of a kind of its own.
        world.ask(draw.one(world.clients), "put_conf", draw)
        world.crash_when(lambda: world.host.thread.moving, power=power, back_after=back_after)
    else:
        world.crash_when(
            lambda: world.host.thread.committing and next(turns, None) is None, power=power, back_after=back_after
        )


def _stop(world: World, _detail: str, draw: Draw) -> None:
    world.stop(back_after=_back_after(draw))


def _back_after(draw: Draw) -> float:
    seconds: float = draw.one([0.1, 1.0, 6.0, 25.0])
    return seconds


def _slow(world: World, _detail: str, draw: Draw) -> None:
    world.slow(draw.one([[0.01, 0.05], [0.0, 0.3], [0.5, 2.0], [0.0, 0.0, 6.0]]), draw.one([3.0, 15.0]))


def _store_fails(world: World, _detail: str, draw: Draw) -> None:
    for _ in range(1 + draw.number() % 6):
        world.host.thread.fail.append((draw.one(["commit", "statement"]), draw.number() % 60))


def _clock_jumps(world: World, _detail: str, draw: Draw) -> None:
    forward = draw.chance(50)
    if world.host.up:
        world.saw("clock: an hour forward" if forward else "clock: an hour back")
    world.host.skew += 3600.0 if forward else -3600.0
    world.host.highest_skew = max(world.host.highest_skew, world.host.skew)


_KINDS: dict[str, Callable[[World, str, Draw], None]] = {
    "ask": _ask,
    "flood": _flood,
    "tangle": tangle,
    "undo": undo,
    "ask again": _ask_again,
    "client leaves": _client_leaves,
    "client reads not": _client_reads_not,
    "garbage": _garbage,
    "mood": _mood,
    "box late": _box_late,
    "box away": _box_away,
    "box back": _box_back,
    "box again": _box_again,
    "box twice": _box_twice,
    "box silent twice": _box_silent_twice,
    "box dies": _box_dies,
    "twin": _twin,
    "box forgets": _box_forgets,
    "other hardware": _other_hardware,
    "box reads not": _box_reads_not,
    "box asks": _box_asks,
    "cut": _cut,
    "half open": _half_open,
    "stall": _stall,
    "kill": _kill,
    "power cut": _power_cut,
    "crash later": _crash_later,
    "crash in a commit": _crash_in_a_commit,
    "stop": _stop,
    "slow": _slow,
    "store fails": _store_fails,
    "clock jumps": _clock_jumps,
}
