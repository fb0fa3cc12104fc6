"""The whole as one service: a child of any ``MultiService``, on any reactor."""

from __future__ import annotations

from typing import Any, NoReturn

from attrs import define
from twisted.application.service import MultiService
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from devconf import sessions as close_codes
from devconf.auth import Auth
from devconf.clock import Now, Random
from devconf.commands.calls import CallCommands
from devconf.commands.devices import DeviceCommands
from devconf.commands.history import HistoryCommands
from devconf.commands.locks import Locks
from devconf.commands.machine import Machine
from devconf.commands.registry import Registry
from devconf.commands.store_confs import InThread, StoreConfCommands
from devconf.commands.subscriptions import SubscriptionCommands
from devconf.commands.subtasks import SubtaskCommands
from devconf.commands.tasks import TaskCommands
from devconf.commands.users import UserCommands
from devconf.config import Config
from devconf.devices.delivery import Delivery
from devconf.devices.hub import Hub
from devconf.devices.protocol import DeviceFactory
from devconf.errors import CommandFailed, Ecode, StartupError
from devconf.events import Events
from devconf.operators.protocol import OperatorFactory
from devconf.passwords import ThreadedPasswords
from devconf.sessions import Sessions
from devconf.store import Store, backup, journal
from devconf.store.writer import ThreadRunner
from devconf.web.mirror import Mirror
from devconf.web.site import BoundedSite, Root, make_app
from devconf.web.upgrade import Upgrade
from devconf.web.ways_in import WaysIn

#: Connections that may wait to be accepted: a whole fleet comes back at once.
BACKLOG = 4096
PRUNE_EVERY = 3600.0
#: Seconds that a stopping server waits for its connections to close.
STOP_WITHIN = 5.0


@define
class Seams:
    """What tests and simulations replace.

    :ivar clock: monotonic; waits and retries.
    :ivar now: the wall clock; stamps and expiries.
    :ivar runner: an ``IRunner``: how the store runs its functions.
    :ivar passwords: an ``IPasswords``.
    :ivar in_thread: runs a function that takes long.
    """

    clock: IReactorTime
    now: Now
    random: Random
    runner: Any
    passwords: Any
    in_thread: InThread


