"""Parts of I3 and I9: what clients are told follows from what devices have said, and is what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.simulation.devices import Box
from tests.simulation.model.registers import certainly_bound
from tests.simulation.records import DONE, LACKS, LOST, Request
from tests.simulation.world import World

#: Connections that an order has to cost before it rests.
LOSSES = 3
REFUSED, SILENT, OFFLINE = 1005020001, 1005040001, 1005030001
#: What is undone unless all devices confirm; what is undone only if one refuses.
ALL_OR_NONE = ("post tasks/pic_task_config", "delete tasks", "delete subtasks")
UNLESS_REFUSED = ("post tasks", "put tasks", "post subtasks")


def told_rightly(world: World, request: Request) -> Iterator[str]:
    """Part of I3: what an answer says of devices is what they have said themselves."""
    answer = request.answer or {}
    boxes = {box.dev_unid: box for box in world.boxes}
    task_id = answer.get("task_id")
    for item in answer.get("devices", ()) if "command_id" in answer else ():
        box = boxes.get(item["dev_unid"])
        if item["state"] == "pending" or box is None or task_id is None or request.command == "post devices/call":
            continue
        key = (task_id, item.get("subtask_id", ""))
        # An answer that tells of a failure has no rev: what was planned for this request was written after it came.
        rev = answer.get("rev", 0)
        since = {each.rev for each in box.journal.heard if each.key == key and each.written.tick >= request.sent_at}
        said = {
            each.written_as
            for each in box.journal.said
            if each.key == key and each.rev >= rev and each.rev in since and each.counts
        }
        if item["ecode"] not in said and not (item["ecode"] == LOST and may_rest(world, box, key)):
            yield f"request {request.number} says {item}; {box.dev_refid} said {said} to {key} from rev {rev} on"
    if "command_id" in answer and answer["ecode"] in (*DONE, OFFLINE):
        wanted = follows(request.command, request.params, answer)
        if wanted is not None and answer["ecode"] != wanted:
            yield f"request {request.number} was answered {answer['ecode']}, and {wanted} follows from {answer}"
    if request.command == "put store_confs" and "total" in answer:
        missing = sum(undelivered(item) for item in answer["devices"])
        if answer["total"] - answer["delivered"] != missing:
            yield f"request {request.number}: {missing} of {answer['total']} have not got it, and it says {answer}"


def follows(command: str, params: dict[str, Any], answer: dict[str, Any]) -> int | None:
    """Return the ``ecode`` that a command has to end with, by what it says of its devices; None: nothing follows."""
    items = answer.get("devices") or []
    if command not in ALL_OR_NONE + UNLESS_REFUSED + ("put store_confs",):
        return None
    if command == "put store_confs":
        missing = [item["ecode"] for item in items if undelivered(item)]
        return 0 if not missing else OFFLINE if set(missing) == {OFFLINE} else SILENT
    if params.get("force"):
        return 0
    if any(item["state"] == "refused" for item in items):
        return REFUSED
    if command in UNLESS_REFUSED:
        return 0
    if any(item["ecode"] == SILENT for item in items):
        return SILENT
    return OFFLINE if any(item["state"] == "pending" for item in items) else 0


def undelivered(item: dict[str, Any]) -> bool:
    """Whether a device of a response has not got the content (§20.3)."""
    return item["state"] == "pending" or item["ecode"] in (*LACKS, LOST)


def deleted_everywhere(world: World, request: Request) -> Iterator[str]:
    """Part of I3: what is told to be deleted no device has any longer, unless nobody waited for it (``force``)."""
    if not request.ok or request.params.get("force") or request.attempts > 1:
        return
    for box in world.boxes:
        for key in box.held:
            task_id, subtask_id = key
            if request.command == "delete subtasks" and request.params["subtask_id"] == subtask_id:
                yield f"request {request.number} has deleted {key}, and {box.dev_refid} holds it"
            if request.command == "delete tasks" and request.params["task_id"] == task_id and box.trusted:
                bound = certainly_bound(world.ledger, task_id)
                if box.dev_unid in bound:
                    yield f"request {request.number} has deleted {key}, and {box.dev_refid} holds it"


def still_there(world: World, request: Request) -> Iterator[str]:
    """A device that was disabled is connected no longer."""
    if request.command != "put devices" or not request.ok or request.params.get("enabled") is not False:
        return
    unid = request.params["dev_unid"]
    others = [
        each
        for each in world.ledger.requests
        if each is not request
        and each.params.get("dev_unid") == unid
        and each.params.get("enabled") is True
        and (each.unknown or (each.answered_at or 0) >= request.sent_at)
    ]
    if not others and world.host.up and unid in world.host.service.hub:
        yield f"{unid} was disabled by request {request.number}, and is connected"


def refused_at_once(world: World, request: Request, query: Any) -> Iterator[str]:
    """Part of I9: where a device is offline, and was all the time, no other hears of what is refused for that."""
    answer = request.answer or {}
    if request.command not in ALL_OR_NONE or answer.get("ecode") != OFFLINE or request.attempts > 1:
        return
    absent = world.absent
    named = any(item["dev_unid"] == absent for item in answer.get("devices", ()))
    if named and query(f"SELECT 1 FROM commands WHERE command_id = '{answer['command_id']}'"):
        yield f"request {request.number} was planned, though {absent} never connects: {answer}"


def may_rest(world: World, box: Box, key: tuple[str, str]) -> bool:
    """Whether ``key`` can have cost as many connections as it takes to let it rest.

    That its device died of something else at the same time counts once: after that each suspect goes alone. That a
    connection was lost through the network, or with a twin, may be put down to it each time.
    """
    twins = sum(twin.opened_so_far for twin in world.twins if twin.dev_refid == box.dev_refid)
    others = sum(times for died, times in box.journal.deaths.items() if died != key)
    return box.journal.deaths[key] + box.journal.otherwise_lost + twins + min(others, 1) >= LOSSES


def events(world: World) -> Iterator[str]:
    """What has happened in this life of the server has been told, once, and as it was."""
    host = world.host
    over: Counter[tuple[str, int]] = Counter()
    completed: Counter[str] = Counter()
    answers: Counter[tuple[Any, ...]] = Counter()
    for event in host.told:
        data = event.data
        if event.topic == "deliveries":
            answers[(data["dev_unid"], data["task_id"], data.get("subtask_id", ""), data["rev"], data["ecode"])] += 1
        elif "completed_at" in data:
            completed[data["command_id"]] += 1
        else:
            over[(data["command_id"], data["ecode"])] += 1
    for each in host.thread.settled[host.settled_before :]:
        if over[(each.command_id, each.ecode)] != 1:
            yield f"{each} was told {over[(each.command_id, each.ecode)]} times"
    for command_id, _ in host.thread.completed:
        if completed[command_id] != 1:
            yield f"that {command_id} is completed was told {completed[command_id]} times"
    for ack in host.thread.acks[host.acks_before :]:
        if not answers[(ack.dev_unid, ack.task_id, ack.subtask_id, ack.rev, ack.ecode)]:
            yield f"{ack} was not told"
