"""What has to hold after a server was killed again and again, by comparing what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from journal_device import Key, key_of
from kit import Json, World, eventually, ok
from kit_crash import differences, shown_of, unsettled
from kit_fleet import Box
from kit_load import Shared, Worker

#: Seconds within which every connected device holds what is stored, once faults have stopped (I7).
IN_STEP = 45.0


def verdict(world: World, boxes: Sequence[Box], workers: Sequence[Worker], shared: Shared) -> list[str]:
    """What is wrong; the workers have ended, the devices run, and nothing is killed any more."""
    problems = come_to_rest(world, boxes)
    for worker in workers:
        worker.check_at_last()
        problems += worker.problems
    conf = world.conf(shared.unid)
    if not shared.may_be({name: conf[name] for name in ("name", "file_ext", "sha256", "size")}):
        problems.append(f"I1: the configuration that all replace is {conf}: a later one had been told ok")
    problems += history(world, workers)
    problems += confirmed(boxes, workers)
    for box in boxes:
        problems += [f"I7: {box.dev_unid}: {text}" for text in differences(world, box)]
        problems += [f"I2: {box.dev_unid}: {text}" for text in effects(box)]
    problems += [f"I3: {row} is not settled" for row in unsettled(world)]
    return problems


# -- I7


def come_to_rest(world: World, boxes: Sequence[Box]) -> list[str]:
    """Wait until devices are in step; what is listed as refused is what they refused, until they are told again."""
    problems = []
    for box in boxes:
        try:
            eventually(lambda box=box: at_rest(world.device_item(box)), "it has all", IN_STEP)  # type: ignore[misc]
        except AssertionError:
            problems.append(f"I7: {box.dev_unid} has not answered all: {world.device_item(box)}")
        differs, refused, item = differing(world, box), box.refused(), world.device_item(box)
        if not (differs <= refused and len(differs) <= item["refused"] <= len(refused)):
            problems.append(f"I7: {box.dev_unid} lacks {differs}, and refused {refused}; listed is {item}")
        box.behave()
        ok(world.admin.call("post devices/resync", {"dev_unid": box.dev_unid}))
    for box in boxes:
        try:
            eventually(lambda box=box: in_step(world.device_item(box)), "it has all", IN_STEP)  # type: ignore[misc]
        except AssertionError:
            problems.append(f"I7: {box.dev_unid} is not in step: {world.device_item(box)}")
    return problems


def differing(world: World, box: Box) -> set[Key]:
    """Of which things it holds something else than is stored."""
    held, shown = box.held, shown_of(world, box)
    return {
        key
        for key in held.keys() | shown.keys()
        if key not in held
        or key not in shown
        or any(held[key].get(name) != value for name, value in shown[key].items() if name != "rev")
    }


def at_rest(item: Json) -> bool:
    return bool(item["online"]) and item["pending"] == 0


def in_step(item: Json) -> bool:
    return at_rest(item) and item["refused"] == 0


# -- I2


def effects(box: Box) -> list[str]:
    """Whether an order took effect twice, or one rev meant two things."""
    problems = []
    entries = box.entries()
    taken: dict[object, list[int]] = {}
    said: dict[object, Json] = {}
    for entry in entries:
        if entry["effect"] == "called":
            continue
        key, rev = key_of(entry), entry["rev"]
        if entry["effect"] == "took":
            taken.setdefault(key, []).append(rev)
        parts = {name: value for name, value in entry["params"].items() if entry["verb"] != "delete"}
        before = said.setdefault((key, rev), parts)
        changed = {name for name in before.keys() & parts.keys() if before[name] != parts[name]}
        if changed:
            problems.append(f"of {key} rev {rev} has come with two values of {changed}")
    for what_it_took, revs in taken.items():
        if any(later <= earlier for earlier, later in pairwise(revs)):
            problems.append(f"of {what_it_took} it took {revs}")
    for what in ("req_id", "mark"):
        named = [entry.get(what) or entry["params"].get("params", entry["params"]).get(what) for entry in entries]
        problems += [
            f"{what} {name} has come twice" for name, count in Counter(filter(None, named)).items() if count > 1
        ]
    return problems


# -- I1, I3


def history(world: World, workers: Sequence[Worker]) -> list[str]:
    """The history has what was told, and each command in it has ended."""
    items = {item["command_id"]: item for item in world.every("commands")}
    problems = [f"I3: {item} still runs" for item in items.values() if item["outcome"] == "running"]
    for worker in workers:
        for asked in worker.asked:
            if asked.answer is None or "command_id" not in asked.answer:
                continue
            item = items.get(asked.answer["command_id"])
            if item is None:
                # What was refused before a device heard of it is not kept.
                if asked.done:
                    problems.append(f"I1: the history lacks {asked.command} {asked.params}, told {asked.answer}")
            elif item["ecode"] != asked.answer["ecode"]:
                problems.append(f"I1: the history says {item}, and told was {asked.answer}")
    return problems


def confirmed(boxes: Sequence[Box], workers: Sequence[Worker]) -> list[str]:
    """What was told to be confirmed by a device had been on its disk."""
    took: dict[tuple[str, str], int] = {}
    for box in boxes:
        for entry in box.entries():
            if entry["effect"] == "took":
                key = box.dev_unid, entry["params"]["task_id"]
                took[key] = max(took.get(key, 0), entry["rev"])
    problems = []
    for worker in workers:
        for answer in (asked.answer for asked in worker.asked if asked.answer is not None and asked.done):
            for entry in answer["devices"] if {"task_id", "rev", "devices"} <= answer.keys() else []:
                key = entry["dev_unid"], answer["task_id"]
                if entry["state"] == "confirmed" and took.get(key, 0) < answer["rev"]:
                    problems.append(f"I1: {answer} says confirmed, and the device never took it")
    return problems