class DevconfService(MultiService):
    """One server.

    :ivar resource: what it serves over HTTP and WebSocket, for an existing ``twisted.web`` site.
    """

    _log = Logger()

    def __init__(self, reactor: Any, config: Config, seams: Seams | None = None, *, now: Now | None = None) -> None:
        """Wire everything; nothing is opened or listened on before ``startService``.

        :param reactor: any; it has to be able to call from threads.
        :param now: the wall clock.
        """
        super().__init__()
        self._reactor = reactor
        self._config = config
        self._pool: ThreadPool | None = None
        self._running = False
        self._ports: list[IListeningPort] = []
        self._starting: Deferred[Any] = defer.succeed(None)
        self._failed: Deferred[NoReturn] = Deferred()
        self._pruning = LoopingCall(self._prune)
        if seams is None:
            if now is None:
                raise TypeError("a wall clock is needed: now=time.time")
            seams = Seams(reactor, now, Random(), ThreadRunner(reactor), ThreadedPasswords(reactor), self._in_thread)
        self._seams = seams
        self._pruning.clock = seams.clock
        self._wire(config, seams)

    def _wire(self, config: Config, seams: Seams) -> None:
        clock, limits = seams.clock, config.limits
        self.store = Store(config.database, seams.runner)
        self.events = Events(seams.now)
        self.sessions = Sessions()
        self.auth = Auth(self.store, seams.passwords, seams.random, seams.now, config, self.sessions)
        self.hub = Hub(clock, seams.now, seams.random, self.store, self.events, limits.outstanding_per_device)
        self.delivery = Delivery(clock, seams.now, seams.random, self.store, self.hub, config.device_timeout)
        self.locks = Locks(clock, limits.waiting_per_lock)
        self.machine = Machine(
            clock, seams.now, seams.random, self.store, self.events, self.hub, self.delivery, self.locks
        )
        self.registry = Registry(seams.random, config.tolerated_params)
        for subject in (
            TaskCommands(self.machine),
            SubtaskCommands(self.machine),
            StoreConfCommands(self.machine, seams.in_thread, limits.store_conf_max),
            DeviceCommands(self.machine, self.sessions, self.auth.unknown),
            CallCommands(self.machine, config.device_timeout),
            UserCommands(self.machine, self.sessions, seams.passwords),
            HistoryCommands(self.machine),
            SubscriptionCommands(),
        ):
            self.registry.include(subject)
        self.operators = OperatorFactory(clock, limits, self.registry, self.sessions, self.events)
        self.devices = DeviceFactory(clock, limits, self.hub, self.sessions)
        upgrade = Upgrade(self.auth, self.operators, self.devices, config.trusted_proxies, self._may_connect)
        ways_in = WaysIn(self.auth, self.store, config, lambda: self._running)
        mirror = Mirror(
            self.auth,
            self.registry,
            lambda: self._running,
            limits.operator_message_max,
            lambda: seams.in_thread(backup.copy, config.database),
        )
        self.resource = Root(make_app([ways_in, mirror]), upgrade)

    # -- starting and stopping

    def startService(self) -> None:
        """Open the store, settle what a crash has left, and then listen. See :meth:`when_ready`."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._fail)

    async def _start(self) -> None:
        await self.store.open()
        self.store.when_broken().addErrback(self._fail)
        recovered = await self.machine.recover()
        if recovered:
            self._log.info("settled {count} commands that were under way when the server ended", count=recovered)
        self._running = True
        limits = self._config.limits
        site = BoundedSite(
            self.resource,
            self._reactor,
            limits.operator_message_max,
            limits.connections_per_address_before_login,
            self._config.trusted_proxies,
        )
        for description in self._config.listen:
            self._ports.append(await self._listen(description, site))
        self._pruning.start(PRUNE_EVERY, now=False)
        self._log.info("ready")

    async def _listen(self, description: str, site: BoundedSite) -> IListeningPort:
        try:
            port: IListeningPort = await serverFromString(self._reactor, with_backlog(description)).listen(site)
        except CannotListenError as error:
            raise StartupError(f"cannot listen on {description}: {error.socketError}; see `listen`") from None
        return port

    def _fail(self, failure: Failure) -> None:
        self._running = False
        if not self._failed.called:
            self._failed.errback(failure)

    @property
    def ready(self) -> bool:
        """Whether commands are taken."""
        return self._running

    def when_ready(self) -> Deferred[None]:
        """Fire once commands are taken; of a start that failed, :meth:`when_failed` tells."""
        ready: Deferred[None] = Deferred()
        self._starting.addCallback(lambda _: ready.callback(None) if self._running else None)
        return ready

    def when_failed(self) -> Deferred[NoReturn]:
        """Fail with what has made the server unable to start (``StartupError``), or to go on; never fires else."""
        return self._failed

    def stopService(self) -> Deferred[None]:
        """Stop listening, close all connections (1001), and then the store; fires when all is done."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._running = False
        await self._starting
        for port in self._ports:
            await defer.maybeDeferred(port.stopListening)
        self._ports.clear()
        await defer.maybeDeferred(MultiService.stopService, self)
        if self._pruning.running:
            self._pruning.stop()
        self.locks.stop()
        self.sessions.end_all(close_codes.GOING_AWAY, "the server is stopping")
        await self._until_closed()
        self.delivery.stop()
        self.hub.stop()
        await self.store.close()
        stop_passwords = getattr(self._seams.passwords, "stop", None)
        if stop_passwords is not None:
            stop_passwords()
        if self._pool is not None:
            self._pool.stop()
            self._pool = None

    async def _until_closed(self) -> None:
        deadline = self._seams.clock.seconds() + STOP_WITHIN
        while len(self.sessions) and self._seams.clock.seconds() < deadline:
            waited: Deferred[None] = Deferred()
            self._seams.clock.callLater(0.05, waited.callback, None)
            await waited

    # -- what the parts need of the whole

    def _may_connect(self) -> None:
        if not self._running:
            raise CommandFailed(Ecode.STOPPING, "the server is stopping; try again later")
        if len(self.sessions) >= self._config.limits.connections:
            raise CommandFailed(Ecode.STOPPING, "the server has as many connections as it takes; try again later")

    def _in_thread(self, function: Any, *args: Any) -> Deferred[Any]:
        if self._pool is None:
            # One thread: of two files for the same storage configuration, the one that came last must win.
            self._pool = ThreadPool(0, 1, "devconf files")
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, function, *args)

    def _prune(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._remove_old()).addErrback(
            lambda failure: self._log.failure("what is old could not be removed", failure)
        )

    async def _remove_old(self) -> None:
        await self.auth.prune()
        limits = self._config.limits
        before = self._seams.now() - limits.history_days * 86400
        while self._running and await self.store.run(journal.prune, before, limits.history_commands):
            pass


def with_backlog(description: str) -> str:
    """Return the endpoint ``description`` with room for many connections to wait, unless it says how many."""
    kind = description.partition(":")[0]
    if kind in ("tcp", "tcp6", "ssl", "tls", "unix") and ":backlog=" not in description:
        return f"{description}:backlog={BACKLOG}"
    return description
