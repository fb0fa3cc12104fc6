"""For tests of programs that embed devconf, and for our own: a server in memory, and devices that need no socket.

Time stands still until it is advanced, and nothing runs in a thread::

    server = MemoryServer(folder)
    device = server.enrol("box-1")
    device.connect()
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.obey()
    assert server.result(response)["ecode"] == 0
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from devconf import wire
from devconf.clock import Random
from devconf.config import Config
from devconf.devices.link import IDeviceTransport, Link
from devconf.model import Identity, Role
from devconf.passwords import PlainPasswords
from devconf.service import DevconfService, Seams
from devconf.store import migrations, writer

#: When tests take place: seconds since the epoch.
NOON = 1_750_000_000.0

Key = tuple[str, str]


def prepared_database(path: Path) -> Path:
    """Make an empty database at ``path``, by copying one that has been migrated before; return ``path``."""
    template = Path(tempfile.gettempdir()) / f"devconf-template-{_fingerprint()}.sqlite"
    if not template.exists():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "made.sqlite"
            connection = writer.connect(f"sqlite:///{made}")
            migrations.upgrade(connection)
            writer.checkpoint(connection)
            writer.close(connection)
            shutil.copyfile(made, template.with_suffix(f".{id(path)}"))
            template.with_suffix(f".{id(path)}").replace(template)
    shutil.copyfile(template, path)
    return path


def _fingerprint() -> str:
    versions = sorted((Path(migrations.__file__).parent / "versions").glob("*.py"))
    return "-".join(f"{version.stem}-{version.stat().st_mtime_ns}" for version in versions)


def _ignore(_done: int, _total: int) -> None:
    """Nobody wants to know."""


class MemoryServer:
    """A whole server but for its sockets.

    :ivar clock: what all its waits run on; see :meth:`advance`.
    :ivar service: the :class:`DevconfService`.
    :ivar eager: whether everything that is due happens at once, or only when time is advanced or asked for.
    """

    def __init__(self, folder: Path, *, seed: int = 1, config: Config | None = None) -> None:
        """Open the database ``folder/devconf.sqlite``, which is made if need be.

        :param config: its ``database`` and ``listen`` do not count.
        """
        self.path = folder / "devconf.sqlite"
        if not self.path.exists():
            prepared_database(self.path)
        self.clock = Clock()
        self.eager = True
        self._random = Random.seeded(seed)
        self._config = config or Config()
        self.runner = writer.InlineRunner(self.clock)
        self.service = self._make()
        self._killed: list[DevconfService] = []
        self._start()

    def _make(self) -> DevconfService:
        seams = Seams(
            self.clock,
            lambda: NOON + self.clock.seconds(),
            self._random,
            self.runner,
            PlainPasswords(),
            maybeDeferred,
        )
        return DevconfService(self.clock, evolve(self._config, database=f"sqlite:///{self.path}", listen=()), seams)

    def _start(self) -> None:
        self.service.startService()
        self.finish()
        if not self.service.ready:
            failures: list[Failure] = []
            self.service.when_failed().addErrback(failures.append)
            failures[0].raiseException()

    def run(self) -> None:
        """Let happen what is due now, if the server is :attr:`eager`."""
        if self.eager:
            self.finish()

    def finish(self) -> None:
        """Let happen what is due now."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """Let time pass, step by step."""
        end = self.clock.seconds() + seconds
        self.finish()
        while (soonest := min((call.getTime() for call in self.clock.getDelayedCalls()), default=end)) < end:
            self.clock.advance(max(0.0, soonest - self.clock.seconds()))
            self.finish()
        self.clock.advance(max(0.0, end - self.clock.seconds()))
        self.finish()

    def call(
        self,
        command: str,
        params: dict[str, Any] | None = None,
        *,
        role: Role = Role.ADMIN,
        progress: Callable[[int, int], None] = _ignore,
        gone: Callable[[], bool] = bool,
    ) -> Deferred[dict[str, Any]]:
        """Send a request as an account of ``role``.

        :param command: ``<method> <resource>``.
        :returns: fires with the response, but for what the envelope repeats.
        """
        method, _, resource = command.partition(" ")
        request = wire.Request(f"{method} {wire.PREFIX}{resource}", params=json.loads(json.dumps(params or {})))
        identity = Identity("u" * 32, "tester", role)
        response = Deferred.fromCoroutine(self.service.registry.handle(request, identity, progress, gone))
        self.run()
        return response

    def result(self, response: Deferred[dict[str, Any]]) -> dict[str, Any]:
        """Return what ``response`` has fired with, as it would be on the wire.

        :raises AssertionError: it has not fired.
        """
        if not response.called:
            raise AssertionError("there is no response yet")
        if isinstance(response.result, Failure):
            response.result.raiseException()
        return dict(json.loads(wire.encode(response.result)))

    def ask(self, command: str, params: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Return the response to a request that needs no device to answer."""
        response = self.call(command, params, **options)
        self.finish()
        return self.result(response)

    def enrol(self, dev_refid: str, **params: Any) -> MemoryDevice:
        """Enrol a device and return it, offline."""
        response = self.ask("post devices", {"dev_refid": dev_refid, **params})
        return MemoryDevice(self, response["dev_unid"], dev_refid)

    def crash(self) -> None:
        """End as a killed process would: nothing more is written, and connections are gone.

        What was under way stays as it is: a killed process never gets to clean up. Should Python collect it, the
        commands would, so a test that crashes servers keeps them until it ends.
        """
        self.runner.kill()
        self._killed.append(self.service)
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()

    def restart(self) -> None:
        """Start again on the same database, after :meth:`crash`. Devices have to connect anew."""
        self.runner = writer.InlineRunner(self.clock)
        self.service = self._make()
        self._start()

    def stop(self) -> None:
        """Stop as the service does."""
        stopped = self.service.stopService()
        self.advance(10)
        failures: list[Any] = []
        stopped.addErrback(failures.append)
        for failure in failures:
            failure.raiseException()


