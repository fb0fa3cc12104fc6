"""Devices with journals, each a process of its own, that are killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from journal_device import Key, key_of, play, read_lines
from kit import Json, World

PROGRAM = Path(__file__).with_name("journal_device.py")


class Box:
    """One device; stopped and started again it goes on from its journal."""

    def __init__(self, world: World, folder: Path, **nature: Any) -> None:
        device = world.device(connect=False)
        self.dev_unid = device.dev_unid
        self.journal = folder / f"{device.dev_refid}.journal"
        self.changed = threading.Condition()
        self._settings: Json = {
            "port": world.server.port,
            "dev_refid": device.dev_refid,
            "dev_key": device.dev_key,
            "dev_unid": device.dev_unid,
            "journal": str(self.journal),
            **nature,
        }
        self.start()

    def start(self) -> None:
        self.journal.touch()
        command = [sys.executable, str(PROGRAM), json.dumps(self._settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def behave(self) -> None:
        """Take everything, at once, from now on."""
        self._ask("behave")

    def _ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    # -- what it did

    def entries(self) -> list[Json]:
        return [json.loads(line) for line in read_lines(self.journal)]

    @property
    def held(self) -> dict[Key, Json]:
        held: dict[Key, Json] = {}
        for entry in self.entries():
            play(held, entry)
        return held

    def refused(self) -> set[Key]:
        """What it refused last."""
        last = {key_of(entry): entry["effect"] for entry in self.entries() if entry["effect"] in ("took", "refused")}
        return {key for key, effect in last.items() if effect == "refused"}

    def request(self, _command: str) -> Json:
        """What the server says that it should hold."""
        return {"tasks": self._ask("ask")}
