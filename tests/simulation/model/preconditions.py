"""In which sense a run has put each invariant to the test: only then it says something that nothing was wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.simulation.devices import Box
from tests.simulation.model.stored import Order
from tests.simulation.records import Request
from tests.simulation.world import World


def while_it_ran(world: World, orders: list[Order], *, collected: bool) -> Iterator[str]:
    """Return the preconditions that a run has met when faults have stopped; ``orders``: as they are stored then.

    :param collected: errors that nobody handles have been looked for.
    """
    answered = {(request.answer or {}).get("command_id") for request in world.ledger.requests}
    boxes = {box.dev_unid for box in world.boxes}
    for invariant, met in {
        "I1": world.seen["server: started after a power cut, with something told"],
        "I2": any(box.journal.repeats for box in world.boxes),
        "I3": any(each.command_id not in answered for each in world.settled),
        "I4": world.seen["server: told to pause"] and any(_turned_away(each) for each in world.ledger.requests),
        "I5": any(_several_revs(box) for box in world.boxes),
        "I6": world.seen["server: hears from a replaced connection"],
        "I7": any(order.pending and order.dev_unid in boxes for order in orders),
        "I7, refused": any(order.refused and order.dev_unid in boxes for order in orders),
        "I8": collected and world.log.on_purpose,
        "I9": any(taken_and_failed(each) for each in world.ledger.requests),
    }.items():
        if met:
            yield invariant


def taken_and_failed(request: Request) -> bool:
    """Whether ``request`` was answered with an error though a device had taken the change."""
    devices: list[dict[str, Any]] = (request.answer or {}).get("devices", [])
    return request.failed and any(item["state"] == "confirmed" for item in devices)


def _turned_away(request: Request) -> bool:
    return (request.answer or {}).get("ecode") == 1004290001


def _several_revs(box: Box) -> bool:
    revs: dict[Any, set[int]] = {}
    for heard in box.journal.heard:
        revs.setdefault((heard.socket, heard.key), set()).add(heard.rev)
    return any(len(each) > 1 for each in revs.values())