@implementer(IDeviceTransport)
@define(eq=False)
class MemoryDevice:
    """A device that behaves as ``docs/protocol.md`` §6 says, when told to.

    :ivar inbox: messages it has been sent and has not answered.
    :ivar heard: all it was ever sent.
    :ivar held: what it has, by (task_id, subtask_id): the last params that counted.
    :ivar revs: the last rev it acted on of each.
    :ivar closed: code and reason, once the server has closed its connection.
    """

    server: MemoryServer
    dev_unid: str
    dev_refid: str
    writable: bool = True
    inbox: list[dict[str, Any]] = field(factory=list)
    heard: list[dict[str, Any]] = field(factory=list)
    replies: list[dict[str, Any]] = field(factory=list)
    held: dict[Key, dict[str, Any]] = field(factory=dict)
    revs: dict[Key, int] = field(factory=dict)
    closed: tuple[int, str] | None = None
    link: Link | None = None

    # -- IDeviceTransport

    def send(self, payload: bytes) -> None:
        """See :class:`IDeviceTransport`."""
        message = json.loads(payload)
        if "params" in message:
            self.inbox.append(message)
            self.heard.append(message)
        else:
            self.replies.append(message)

    def close(self, code: int, reason: str) -> None:
        """See :class:`IDeviceTransport`."""
        self.closed = (code, reason)
        self.server.clock.callLater(0, self.lose)

    # -- coming and going

    def connect(self) -> None:
        """Open a connection; a new one replaces the old."""
        self.closed = None
        self.inbox.clear()
        identity = Identity(self.dev_unid, self.dev_refid, Role.DEVICE)
        self.link = self.server.service.hub.opened(identity, "127.0.0.1", self)
        self.server.run()

    def lose(self) -> None:
        """Lose the connection."""
        link, self.link = self.link, None
        if link is not None:
            self.inbox.clear()
            self.server.service.hub.closed(link)
            self.server.run()

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
