"""Finding the message that kills the device it is sent to.

A connection that is lost shows which messages were unanswered, not which of them was to blame. So all that were sent
within the last seconds become suspects. A suspect goes alone, after everything that is none, the one with the fewest
losses first: whatever is lost then is its own fault. ``docs/design.md`` tells why this finds the culprit.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from devconf import wire
from devconf.devices.lane import Lane, Phase, Sent, Slot, bare
from devconf.model import OrderKey
from devconf.store.outbox import Order

#: So many losses in a row let an order rest.
LOSSES = 3
#: Seconds within which the loss of the connection is put down to a message, from when the device can have read it.
WITHIN = 5.0
#: Suspects that are remembered; the oldest are forgotten.
REMEMBERED = 10_000


@define
class _Suspect:
    digest: bytes
    losses: int = 0


@define
class Suspects:
    """The orders that were unanswered when a connection was lost; what changes is no suspect any longer."""

    _clock: IReactorTime
    _known: OrderedDict[OrderKey, _Suspect] = field(factory=OrderedDict, init=False)

    def put_off(self, lane: Lane, order: Order) -> bool:
        """Tell whether ``order``, which is due, must not be sent now; then ``lane`` comes back to it by itself."""
        if lane.alone:
            lane.queue[order.key] = None
            return True
        losses = self._losses(order)
        chosen, lane.chosen = order.key == lane.chosen or order.key in lane.lined, None
        if not losses or (chosen and lane.quiet):
            return False
        lane.suspects[order.key] = losses
        return True

    def sent(self, lane: Lane, slot: Slot, order: Order, size: int) -> None:
        """Note that ``order`` was sent: if it is a suspect, nothing else is sent until it is answered, or lives on.

        :param size: bytes; the device may need a second for each 64 KiB until it has read them.
        """
        if slot.sent is not None:  # on this connection, which it has not cost
            self._known.pop(order.key, None)
        now = self._clock.seconds()
        until = now + WITHIN + size / 65536
        slot.sent = Sent(bare(order), _digest(order), now, until)
        if self._losses(order):
            lane.alone_until = until
            lane.arm(lane.alone_until)

    def answered(self, lane: Lane | None, key: OrderKey) -> None:
        """Note that the device lives on after ``key``."""
        self._known.pop(key, None)
        if lane is not None:
            lane.alone_until = 0.0

    def lost(self, lane: Lane) -> list[Order]:
        """Note that the connection of ``lane`` is lost, through no doing of the server's.

        :returns: what has cost so many connections in a row that it has to rest, without its content.
        """
        found = []
        for slot in lane.slots.values():
            if slot.phase not in (Phase.SENT, Phase.SILENT) or slot.sent is None:
                continue
            if lane.link is not None and lane.link.called_since(slot.sent.at):
                continue  # it may have been the call
            if self._clock.seconds() > slot.sent.blamed_until:
                self._known.pop(slot.key, None)
            elif self._accuse(slot.key, slot.sent.digest) >= LOSSES:
                found.append(slot.sent.order)
        return found

    def _accuse(self, key: OrderKey, digest: bytes) -> int:
        suspect = self._known.get(key)
        if suspect is None or suspect.digest != digest:
            suspect = self._known[key] = _Suspect(digest)
        suspect.losses += 1
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return suspect.losses

    def _losses(self, order: Order) -> int:
        """Return how many connections in a row this very message has cost."""
        suspect = self._known.get(order.key)
        if suspect is None:
            return 0
        if suspect.digest != _digest(order):
            del self._known[order.key]
            return 0
        return suspect.losses


def _digest(order: Order) -> bytes:
    """What tells a message from another, but for the rev."""
    params = {name: value for name, value in order.params.items() if name != "rev"}
    return hashlib.sha256(wire.encode([order.kind, params, order.conf])).digest()
