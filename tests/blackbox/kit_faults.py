"""What the disk and the clocks say to a server, changed while it runs (`faults.c`)."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
_STRUCT = struct.Struct("ddqqqq")
_FIELDS = ("wall", "steady", "room", "sync_fails", "write_fails", "failed")


class Faults:
    """The faults of one server; there are none until one is set."""

    def __init__(self, folder: Path, disk: Path) -> None:
        """`disk`: the files whose paths begin so are concerned."""
        library = folder / "faults.so"
        subprocess.run(
            ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"],
            check=True,
            timeout=60,
        )
        self._file = folder / "faults"
        self._file.write_bytes(_STRUCT.pack(0.0, 0.0, -1, 0, 0, 0))
        self.environment = {
            "LD_PRELOAD": str(library),
            "BLACKBOX_FAULTS": str(self._file),
            "BLACKBOX_DISK": os.path.realpath(disk),
        }

    def _get(self, name: str) -> float:
        value: float = _STRUCT.unpack(self._file.read_bytes())[_FIELDS.index(name)]
        return value

    def _set(self, name: str, value: float) -> None:
        with self._file.open("r+b") as file:  # in place: the server has mapped it
            file.seek(8 * _FIELDS.index(name))
            file.write(struct.pack("d" if name in ("wall", "steady") else "q", value))

    # -- the disk

    @property
    def failed(self) -> int:
        """How many calls have failed because of what was set."""
        return int(self._get("failed"))

    def fill_disk(self, room: int = 0) -> None:
        """There is room for so many bytes more."""
        self._set("room", room)

    def make_room(self) -> None:
        """There is room for any number of bytes again."""
        self._set("room", -1)

    def break_sync(self, number: int = 1) -> None:
        """The n-th `fsync` from now on fails with EIO, and all after it."""
        self._set("sync_fails", number)

    def break_writing(self, number: int = 1) -> None:
        """The n-th write from now on fails with EIO, and all after it."""
        self._set("write_fails", number)

    def repair(self) -> None:
        """The disk is well again."""
        self._set("sync_fails", 0)
        self._set("write_fails", 0)

    # -- the clocks

    @property
    def wall(self) -> float:
        """Seconds by which the wall clock is ahead."""
        return self._get("wall")

    def move_wall_clock(self, seconds: float) -> None:
        """The wall clock jumps, forwards or back."""
        self._set("wall", self._get("wall") + seconds)

    def move_all_clocks(self, seconds: float) -> None:
        """So much time has passed, as after a long sleep; it notices with what comes next."""
        self.move_wall_clock(seconds)
        self._set("steady", self._get("steady") + seconds)
