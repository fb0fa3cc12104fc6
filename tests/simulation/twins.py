"""A second box with the identity of a device, at another address: it connects, says nothing, and comes back."""

from __future__ import annotations

from random import Random
from typing import Any, Protocol

from tests.simulation.frames import Socket
from tests.simulation.network import Connection
from tests.simulation.pipe import Mark

#: Seconds until it comes back when its connection has ended.
AGAIN = 2.0
#: How a server closes what it keeps out because there are two.
KEPT_OUT = 4002


class IWorld(Protocol):
    """What a twin needs of the world."""

    def dial(self, end: Any, host: int) -> Connection:
        """Connect to the server from the address that ends in ``host``."""

    def after(self, seconds: float, function: Any, *args: Any) -> None:
        """Let something happen later."""

    def saw(self, what: str) -> None:
        """Count that something has happened."""

    @property
    def calm(self) -> bool:
        """Whether faults have stopped."""


class Twin:
    """A box that has the identity of another.

    :ivar dev_refid: which one.
    :ivar sockets: the connection it has, if any; :ivar opened_so_far: how many it has had.
    """

    def __init__(self, world: IWorld, dev_refid: str, random: Random, times: int) -> None:
        self.dev_refid = dev_refid
        self.sockets: list[Socket] = []
        self.opened_so_far = 0
        self.name = f"twin of {dev_refid}"
        self._world = world
        self._random = random
        self._left = times
        self._dial()

    def _dial(self) -> None:
        if self._left and not self._world.calm:
            self._left -= 1
            socket = Socket(self, f"device-{self.dev_refid}", self._random)
            socket.begin(self._world.dial(socket, 2))

    def opened(self, socket: Socket) -> None:
        """See ``IOwner``."""
        self._world.saw("device: two boxes with one identity")
        self.sockets.append(socket)
        self.opened_so_far += 1
        if self._world.calm:
            self.leave()

    def heard(self, socket: Socket, payload: bytes, written: Mark) -> None:
        """See ``IOwner``: it is silent."""

    def closed(self, socket: Socket) -> None:
        """See ``IOwner``."""
        if socket.code == KEPT_OUT:
            self._world.saw("server: keeps the second of two boxes out")
        if socket in self.sockets:
            self.sockets.remove(socket)
        self._world.after(AGAIN, self._dial)

    def leave(self) -> None:
        """Go away without a word."""
        for socket in list(self.sockets):
            socket.connection.close()
            socket.lost()
