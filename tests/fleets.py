"""Devices whose sockets take a large message when they are told to, and what makes messages large."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import implementer

from devconf.devices import bulk
from devconf.devices.bulk import HANDED, LARGE
from devconf.devices.link import IDeviceTransport
from devconf.model import Identity, Role
from devconf.testing import MemoryDevice, MemoryServer
from tests.delivering import pic_task

SIZE = 2 * LARGE
#: Messages for which there is room at a time.
AT_ONCE = 3


@implementer(IDeviceTransport)
@define(eq=False)
class Slow:
    """The socket of a device that takes a large message when it is told to.

    :ivar unread: devices that have been sent one and have not read it, the first one first.
    """

    device: MemoryDevice
    unread: list[MemoryDevice]
    writable: bool = True
    ended_here: bool = False

    def send(self, *parts: bytes) -> None:
        self.device.send(*parts)
        if sum(map(len, parts)) > LARGE:
            self.writable = False
            self.unread.append(self.device)

    def close(self, code: int, reason: str) -> None:
        self.device.close(code, reason)


def make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be room for :data:`AT_ONCE` messages that have the same content."""
    content = SIZE * 4 // 3 + 100
    monkeypatch.setattr(bulk, "ROOM", content + AT_ONCE * (HANDED + 400))


class Fleet:
    """Devices that have a task with a storage configuration."""

    def __init__(self, server: MemoryServer, count: int) -> None:
        self.server = server
        self.unread: list[MemoryDevice] = []
        self.devices = [server.enrol(f"box-{number}") for number in range(count)]
        self.connect(*self.devices)
        self.task_id = pic_task(server, *self.devices)
        self.unid = server.ask("post store_confs", conf(b"old"))["unid"]
        response = server.call("put tasks", {"task_id": self.task_id, "store_conf_unid": self.unid})
        for device in self.devices:
            device.obey()
        assert server.result(response)["ecode"] == 0

    def connect(self, *devices: MemoryDevice) -> None:
        for device in devices:
            identity = Identity(device.dev_unid, device.dev_refid, Role.DEVICE)
            device.link = self.server.service.hub.opened(identity, "127.0.0.1", Slow(device, self.unread))
        self.server.run()

    def lose(self, device: MemoryDevice) -> None:
        if device in self.unread:
            self.unread.remove(device)
        device.lose()

    def replace(self, letter: bytes = b"n") -> Deferred[dict[str, Any]]:
        response = self.server.call("put store_confs", {**conf(letter * SIZE), "unid": self.unid})
        self.server.run()
        return response

    def read(self, number: int = 0) -> None:
        """Let a device read what it was sent, and answer; by default the first of those that were."""
        device = self.unread.pop(number)
        assert device.link is not None
        device.link.transport.writable = True
        device.link.drained()
        device.obey()
        self.server.run()

    def pending(self) -> int:
        return sum(item["pending"] for item in self.server.ask("get devices")["devices"])


def conf(data: bytes) -> dict[str, Any]:
    return {"name": "disks", "file_ext": "txt", "file_b64": b64encode(data).decode()}


def with_confs(server: MemoryServer, device: MemoryDevice, count: int) -> list[str]:
    """Give a device tasks, each with a storage configuration of its own; return the ids of these."""
    unids = []
    for _ in range(count):
        unids.append(server.ask("post store_confs", conf(b"old"))["unid"])
        response = server.call("put tasks", {"task_id": pic_task(server, device), "store_conf_unid": unids[-1]})
        device.obey()
        assert server.result(response)["ecode"] == 0
    return unids
