"""Steps in which several things that belong together happen at once: what comes of chance alone too seldom."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.asking import NUMBERS, Draw
from tests.simulation.devices import Box

if TYPE_CHECKING:
    from tests.simulation.world import World

#: How devices react in a tangle.
_REACTIONS = ["obey", "obey", "silent", "unconfirmed", "unconfirmed", "refuse", "refuse", "vanish", "late", "dawdle"]
#: What is changed in one, all at the same time.
_CHANGES = [
    "put_task", "put_task", "put_task", "put_conf", "put_conf", "pic_task_config", "delete_conf", "delete_task",
    "post_subtask", "delete_subtask",
]  # fmt: skip
#: How the first device reacts to what is to be undone, and how the others do.
_SPOILS = [["refuse"], ["unconfirmed", "refuse"], ["vanish"] * 4, ["late"], ["silent", "refuse"]]
_OTHERS: list[list[str]] = [["late"], ["unconfirmed"], [], ["silent"]]


def _drawn(name: str, draw: Draw) -> Random:
    """Return more numbers than a step has."""
    return Random(f"{name} {[draw.number() for _ in range(NUMBERS)]}")


def tangle(world: World, _detail: str, draw: Draw) -> None:
    """Change at once what belongs together, while devices answer as they like, come back, and the server may end."""
    world.saw("client: tangle")
    random = _drawn("tangle", draw)
    for box in world.boxes:
        box.moods.extend(random.choice(_REACTIONS) for _ in range(random.randint(0, 3)))
    at = 0.0
    for _ in range(random.randint(2, 5)):
        numbers = Draw(tuple(random.randrange(1000) for _ in range(NUMBERS)))
        world.after(at, world.ask, random.choice(world.clients), random.choice(_CHANGES), numbers)
        at += random.choice([0.0, 0.0, 0.2, 1.0, 3.0])
    if random.random() < 0.4:
        _leave(world, random.choice(world.boxes), random.choice([2.0, 8.5, 9.5, 9.9, 10.05]))
    if random.random() < 0.3:
        world.slow([0.0, 0.3, 1.5], 20.0)
    if random.random() < 0.2:
        world.after(random.choice([1.0, 4.0, 9.0, 9.99, 10.01]), _end, world, random.random() < 0.5)


def undo(world: World, _detail: str, draw: Draw) -> None:
    """Let a change of a task be undone while others change what it goes back to, and devices come back."""
    random = _drawn("undo", draw)
    tasks, confs = world.ledger.task_ids("pic")[-3:], world.ledger.conf_unids()[-3:]
    if not tasks or not confs:
        return
    world.saw("client: a change that is to be undone")
    boxes = random.sample(world.boxes, len(world.boxes))
    for place, box in enumerate(boxes):
        box.moods.clear()
        box.moods.extend(random.choice(_OTHERS if place else _SPOILS))
    command, params = _change(world, random, boxes, random.choice(tasks), confs)
    world.request(random.choice(world.clients), command, params)
    for unid in confs:
        if random.random() < 0.6:
            world.after(random.choice([0.1, 1.0, 5.0]), _replace, world, random.choice(world.clients), unid)
        if random.random() < 0.2:
            asker = random.choice(world.clients)
            world.after(random.choice([0.1, 1.0]), world.request, asker, "delete store_confs", {"unid": unid})
    if len(boxes) > 1 and random.random() < 0.5:
        _leave(world, boxes[1], random.choice([0.5, 5.0, 9.5, 10.0]))
    if random.random() < 0.3:
        world.slow([0.3, 0.6], 12.0)
    if random.random() < 0.2:
        world.after(random.choice([3.0, 9.0, 10.0]), _end, world, random.random() < 0.5)


def _change(
    world: World, random: Random, boxes: list[Box], task_id: str, confs: list[str]
) -> tuple[str, dict[str, Any]]:
    number = len(world.ledger.requests)
    kind = random.choice(["conf", "conf", "comb", "devices"])
    if kind == "comb":
        algo_comb = [{"algo_id": f"algo {number}", "params": {"n": number}}]
        return "post tasks/pic_task_config", {"task_id": task_id, "algo_comb": algo_comb}
    named = {"task_id": task_id, "name": f"task {number}"}
    if kind == "conf":
        return "put tasks", {**named, "store_conf_unid": random.choice([*confs, None])}
    some = [box.dev_unid for box in boxes if random.random() < 0.6] or [boxes[0].dev_unid]
    return "put tasks", {**named, "dev_unids": some}


def _replace(world: World, client: Any, unid: str) -> None:
    content = {"name": f"conf {len(world.ledger.requests)}", "file_ext": "bin", "file_b64": "bm8="}
    world.request(client, "put store_confs", {"unid": unid, **content})


def _leave(world: World, box: Box, seconds: float) -> None:
    """Let ``box`` go, and come back after ``seconds``."""
    box.away = True
    box.leave()
    world.after(seconds, _return, box)


def _return(box: Box) -> None:
    box.away = False
    box.dial()


def _end(world: World, power: bool) -> None:
    if not world.calm:
        world.crash(power=power, back_after=1.0)
