"""What the two that are compared have in common: a server, its devices and its operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from benchmarks.load import Devices, Measured, Work, measure
from benchmarks.process import Process
from benchmarks.sockets import Connection, Received, Sockets

#: Connections that are opened at a time: fewer than devconf takes from one address before they have logged in.
DIALLED_AT_ONCE = 8

#: What an operator wants of a device in each command, for both sides the same; the number changes each time.
PARAMS = (
    '{"path":"/etc/app/config.json","rev":%d,"enabled":true,"interval":30,"ratio":0.25,'
    '"servers":["10.0.0.1","10.0.0.2"],"note":"' + "x" * 93 + '"}'
)

T = TypeVar("T")


class Side:
    """One server, and who talks to it.

    :ivar server: its process, and :ivar port: where it listens.
    :ivar devices: counts what its devices answer.
    :ivar operators: connections that can give commands.
    """

    server: Process
    port: int

    def __init__(self, sockets: Sockets) -> None:
        self.sockets = sockets
        self.devices = Devices()
        self.operators: list[Connection] = []
        self._connections: list[Connection] = []

    def connect(self, who: Sequence[T], path_of: Callable[[T], str], received: Received) -> list[Connection]:
        """Open a connection for each of ``who``.

        :param path_of: returns the path to connect to, and may talk to the server first; called in a thread.
        """

        def dial(one: T) -> Connection:
            return Connection.open(self.port, path_of(one), received)

        opened = []
        with ThreadPoolExecutor(DIALLED_AT_ONCE) as pool:
            dialling = [pool.submit(dial, one) for one in who]
            try:
                for future in dialling:
                    while not future.done():
                        self.sockets.pump(0.005)
                    opened.append(future.result())
                    self.sockets.add(opened[-1])
            finally:
                for future in dialling:
                    future.cancel()
        self._connections += opened
        return opened

    def connect_devices(self, count: int) -> None:
        """Connect ``count`` devices more."""
        raise NotImplementedError

    def measure(self, work: Work, *, operators: int, window: int, seconds: float) -> Measured:
        """Measure ``work``, given by so many of the operators; see :func:`benchmarks.load.measure`."""
        chosen = self.operators[:operators]
        return measure(self.server, self.devices, self.sockets, chosen, work, window=window, seconds=seconds)

    def stop(self) -> None:
        """Stop the server, and drop what is connected to it."""
        for connection in self._connections:
            self.sockets.remove(connection)
        self._connections.clear()
        self.server.stop()
