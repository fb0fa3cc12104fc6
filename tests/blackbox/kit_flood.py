"""How a server does while somebody attacks it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit import PATIENCE, World, combo, ok

#: Seconds: while others flood, an answer may take so long on a machine that has other things to do as well.
WELL = 10.0
LOG_MAX = 100_000
#: Bytes by which the server may grow meanwhile.
MEMORY_MAX = 100_000_000


def memory(world: World) -> int:
    """Bytes of the server that are resident."""
    process = world.server._process
    assert process is not None
    pages = int(Path(f"/proc/{process.pid}/statm").read_text("ascii").split()[1])
    return pages * 4096


@contextmanager
def others_work_on(world: World) -> Iterator[None]:
    """An operator and a device work as before, the server stays small, and the log short."""
    device = world.device(warm=True, algos=["a1"])
    task_id = world.pic_task(device)
    client = world.client("operator")
    before, logged = memory(world), len(world.server.log())
    stop = threading.Event()
    slowest = [0.0]
    failures: list[object] = []

    def work() -> None:
        number = 0
        while not stop.is_set():
            began, number = time.monotonic(), number + 1
            try:
                params = {"task_id": task_id, "algo_comb": combo("a1", speed=number)}
                ok(client.call("post tasks/pic_task_config", params))
                ok(client.call("get tasks", {"limit": 1}))
            except Exception as failure:
                failures.append(failure)
                return
            slowest[0] = max(slowest[0], time.monotonic() - began)

    working = threading.Thread(target=work)
    working.start()
    try:
        yield
    finally:
        stop.set()
        working.join(PATIENCE)
    assert failures == []
    assert 0 < slowest[0] < WELL
    assert memory(world) - before < MEMORY_MAX
    assert len(world.server.log()) - logged < LOG_MAX
