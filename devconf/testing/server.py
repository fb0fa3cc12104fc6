"""A whole server in memory: on a clock of its own, in the caller's thread."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from attrs import evolve
from msgspec import UNSET
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.server import Site

from devconf import wire
from devconf.clock import Random
from devconf.commands.asker import Asker
from devconf.config import Config
from devconf.errors import Ecode
from devconf.model import Identity, Role
from devconf.passwords import PlainPasswords
from devconf.service import DevconfService, Seams
from devconf.store import migrations, opening, writer
from devconf.testing.client import MemoryClient
from devconf.testing.device import MemoryDevice
from devconf.testing.network import MemoryReactor

#: When tests take place: seconds since the epoch.
NOON = 1_750_000_000.0


def prepared_database(path: Path) -> Path:
    """Make an empty database at ``path``, by copying one that has been migrated before; return ``path``."""
    path.write_bytes(_template())
    return path


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.sqlite"
        connection = opening.connect(f"sqlite:///{made}")
        migrations.upgrade(connection)
        writer.checkpoint(connection)
        opening.close(connection)
        return made.read_bytes()


def _ignore(_done: int, _total: int) -> None:
    """Nobody wants to know."""


class MemoryServer:
    """A whole server but for its sockets.

    :ivar clock: what all its waits run on; see :meth:`advance`.
    :ivar reactor: for programs that connect to it, such as :mod:`devconf.client` and :mod:`devconf.device`; its time
        is the same.
    :ivar url: where they connect to.
    :ivar service: the :class:`DevconfService`.
    :ivar running: it has neither crashed nor been stopped.
    :ivar eager: whether everything that is due happens at once, or only when time is advanced or asked for.
    """

    url = "http://127.0.0.1:8080"

    def __init__(self, folder: Path, *, seed: int = 1, config: Config | None = None) -> None:
        """Open the database ``folder/devconf.sqlite``, which is made if need be.

        :param config: its ``database``, ``listen`` and ``metrics`` do not count.
        """
        self.path = folder / "devconf.sqlite"
        if not self.path.exists():
            prepared_database(self.path)
        self.clock = Clock()
        self.reactor = MemoryReactor(self._accept)
        self.eager = True
        self.running = False
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
            maybeDeferred,
        )
        config = evolve(self._config, database=f"sqlite:///{self.path}", listen=(), metrics=())
        return DevconfService(self.clock, config, seams)

    def _start(self) -> None:
        failures: list[Failure] = []
        self.service.when_failed().addErrback(failures.append)
        self._site = Site(self.service.resource, reactor=self.clock)
        self.service.startService()
        self.finish()
        if failures:
            failures[0].raiseException()
        self.running = True

    def _accept(self, address: IPv4Address) -> Any:
        return self._site.buildProtocol(address) if self.running else None

    def run(self) -> None:
        """Let happen what is due now, if the server is :attr:`eager`."""
        if self.eager:
            self.finish()

    def finish(self) -> None:
        """Let happen what is due now."""
        while any(due <= self.clock.seconds() for due in self._due()):
            self._pass(0)

    def advance(self, seconds: float) -> None:
        """Let time pass, step by step."""
        end = self.clock.seconds() + seconds
        self.finish()
        while (soonest := min(self._due(), default=end)) < end:
            self._pass(max(0.0, soonest - self.clock.seconds()))
            self.finish()
        self._pass(max(0.0, end - self.clock.seconds()))
        self.finish()

    def _due(self) -> list[float]:
        return [call.getTime() for clock in (self.clock, self.reactor) for call in clock.getDelayedCalls()]

    def _pass(self, seconds: float) -> None:
        # Two clocks, since a crash of the server ends its own timers, and not those of the programs that use it.
        self.clock.advance(seconds)
        self.reactor.advance(seconds)

    def call(
        self,
        command: str,
        params: dict[str, Any] | None = None,
        *,
        role: Role = Role.ADMIN,
        progress: Callable[[int, int], None] = _ignore,
        asker: Asker | None = None,
        idempotency_key: str | None = None,
    ) -> Deferred[dict[str, Any]]:
        """Send a request as an account of ``role``.

        :param command: ``<method> <resource>``.
        :returns: fires with the response, but for what the envelope repeats.
        """
        method, _, resource = command.partition(" ")
        asked = json.loads(json.dumps(params or {}))
        key = UNSET if idempotency_key is None else idempotency_key
        request = wire.Request(f"{method} {wire.PREFIX}{resource}", idempotency_key=key, params=asked)
        identity = Identity("u" * 32, "tester", role)
        response = self.service.registry.handle(request, identity, progress, asker or Asker())
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
        return MemoryDevice(self, response["dev_unid"], dev_refid, dev_key=response["dev_key"])

    def client(self, user_name: str = "admin", role: Role = Role.ADMIN) -> MemoryClient:
        """Connect a client of an operator's account and return it; the account is made if need be."""
        password = f"the password of {user_name}"
        account = {"user_name": user_name, "role": role.title, "password": password}
        ecode = self.ask("post users", account)["ecode"]
        assert ecode in (Ecode.OK, Ecode.ALREADY_EXISTS)
        client = MemoryClient(self, user_name, password)
        client.connect()
        return client

    def crash(self) -> None:
        """End as a killed process would: nothing more is written, and connections are gone.

        What was under way stays as it is: a killed process never gets to clean up. Should Python collect it, the
        commands would, so a test that crashes servers keeps them until it ends.
        """
        self.running = False
        self.reactor.cut()
        self.runner.kill()
        self._killed.append(self.service)
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()

    def restart(self) -> None:
        """Start again on the same database, after :meth:`crash` or :meth:`stop`. All have to connect anew."""
        self.runner = writer.InlineRunner(self.clock)
        self.service = self._make()
        self._start()

    def stop(self) -> None:
        """Stop as the service does; one that has crashed stays as it is."""
        if not self.running:
            return
        self.running = False
        stopped = self.service.stopService()
        self.advance(60)
        failures: list[Any] = []
        stopped.addErrback(failures.append)
        for failure in failures:
            failure.raiseException()
