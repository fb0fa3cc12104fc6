"""A server as a process of its own: what it has used, and whether it is well."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from attrs import define, frozen

#: Seconds: the upper limit of anything that should happen.
PATIENCE = 30.0


class Failed(Exception):
    """Something went wrong, so that a figure would be worthless; the text is one line that says what."""


@frozen
class Memory:
    """What a process holds, in KB.

    :ivar rss: resident in all, :ivar pss: with its share of what others hold too, :ivar private: its alone.
    """

    rss: int
    pss: int
    private: int


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_cpus = sorted(os.sched_getaffinity(0))


@contextmanager
def _on_first_cpu() -> Iterator[None]:
    """Let what is started in here run on the first CPU, and this process on the last one."""
    os.sched_setaffinity(0, _cpus[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, _cpus[-1:])


@define
class Process:
    """A running server.

    :ivar name: for messages.
    :ivar log: the file with what it says.
    """

    name: str
    log: Path
    _process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, command: Sequence[str | Path], log: Path, ready: Callable[[], bool]) -> Process:
        """Start ``command``, and wait until it is ``ready``.

        :raises Failed: it is not.
        """
        # Whether Autobahn uses its native code is left to its default, which is to use it.
        env = {key: value for key, value in os.environ.items() if key != "AUTOBAHN_USE_NVX"}
        with log.open("wb") as output, _on_first_cpu():
            process = subprocess.Popen(
                [sys.executable, *command],
                env={**env, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        server = cls(name, log, process)
        until = time.monotonic() + PATIENCE
        try:
            while not ready():
                server.check()
                if time.monotonic() > until:
                    raise Failed(f"{name} was not ready within {PATIENCE:g} s; see {log}")
                time.sleep(0.05)
        except BaseException:
            server.stop()
            raise
        return server

    def said(self) -> str:
        """Return what it has written."""
        return self.log.read_text("utf-8", "replace")

    def check(self) -> None:
        """See whether it runs, and has logged no traceback.

        :raises Failed: it does not, or has.
        """
        status = self._process.poll()
        if status is not None:
            last = "".join(self.said().strip().splitlines()[-1:])
            raise Failed(f"{self.name} has ended with {status}; see {self.log}: {last}")
        if "Traceback" in self.said():
            raise Failed(f"{self.name} has logged an error; see {self.log}")

    def cpu(self) -> float:
        """Return the CPU time that all its threads have used until now, in seconds."""
        # The clock of another process, numbered as clock_getcpuclockid(3) does it: it counts nanoseconds.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def memory(self) -> Memory:
        """Return what it holds now."""
        sizes = {}
        for line in Path(f"/proc/{self._process.pid}/smaps_rollup").read_text("ascii").splitlines()[1:]:
            name, size, _ = line.split()
            sizes[name] = int(size)
        return Memory(sizes["Rss:"], sizes["Pss:"], sizes["Private_Clean:"] + sizes["Private_Dirty:"])

    def forget_peak(self) -> None:
        """Let :meth:`peak` begin anew."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", "ascii")

    def peak(self) -> int:
        """Return the most that was resident since :meth:`forget_peak`, in KB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0])

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
