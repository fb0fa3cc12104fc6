"""The machine that the server runs on: it starts it, stops it, and takes it down in the middle of anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from alembic.script import ScriptDirectory
from autobahn.twisted import websocket as adapter_module
from autobahn.websocket import protocol as protocol_module
from sqlalchemy import Engine, event
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from devconf import service as service_module
from devconf.auth import Auth
from devconf.clock import Random as Ids
from devconf.config import Config, Limits
from devconf.devices import bulk
from devconf.model import OrderKey
from devconf.passwords import PlainPasswords
from devconf.service import DevconfService, Seams
from devconf.store import answers, opening
from devconf.testing import NOON, prepared_database
from tests.simulation.front import Front, enabled, redeem
from tests.simulation.network import Connection
from tests.simulation.storage import SimulatedThread, refuse_commit
from tests.simulation.timeline import ServerClock, Timeline

_log = Logger()

#: Small, so that a run of a minute reaches them.
LIMITS = Limits(
    outstanding_per_device=3,
    requests_per_connection=6,
    waiting_per_lock=3,
    unread_bytes=16384,
    unread_messages=6,
    device_message_max=65536,
)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let ``owner.name`` be ``value`` for a while."""
    before = owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def cheap_starts() -> Iterator[None]:
    """Let a server start in a few milliseconds, and let peers in without a login.

    What is the same each time is made once: SQLAlchemy compiles each statement once for each engine, so there is one
    engine for each file, and Alembic's scripts are read once. There is no HTTP but for the upgrade, so no routes are
    made.
    """

    with ExitStack() as stack:
        stack.enter_context(replaced(opening, "make_engine", _engine))
        stack.enter_context(replaced(Auth, "redeem", redeem))
        # So that messages of a run are large, wait for their turn, and are given up.
        for name, value in {"LARGE": 2048, "HANDED": 1024, "ROOM": 6000, "WITHIN": 8.0}.items():
            stack.enter_context(replaced(bulk, name, value))
        # Autobahn paints its debug messages even if nobody reads them.
        for module in (protocol_module, adapter_module):
            for name in ("hltype", "hlval", "hlid", "pformat"):
                if hasattr(module, name):
                    stack.enter_context(replaced(module, name, lambda *_args, **_options: ""))
        stack.enter_context(replaced(service_module, "make_app", lambda *_: _NoPages()))
        stack.enter_context(
            replaced(
                ScriptDirectory,
                "from_config",
                staticmethod(lambda config: _scripts(config.get_main_option("script_location"))),
            )
        )
        yield


_make_engine = opening.make_engine


@cache
def _engine(url: str) -> Engine:
    made = _make_engine(url)
    event.listen(made, "commit", refuse_commit)
    return made


@cache
def _scripts(location: str) -> ScriptDirectory:
    return ScriptDirectory(location)


class _NoPages:
    """In place of the HTTP application."""

    def resource(self) -> Resource:
        """See ``klein.Klein``."""
        return Resource()


class Host:
    """The machine, and the lives of the server on it.

    :ivar service: of this life; :ivar thread: its store's; :ivar clock: its time.
    :ivar lives: how many there have been; :ivar running: there is one now, if only just starting or stopping.
    :ivar skew: seconds that the wall clock is wrong by; :ivar highest_skew: the most it ever was.
    """

    def __init__(self, timeline: Timeline, folder: Path, seed: int, seen: Counter[str]) -> None:
        self.path = folder / "devconf.sqlite"
        for name in ("", "-wal", "-shm"):
            Path(f"{self.path}{name}").unlink(missing_ok=True)
        prepared_database(self.path)
        self.lives = 0
        self.running = False
        self.skew = self.highest_skew = 0.0
        self.slow: Callable[[], float] = lambda: 0.0
        self.service: DevconfService
        self.thread: SimulatedThread
        self.clock: ServerClock
        self.former: list[DevconfService] = []
        self.told: list[Any] = []
        self.settled_before = self.acks_before = 0
        self.connections: list[Connection] = []
        self._timeline = timeline
        self._seen = seen
        self._ids = Ids.seeded(seed)
        self._config = Config(database=f"sqlite:///{self.path}", listen=(), limits=LIMITS)

    @property
    def up(self) -> bool:
        """Whether it takes connections and commands."""
        return self.running and self.service.ready

    # -- its lives

    def start(self) -> None:
        """Start the server; what a crash has left is settled before it is :attr:`up`."""
        self.lives += 1
        self.running = True
        self.clock = ServerClock(self._timeline)
        self.thread = SimulatedThread(self._timeline, self.clock, self.path, lambda: self.slow(), self._seen)
        wall = lambda: NOON + self._timeline.now + self.skew  # noqa: E731
        seams = Seams(self.clock, wall, self._ids, self.thread, PlainPasswords(), maybeDeferred, maybeDeferred)
        self.service = DevconfService(self.clock, self._config, seams)
        self.told = []
        for topic in ("commands", "deliveries"):
            self.service.events.subscribe(topic, self.told.append)
        self.service.startService()

    def stop(self, stopped: Callable[[], None]) -> None:
        """Stop it as SIGTERM does; ``stopped`` is called when it has ended."""

        def ended(result: Any) -> None:
            if isinstance(result, Failure):
                _log.failure("the service could not stop", result)
            stopped()

        self.service.stopService().addBoth(ended)

    def end(self) -> list[Any]:
        """Note that the process has ended; returns the timers it had left."""
        left = [call for call in self.clock.getDelayedCalls() if call.active()]
        self.clock.kill()
        self._bury()
        return left

    def crash(self, random: Random, *, power: bool) -> None:
        """End as a process does that is killed, or a machine whose power is cut."""
        self.clock.kill()
        image = self.thread.power_off(random)
        image.write(self.path)
        for connection in self._bury():
            if power:
                # Nobody says goodbye: peers hear of it when they next ask, or after a long silence.
                connection.break_off(None, random.choice((0.5, 5.0, 30.0, None)))
            else:
                connection.tell_peer()

    def take_away(self) -> None:
        """Close the files, whatever the server does."""
        if self.lives and self.thread.open:
            self.clock.kill()
            self.thread.power_off(Random(0))

    def _bury(self) -> list[Connection]:
        # Kept: Python would end what is under way in them, and a process that is killed never gets to that.
        self.former.append(self.service)
        self.running = False
        open_ones, self.connections = self.connections, []
        for connection in open_ones:
            if connection.transport is not None:
                connection.transport.alive = False
        return open_ones

    # -- its ways in

    def accept(self, connection: Connection) -> None:
        """Take a connection, if there is a server that listens."""
        if not self.up:
            connection.tell_peer()
            return
        self.connections = [each for each in self.connections if each.transport and each.transport.connected]
        self.connections.append(connection)
        connection.accept(Front(self.service.resource.children[b"wsapi"]))

    def register(self, dev_refid: str, has: dict[tuple[str, str], int], answer: Callable[[str | None], None]) -> None:
        """Take a device's registration; ``answer`` is called with its ``dev_unid``, or None: try again later."""
        if not self.up:
            answer(None)
            return

        def note(connection: Any) -> str | None:
            dev_unid = enabled(connection, dev_refid)
            if dev_unid is not None:
                answers.reconcile(connection, dev_unid, {OrderKey(dev_unid, *key): rev for key, rev in has.items()})
            return dev_unid

        self.service.store.run(note).addCallbacks(answer, lambda _failure: answer(None))
