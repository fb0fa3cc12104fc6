"""I2: no order takes effect twice. What a device has done it is sent again only if there was a reason for it.

A device does an order of one rev once, so only an order with a new rev and the same content can take effect twice.
There are reasons for one: the device registered, refused, or claimed to have another rev; somebody asked for a
resync, or for something that was undone. Each must be about that device and task, and newer than what the device has
done.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.devices import Box
from tests.simulation.pipe import Mark
from tests.simulation.records import Effect, Key, Request

#: Seconds that a reason takes from the device to the store, at most: the network stalls, commits are slow.
UNDER_WAY = 20.0


def done_again(box: Box, requests: list[Request]) -> Iterator[str]:
    """Return what ``box`` was made to do again without a reason."""
    written: dict[tuple[Key, int], Mark] = {}
    for heard in box.journal.heard:
        written.setdefault((heard.key, heard.rev), heard.written)
    last: dict[Key, Effect] = {}
    for effect in box.journal.effects:
        before = last.get(effect.key)
        last[effect.key] = effect
        if before is None or not effect.same or effect.kind == "delete":
            continue
        since = written[(before.key, before.rev)]
        asked = any(_asked(box, each, effect, since) for each in requests) or _there_and_back(requests, effect, since)
        if not _excused(box, effect, since) and not asked:
            yield f"{box.dev_refid} had done rev {before.rev} of {effect.key}, and was made to do it again: {effect}"


def _excused(box: Box, effect: Effect, since: Mark) -> bool:
    return any(
        key in (None, effect.key) and since.now - UNDER_WAY < now <= effect.at.now for key, now in box.journal.excuses
    )


def _between(request: Request, effect: Effect, since: Mark) -> bool:
    over = request.settled_by if request.unknown else request.answered_at
    return request.sent_at <= effect.at.tick and (over is None or over >= since.tick)


def _there_and_back(requests: list[Request], effect: Effect, since: Mark) -> bool:
    """Whether a storage configuration was replaced meanwhile, which did not come to the device, and put back."""
    replaced: dict[str, set[str]] = {}
    for request in requests:
        if request.command == "put store_confs" and not request.wrong and _between(request, effect, since):
            replaced.setdefault(request.params["unid"], set()).add(request.params["file_b64"])
    return any(len(contents) > 1 for contents in replaced.values())


def _asked(box: Box, request: Request, effect: Effect, since: Mark) -> bool:
    """Whether ``request`` was under way between the two, and may have sent the same again."""
    if not _between(request, effect, since):
        return False
    if request.params.get("dev_unid") == box.dev_unid and request.command in ("post devices/resync", "put devices"):
        return True
    task_id, subtask_id = effect.key
    if request.params.get("task_id") != task_id and request.params.get("subtask_id", "") != (subtask_id or None):
        # What nobody was told of may have made it, and have failed.
        return request.unknown and "task_id" not in request.params and request.command.startswith("post ")
    undone = request.unknown or request.failed
    return undone or "store_conf_unid" in request.params or "dev_unids" in request.params
