"""Killing a server again and again while clients change everything and devices come and go."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from kit import World
from kit_fleet import Box
from kit_load import Shared, Worker, stored_conf
from kit_verdict import verdict

#: Seconds within which a failpoint is reached under load.
REACHED_WITHIN = 60.0

NATURES: tuple[dict[str, Any], ...] = (
    {},
    {"refuses": 20},
    {"slow": 20},
    {"tells": True},
    {"refuses": 8, "slow": 8, "tells": True},
)


class Killing:
    """A server under load. Entering it starts devices and clients; leaving it ends them.

    `counts`: what happened, for the report.
    """

    def __init__(self, world: World, folder: Path, seed: str, *, workers: int = 4, natures: Any = NATURES) -> None:
        self.world = world
        self.random = Random(seed)
        self.counts: Counter[str] = Counter()
        self.shared = Shared(world.store_conf(b"first", "all", "bin"), stored_conf("all", b"first"))
        self._folder, self._natures, self._seed, self._how_many = folder, natures, seed, workers
        self._stack = ExitStack()
        self.boxes: list[Box] = []
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for nature in self._natures:
                self.boxes.append(Box(self.world, self._folder, **nature))
                stack.callback(self.boxes[-1].kill)
            dev_unids = [box.dev_unid for box in self.boxes]
            for number in range(self._how_many):
                name = f"{self._seed}-{'abcdefgh'[number]}"
                worker = Worker(self.world.http, self.world.admin.login, name, dev_unids, self.shared)
                self.workers.append(worker)
                worker.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        for worker in self.workers:
            worker._ended.set()
        self._stack.close()

    # -- killing

    def kill_at_random(self) -> None:
        """The server, after some time; now and then a device too."""
        self._run_for(self.random.uniform(0.15, 0.9))
        self.world.server.kill()
        self.counts["server killed at random"] += 1
        self._start()

    def kill_at(self, failpoint: str) -> None:
        """Start it anew with a failpoint that is reached for the n-th time, and let it die there."""
        self.world.server.kill()
        try:
            self._start(DEVCONF_FAILPOINT=f"{failpoint}:{self.random.randint(1, 12)}")
        except AssertionError as died:
            # It may have got there before we saw that it is ready.
            if f"the server ended with {-signal.SIGKILL}\n" not in str(died):
                raise
        deadline = time.monotonic() + REACHED_WITHIN
        while self.world.server.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not self.world.server.alive, f"{failpoint} is not reached"
        assert self.world.server.returncode == -signal.SIGKILL
        self.counts[f"server killed {failpoint}"] += 1

    def _start(self, **environment: str) -> None:
        if self.random.random() < 0.3:
            self._kill_a_device()
        self.world.server.environment = environment
        try:
            self.world.server.start()
        finally:
            self.world.server.environment = {}

    def _run_for(self, seconds: float) -> None:
        if self.random.random() < 0.3:
            time.sleep(seconds / 2)
            self._kill_a_device()
            seconds /= 2
        time.sleep(seconds)

    def _kill_a_device(self) -> None:
        box = self.random.choice(self.boxes)
        box.kill()
        box.start()
        self.counts["device killed"] += 1

    def pause_a_device(self, seconds: float) -> None:
        """Stop one for so long, as a process that hangs."""
        box = self.random.choice(self.boxes)
        box.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        box.process.send_signal(signal.SIGCONT)
        self.counts["device paused"] += 1

    # -- and then

    def judge(self, tamper: Callable[[], None] = lambda: None) -> list[str]:
        """Let it come to rest; what is wrong.

        `tamper`: called before the comparing, by tests of that.
        """
        if not self.world.server.alive:
            self.world.server.start()
        for worker in self.workers:
            worker.stop()
        for client in (self.world.admin, self.world.operator, self.world.viewer):
            client.close()
        self.world.log_in()
        tamper()
        problems = verdict(self.world, self.boxes, self.workers, self.shared)
        asked = [asked for worker in self.workers for asked in worker.asked]
        self.counts["requests that change"] += len(asked)
        self.counts["done"] += sum(asked.done for asked in asked)
        self.counts["refused with an error"] += sum(not asked.done for asked in asked if asked.answer is not None)
        self.counts["unanswered when the server died"] += sum(asked.answer is None for asked in asked)
        self.counts["orders that devices took"] += sum(
            entry["effect"] == "took" for box in self.boxes for entry in box.entries()
        )
        return problems

    def report(self) -> str:
        """What happened, in a line."""
        return ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items()))
