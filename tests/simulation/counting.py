"""That what a device says counts, however late, once the server has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from tests.simulation.model.stored import read_orders
from tests.simulation.records import STALE

if TYPE_CHECKING:
    from tests.simulation.devices import Box
    from tests.simulation.world import World

#: Seconds after which an answer that the server has is written, unless its disk is slow, or full.
COUNTS_WITHIN = 1.5


@frozen
class Counting:
    """Looks, a moment after the server has got an answer on the connection that counts, whether it is written."""

    _world: World

    def said(self, box: Box, socket: Any, said: Any) -> None:
        """Note that ``box`` has answered an order on ``socket``."""
        same = (said.socket, said.key, said.rev)
        # One that is said twice answers nothing any more: what could not be written is sent again.
        twice = any(each is not said and (each.socket, each.key, each.rev) == same for each in box.journal.said)
        if said.written_as not in (None, STALE) and not twice:
            socket.connection.up.when_received(lambda: self._has_answer(box, said))

    def _has_answer(self, box: Box, said: Any) -> None:
        world = self._world
        busy = world.host.running and (world.host.thread.fail or world.host.thread.committing)
        if world.now >= world._slow[1] and not busy and self._hears(box, said):
            world.after(COUNTS_WITHIN, self._look, box, said, world.host.lives, self._failures())

    def _failures(self) -> int:
        seen = self._world.seen
        return seen["store: commit fails"] + seen["store: statement fails"] + seen["store: slow"]

    def _hears(self, box: Box, said: Any) -> bool:
        world = self._world
        link = world.host.service.hub.get(box.dev_unid) if world.host.up else None
        # What comes while the server closes the connection is dropped.
        return link is not None and world.socket_of(box, link.epoch) == said.socket and link.transport._may_send

    def _look(self, box: Box, said: Any, life: int, failures: int) -> None:
        world = self._world
        if life != world.host.lives or not self._hears(box, said) or self._failures() != failures:
            return
        for order in read_orders(world.host.thread.query):
            if (order.dev_unid, order.key, order.wanted_rev) == (box.dev_unid, said.key, said.rev):
                world.saw("server: has written an answer")
                if order.acked_rev < said.rev:
                    world.found.append(("I7", f"{box.dev_refid} said {said}, and it does not count: {order}"))
