"""Prints what happens in a run, as it happens: for reading a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.simulation import run, steps
from tests.simulation.clients import Client
from tests.simulation.devices import Box
from tests.simulation.frames import Socket
from tests.simulation.host import replaced
from tests.simulation.world import World

WIDTH = 400


@contextmanager
def traced() -> Iterator[None]:
    """Print everything that is said, and what happens to the server, for a while."""
    with ExitStack() as stack:
        for owner, name, words in (
            (World, "start", "the server starts"),
            (World, "_started", "the server is ready"),
            (World, "crash", "the server is down"),
            (World, "stop", "the server stops"),
            (World, "_stopped", "the server has stopped"),
            (Box, "opened", "connected"),
            (Box, "closed", "connection ended"),
            (Box, "forget", "forgets everything"),
            (Client, "opened", "connected"),
            (Client, "closed", "connection ended"),
        ):
            stack.enter_context(replaced(owner, name, _telling(owner.__dict__[name], words)))
        for owner in (Box, Client):
            stack.enter_context(replaced(owner, "heard", _hearing(owner.__dict__["heard"])))
        stack.enter_context(replaced(Socket, "send", _sending(Socket.send)))
        stack.enter_context(replaced(run, "take", _taking(steps.take)))
        yield


def _tell(world: Any, *words: object) -> None:
    print(f"{world.now - 1000:9.3f} #{world.tick:<5}", *words)


def _name(owner: Any, socket: Socket | None = None) -> str:
    if isinstance(owner, Box):
        return f"{owner.dev_refid}" + (f" ({owner.numbers[socket]})" if socket is not None else "")
    return f"client {owner.name}"


def _telling(function: Callable[..., Any], words: str) -> Callable[..., Any]:
    def tell(self: Any, *args: Any, **options: Any) -> Any:
        socket = next((each for each in args if isinstance(each, Socket)), None)
        who = "" if isinstance(self, World) else _name(self, socket)
        _tell(self if isinstance(self, World) else self._world, who, words)
        return function(self, *args, **options)

    return tell


def _hearing(function: Callable[..., Any]) -> Callable[..., Any]:
    def hear(self: Any, socket: Socket, payload: bytes, written: Any) -> None:
        mood = f"[{self.moods[0]}]" if isinstance(self, Box) and self.moods else ""
        _tell(self._world, _name(self, socket), "<", payload.decode()[:WIDTH], mood)
        function(self, socket, payload, written)

    return hear


def _sending(function: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Socket, payload: bytes, opcode: int = 1) -> None:
        owner: Any = self._owner
        _tell(owner._world, _name(owner, self), ">" if self.is_open else "cannot send", repr(payload[:WIDTH])[2:-1])
        function(self, payload, opcode)

    return send


def _taking(function: Callable[..., Any]) -> Callable[..., Any]:
    def take(world: World, step: steps.Step) -> None:
        _tell(world, "--- step", step)
        function(world, step)

    return take
