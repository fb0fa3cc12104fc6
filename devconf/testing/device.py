"""A device that needs no socket, and answers when it is told to."""

from __future__ import annotations

import json
from typing import Any

from attrs import define, field
from zope.interface import implementer

from devconf import wire
from devconf.devices.link import IDeviceTransport, Link
from devconf.model import Identity, Role

Key = tuple[str, str]


@implementer(IDeviceTransport)
@define(eq=False)
class MemoryDevice:
    """A device that behaves as ``docs/protocol.md`` §6 says, when told to.

    :ivar inbox: messages it has been sent and has not answered.
    :ivar heard: all it was ever sent.
    :ivar held: what it has, by (task_id, subtask_id): the last params that counted.
    :ivar revs: the last rev it acted on of each.
    :ivar address: where its connections come from.
    :ivar closed: code and reason, once the server has closed its connection.
    :ivar dev_key: what it logs in with, if it was enrolled here: for programs that connect as a device.
    """

    server: Any  # MemoryServer
    dev_unid: str
    dev_refid: str
    writable: bool = True
    inbox: list[dict[str, Any]] = field(factory=list)
    heard: list[dict[str, Any]] = field(factory=list)
    replies: list[dict[str, Any]] = field(factory=list)
    held: dict[Key, dict[str, Any]] = field(factory=dict)
    revs: dict[Key, int] = field(factory=dict)
    closed: tuple[int, str] | None = None
    ended_here: bool = False
    link: Link | None = None
    dev_key: str = ""
    address: str = "127.0.0.1"

    # -- IDeviceTransport

    def send(self, *parts: bytes) -> None:
        """See :class:`IDeviceTransport`."""
        message = json.loads(b"".join(parts))
        if "params" in message:
            self.inbox.append(message)
            self.heard.append(message)
        else:
            self.replies.append(message)

    def close(self, code: int, reason: str) -> None:
        """See :class:`IDeviceTransport`."""
        self.closed = (code, reason)
        self.ended_here = True
        self.server.clock.callLater(0, self.lose)

    # -- coming and going

    def connect(self) -> None:
        """Open a connection; a new one replaces the old."""
        self.closed = None
        self.ended_here = False
        self.inbox.clear()
        self.server.service.sessions.add(self._identity, self.close)
        self.link = self.server.service.hub.opened(self._identity, self.address, self)
        self.server.run()

    def lose(self) -> None:
        """Lose the connection."""
        link, self.link = self.link, None
        if link is not None:
            self.inbox.clear()
            service = self.server.service
            # A server that has crashed is told nothing.
            if link.hub is service.hub:
                service.sessions.remove(self._identity, self.close)
                service.hub.closed(link)
                self.server.run()

    @property
    def _identity(self) -> Identity:
        return Identity(self.dev_unid, self.dev_refid, Role.DEVICE)

    def wipe(self) -> None:
        """Forget everything, as a box that is re-imaged does."""
        self.held.clear()
        self.revs.clear()

    # -- answering

    def say(self, message: dict[str, Any] | bytes) -> None:
        """Send anything."""
        assert self.link is not None
        self.link.received(message if isinstance(message, bytes) else json.dumps(message).encode())
        self.server.run()

    def answer(self, message: dict[str, Any], ecode: int = 0, enote: str = "ok", **more: Any) -> None:
        """Answer ``message``, without acting on it."""
        if message in self.inbox:
            self.inbox.remove(message)
        self.say({"req_id": message["req_id"], "ecode": ecode, "enote": enote, **more})

    def refuse(self, ecode: int = 7, enote: str = "no") -> None:
        """Refuse the oldest message."""
        self.answer(self.inbox[0], ecode, enote)

    def obey(self) -> None:
        """Act on all messages, also on those that come meanwhile."""
        while self.inbox:
            self.act(self.inbox[0])

    def act(self, message: dict[str, Any]) -> None:
        """Act on ``message`` and answer it."""
        self.answer(message, **self.do(message))

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        """Act on ``message`` and return the answer's fields."""
        params = message["params"]
        if message["command"].partition(" ")[2] != wire.PREFIX + "tasks":
            return {"ecode": 0, "enote": "ok"}
        key, rev = (params["task_id"], params.get("subtask_id", "")), params["rev"]
        known = self.revs.get(key, 0)
        if rev < known:
            return {"ecode": 1004090008, "enote": "older than mine", "rev": known}
        if rev > known:
            kind = message["command"].partition(" ")[0]
            if kind == "put" and key not in self.held:
                return {"ecode": 1004040003 if key[1] else 1004040001, "enote": "I do not have that"}
            self.revs[key] = rev
            if kind == "delete":
                self.held.pop(key, None)
            else:
                self.held[key] = {**(self.held.get(key, {}) if kind == "put" else {}), **params}
        return {"ecode": 0, "enote": "ok"}
