"""Boxes that have one identity, and would throw each other out for ever (``docs/protocol.md`` §6).

They can be told apart by their addresses only. So a box that comes from the address of the one that is connected takes
its place as usual, and two boxes behind one address go on throwing each other out.
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

#: So many times within :data:`WITHIN` a box throws another out from another address; the last time it is kept out.
TIMES = 3
#: Seconds.
WITHIN = 60.0
#: Seconds after the last box that was kept out until the device is no longer taken to be a duplicate.
ALONE_FOR = 600.0
#: Seconds after which a box that is kept out is told to come again: a dead connection in its way has been dropped then.
RETRY_AFTER = 60
#: Devices that are remembered; the oldest are forgotten.
REMEMBERED = 1000


@define
class _Device:
    thrown_out: list[float] = field(factory=list)
    kept_out: str = ""
    until: float = 0.0


@define
class Duplicates:
    """The devices whose connections came from several addresses lately.

    :ivar found: how often a device has been found to be a duplicate.
    :ivar refused: connections that were kept out.
    """

    _clock: IReactorTime
    found: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    _devices: OrderedDict[str, _Device] = field(factory=OrderedDict, init=False)

    @property
    def now(self) -> int:
        """How many devices are duplicates now."""
        return sum(device.until > self._clock.seconds() for device in self._devices.values())

    def other(self, dev_unid: str) -> str | None:
        """Return the address of the box that was kept out last; None if ``dev_unid`` is no duplicate."""
        device = self._devices.get(dev_unid)
        return device.kept_out if device is not None and device.until > self._clock.seconds() else None

    def admits(self, dev_unid: str, held_from: str, address: str) -> bool:
        """Tell whether a connection of ``dev_unid`` from ``address`` may take the place of the one it has.

        :param held_from: the address of that one.
        """
        if address == held_from:
            return True
        now = self._clock.seconds()
        device = self._devices.setdefault(dev_unid, _Device())
        self._devices.move_to_end(dev_unid)
        if len(self._devices) > REMEMBERED:
            self._devices.popitem(last=False)
        if device.until <= now:
            device.thrown_out = [at for at in device.thrown_out if at > now - WITHIN]
            device.thrown_out.append(now)
            if len(device.thrown_out) < TIMES:
                return True
            device.thrown_out.clear()
            self.found += 1
        device.kept_out = address
        device.until = now + ALONE_FOR
        self.refused += 1
        return False

    def forget(self, dev_unid: str) -> None:
        """Begin anew with ``dev_unid``: its key is another, or it is gone."""
        self._devices.pop(dev_unid, None)
