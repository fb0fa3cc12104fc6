"""The reference: ``ab.py --level 0``, a relay on Twisted and Autobahn that does nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from benchmarks.load import Work
from benchmarks.process import Failed, Process, free_port
from benchmarks.side import PARAMS, Side
from benchmarks.sockets import Sockets, unasked


class _Answer(msgspec.Struct):
    id: int
    result: dict[str, Any]


class _Order(msgspec.Struct):
    id: int


_answer = msgspec.json.Decoder(_Answer).decode
_order = msgspec.json.Decoder(_Order).decode

_LISTENS = re.compile(r"^nvx \w+ reactor \w+\n", re.MULTILINE)
_COMMAND = '{"id":%d,"op":"command","device":"%s","method":"config.set","params":%s}'


class Relaying:
    """Commands of 300 bytes, each to any of the devices."""

    orders = 1

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._random = Random(1)

    def command(self, number: int) -> bytes:
        """See :class:`Work`."""
        return (_COMMAND % (number, self._random.choice(self._names), PARAMS % number)).encode()

    def answered(self, payload: bytes) -> int:
        """See :class:`Work`."""
        answer = _answer(payload)
        if answer.result != {"ok": True, "rev": 17}:
            raise Failed(f"the bare relay has answered {payload[:300]!r}")
        return answer.id


class Bare(Side):
    """The relay, as a process of its own."""

    def __init__(self, folder: Path, sockets: Sockets) -> None:
        super().__init__(sockets)
        self.port = free_port()
        self._names: list[str] = []
        command: list[str | Path] = [Path(__file__).with_name("ab.py"), "--level", "0", "--port", str(self.port)]
        self._log = folder / "relay.log"
        self.server = Process.start("the bare relay", command, self._log, self._listens)
        if "nvx True " not in self.server.said():
            self.stop()
            raise Failed("Autobahn has no native code (NVX) here: the reference would not be the reference")

    def _listens(self) -> bool:
        # It says so in one line once it does.
        return _LISTENS.search(self._log.read_text("utf-8", "replace")) is not None

    def connect_devices(self, count: int) -> None:
        """See :class:`Side`."""
        names = [f"dev-{number:05}" for number in range(len(self._names), len(self._names) + count)]
        self.connect(names, "/device/{}".format, self._obey)
        self._names += names

    def _obey(self, payload: bytes) -> bytes:
        self.devices.answered += 1
        return b'{"id":%d,"result":{"ok":true,"rev":17}}' % _order(payload).id

    def connect_operators(self, count: int) -> None:
        """Connect ``count`` clients."""
        self.operators = self.connect(range(count), "/client/c{}".format, unasked)

    def relaying(self) -> Work:
        """Return commands to the devices that are connected."""
        return Relaying(self._names)
