"""Parts of I3: what is asked once is carried out once, and what is asked again with its key is answered the same."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tests.simulation.model.registers import certainly_bound
from tests.simulation.model.stored import Query
from tests.simulation.records import LATER, Request
from tests.simulation.world import World

#: By what the params of a request tell its number.
_NUMBER = re.compile(r'"name": ?"(?:task|conf) (\d+)"|"dev_name": ?"device (\d+)"|"n": ?(\d+)')
_OFFLINE = 1005030001
#: Seconds that a slow disk takes to tell whom a request concerns, and what else there is to do before its answer.
SLOW = 60.0
#: Seconds for which the server may believe in a connection that is gone.
BELIEVED = 90.0


def carried_out_twice(world: World, query: Query) -> Iterator[str]:
    """Return the requests of which the history has more than one line, and the calls that a device heard again."""
    asked = _counted((each.command, json.dumps(each.params)) for each in world.ledger.requests)
    lines = _counted(query("SELECT command, params FROM commands WHERE params IS NOT NULL"))
    for (command, which), times in lines.items():
        if times > max(1, asked[(command, which)]):
            yield f"request {which} ({command}) was carried out {times} times"
    for box in world.boxes:
        for number, times in box.journal.called.items():
            if times > 1:
                yield f"{box.dev_refid} heard call {number} {times} times"


def carried_out_for_one_key(world: World) -> Iterator[str]:
    """Return the requests that differ, have one key, and were carried out all the same."""
    kept: dict[tuple[str, str], Request] = {}
    for request in world.ledger.requests:
        if request.key is not None and request.kept:
            other = kept.setdefault((request.client, request.key), request)
            if (other.command, other.params) != (request.command, request.params):
                yield f"requests {other.number} and {request.number} have one key, and both were carried out"


def _counted(asked: Iterable[Any]) -> Counter[tuple[str, str]]:
    """Count commands, each with its params as JSON, by their name and the number that params tell."""
    times: Counter[tuple[str, str]] = Counter()
    for command, params in asked:
        found = _NUMBER.search(params)
        if found is not None:
            number = next(number for number in found.groups() if number)
            times[(command.replace("/wsapi/v1/devconf_fx/", ""), number)] += 1
    return times


def answered_otherwise(request: Request) -> Iterator[str]:
    """Return what ``request`` was answered to its key, and not before."""
    first = _without_id(request.answer or {})
    for repeat in request.repeats if request.kept else ():
        if _without_id(repeat) != first and repeat["ecode"] not in LATER:
            yield f"request {request.number} was answered {first}, and to its key then {repeat}"


def _without_id(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "req_id"}


def not_waited_for(world: World, request: Request) -> Iterator[str]:
    """Return the devices that an answer calls offline before it has waited for them (``connect_wait``)."""
    answer, seconds = request.answer or {}, request.params.get("connect_wait", 0.0)
    if answer.get("ecode") != _OFFLINE or request.attempts > 1:
        return
    if "was lost" in answer["enote"]:  # a call that has reached its device
        return
    waited = request.told_on - (request.heard_on or request.told_on)
    if request.command == "post devices/call" and seconds and waited > seconds + SLOW:
        yield f"request {request.number} was to wait {seconds:g} s, and was answered after {waited:g} s"
    if request.told_on >= request.asked_on + seconds:  # as the clock adds it up
        return
    disabled = {each.params.get("dev_unid") for each in world.ledger.requests if each.params.get("enabled") is False}
    # Which devices others were bound to when it came is not known: they are waited for as things were stored then.
    params = request.params
    asked = {params.get("dev_unid"), *params.get("dev_unids", ())}
    if request.command in ("post tasks/pic_task_config", "delete tasks") and not _bound_meanwhile(world, request):
        asked |= certainly_bound(world.ledger, params["task_id"])
    post = world.ledger.posted("post subtasks", "subtask_id").get(params.get("subtask_id", ""))
    if post is not None:
        asked.add(post.params["dev_unid"])
    named = [item["dev_unid"] for item in answer.get("devices", ())] or [params.get("dev_unid")]
    if not asked >= set(named):
        return
    since = request.asked_on - BELIEVED
    online = {box.dev_unid for box in world.boxes if box.was_connected(since, request.told_on)}
    if not any(unid in disabled or unid in online for unid in named):
        yield f"request {request.number} was to wait {seconds:g} s for {named}, and was answered at once: {answer}"


def _bound_meanwhile(world: World, request: Request) -> bool:
    """Whether its task may have got other devices after ``request`` came."""
    return any(
        each.params.get("task_id") == request.params["task_id"]
        and "dev_unids" in each.params
        and (each.answered_at is None or each.answered_at >= request.sent_at)
        for each in world.ledger.of("put tasks")
    )
