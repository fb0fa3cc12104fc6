"""A server's clock, moved from outside."""

from __future__ import annotations

import os
import struct
from pathlib import Path

# Run by the server's interpreter before anything else (as `sitecustomize`).
SHIFTED = """
import mmap, os, struct, time
with open(os.environ["BLACKBOX_CLOCK"], "rb") as file:
    shift = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
def shifted(true):
    return lambda: true() + struct.unpack("d", shift)[0]
time.time, time.monotonic = shifted(time.time), shifted(time.monotonic)
"""


class ShiftedClock:
    """What `time.time` and `time.monotonic` say in the server's process is the true time and a number of seconds."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("d", 0.0))
        code = folder / "shifted"
        code.mkdir()
        (code / "sitecustomize.py").write_text(SHIFTED, encoding="utf-8")
        path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
        self.environment = {"PYTHONPATH": path, "BLACKBOX_CLOCK": str(self._file)}

    @property
    def shift(self) -> float:
        """Seconds by which the server is ahead."""
        return float(struct.unpack("d", self._file.read_bytes())[0])

    def advance(self, seconds: float) -> None:
        """The server's clock jumps; it notices with what comes next, so send it something."""
        with self._file.open("r+b") as file:  # in place: the server has mapped it
            file.write(struct.pack("d", self.shift + seconds))
