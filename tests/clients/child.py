"""A program as a child process, which the tests read line by line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.clients.document import ENVIRONMENT


class Child(ProcessProtocol):
    """A program, started at once.

    :ivar lines: what it has printed.
    :ivar errors: what it has said on its standard error.
    """

    def __init__(self, reactor: Any, command: list[str], folder: Path, **environment: str) -> None:
        self.lines: list[str] = []
        self.errors = ""
        self.ended: int | None = None
        self._rest = b""
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        executable = command[0] if os.path.isabs(command[0]) else str(folder / command[0])
        self._process = reactor.spawnProcess(
            self, executable, command, env={**ENVIRONMENT, **environment}, path=str(folder)
        )

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.lines += [line.decode() for line in lines]
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode("utf-8", "replace")

    def processEnded(self, reason: Failure) -> None:
        ending: Any = reason.value
        self.ended = -1 if ending.exitCode is None else ending.exitCode
        self._look()

    def _look(self) -> None:
        for condition, waiting in list(self._waiting):
            if condition() or self.ended is not None:
                self._waiting.remove((condition, waiting))
                waiting.callback(None)

    async def _until(self, condition: Callable[[], bool]) -> None:
        if self.ended is None and not condition():
            waiting: Deferred[None] = Deferred()
            self._waiting.append((condition, waiting))
            await waiting

    async def until(self, line: str, times: int = 1) -> None:
        """Wait until it has printed ``line`` so many times."""
        await self._until(lambda: self.lines.count(line) >= times)
        assert self.lines.count(line) >= times, f"it ended with {self.ended}: {self.lines}\n{self.errors}"

    async def end(self) -> int:
        """Wait until it has ended, and return its exit status."""
        await self._until(lambda: False)
        assert self.ended is not None
        return self.ended

    async def kill(self, signal: str = "KILL") -> None:
        """End it, if it has not ended, and wait for that."""
        try:
            self._process.signalProcess(signal)
        except ProcessExitedAlready:
            return
        await self.end()
