"""The whole as one service: a child of any ``MultiService``, on any reactor."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

from attrs import define
from twisted.application.service import MultiService
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource

from devconf import sessions as close_codes
from devconf.auth import Auth
from devconf.clock import Now, Random
from devconf.commands.arrivals import Arrivals
from devconf.commands.calls import CallCommands
from devconf.commands.devices import DeviceCommands
from devconf.commands.history import HistoryCommands
from devconf.commands.keys import Keys
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
from devconf.errors import RETRY_AFTER, CommandFailed, Ecode, StartupError, StoreFailed
from devconf.events import Events
from devconf.model import Identity
from devconf.operators import host
from devconf.operators.protocol import OperatorFactory
from devconf.pages import Pages
from devconf.passwords import ThreadedPasswords
from devconf.sessions import Sessions
from devconf.store import Store, backup, complain, journal, keys
from devconf.store.writer import ThreadRunner
from devconf.threads import Threads
from devconf.web import listening
from devconf.web.channel import BoundedSite
from devconf.web.metrics import MetricsResource, Parts
from devconf.web.mirror import Mirror
from devconf.web.openapi import Descriptions
from devconf.web.site import Root, make_app
from devconf.web.upgrade import Upgrade
from devconf.web.ways_in import REGISTER_MAX, WaysIn

PRUNE_EVERY = 3600.0
#: Seconds that a stopping server waits for devices to answer what commands wait for.
DRAIN_WITHIN = 15.0
#: Seconds that a stopping server waits for its connections to close.
STOP_WITHIN = 5.0

# Alembic's context is one for the whole process: services that open at the same time would migrate each other's
# databases.
_opening = DeferredLock()


@define
class Seams:
    """What tests and simulations replace.

    :ivar clock: monotonic; waits and retries.
    :ivar now: the wall clock; stamps and expiries.
    :ivar runner: an ``IRunner``: how the store runs its functions.
    :ivar passwords: an ``IPasswords``.
    :ivar in_thread: runs a function that takes long; what was asked for first is done first.
    :ivar copying: the same for backups, which may take so long that nothing else may wait for them.
    """

    clock: IReactorTime
    now: Now
    random: Random
    runner: Any
    passwords: Any
    in_thread: InThread
    copying: InThread


class DevconfService(MultiService):
    """One server.

    :ivar resource: what it serves over HTTP and WebSocket, for an existing ``twisted.web`` site.
    :ivar metrics: its figures for Prometheus, likewise; whoever reaches it may read them.
    """

    _log = Logger()

    def __init__(self, reactor: Any, config: Config, seams: Seams | None = None, *, now: Now = time.time) -> None:
        """Wire everything; nothing is opened or listened on before ``startService``.

        :param reactor: any; it has to be able to call from threads.
        :param config: of one made in code, ``listen`` may be empty, and ``public_url`` may have a path.
        :param now: the wall clock. It is not taken from the reactor, whose time may be monotonic.
        """
        super().__init__()
        self._reactor = reactor
        self._config = config
        self._threads: list[Threads] = []
        self._running = False
        self._ports: list[IListeningPort] = []
        self._sites: list[BoundedSite] = []
        self._refused: Counter[str] = Counter()
        self._starting: Deferred[Any] = defer.succeed(None)
        self._ended = False
        self._stopping = DeferredLock()
        self._failure: Failure | None = None
        self._await_ready: list[Deferred[Any]] = []
        self._await_failure: list[Deferred[Any]] = []
        self._pruning = LoopingCall(self._prune)
        if seams is None:
            # One thread each: of two files for the same storage configuration, the one that came last must win.
            self._threads = [Threads(reactor, "devconf files", 1), Threads(reactor, "devconf backups", 1)]
            in_thread, copying = (threads.run for threads in self._threads)
            passwords = ThreadedPasswords(reactor)
            seams = Seams(reactor, now, Random(), ThreadRunner(reactor), passwords, in_thread, copying)
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
        self.arrivals = Arrivals(clock, self.store, self.hub, self.events)
        self.machine = Machine(
            clock, seams.now, seams.random, self.store, self.events, self.hub, self.delivery, self.locks, self.arrivals
        )
        self.registry = Registry(clock, seams.random, Keys(self.store, seams.now), config.tolerated_params)
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
        self.pages = Pages(clock)
        self.operators = OperatorFactory(clock, limits, self.registry, self.sessions, self.events, self.pages)
        self.devices = DeviceFactory(clock, limits, self.hub, self.sessions)
        upgrade = Upgrade(self.auth, self.operators, self.devices, config.trusted_proxies, self._may_connect)
        ways_in = WaysIn(self.auth, self.store, config, lambda: self._running)
        mirror = Mirror(
            self.auth,
            self.sessions,
            self.registry,
            lambda: self._running,
            limits.operator_message_max,
            lambda: seams.copying(backup.copy, config.database, lambda: self._ended),
            self.pages,
        )
        app = make_app([ways_in, mirror, Descriptions(self.registry)], self.registry.answered)
        self.resource = Root(app, upgrade, lambda: self._running)
        factories = {"operator": self.operators, "device": self.devices}
        self.metrics = MetricsResource(
            Parts(self.store, self.hub, self.delivery, self.registry, self.locks, self.pages, factories, self._refused)
        )

    # -- starting and stopping

    def startService(self) -> None:
        """Open the store, settle what a crash has left, and then listen. See :meth:`when_ready`.

        A service starts once: after ``stopService``, or a start that failed, it fails to.
        """
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start_or_release())

    async def _start_or_release(self) -> None:
        try:
            if self._ended:
                raise StartupError("this DevconfService has ended; make a new one to start again")
            await self._start()
        except Exception:
            failure = Failure()
            # The host goes on without us: what was opened before it failed is let go of.
            await self._release()
            self._fail(failure)

    async def _start(self) -> None:
        await _opening.run(self.store.open)
        self.store.when_broken().addErrback(self._fail)
        recovered = await self.machine.recover(lambda: self._ended)
        if recovered:
            self._log.info("settled {count} commands that were under way when the server ended", count=recovered)
        if self._ended:
            return
        self.delivery.start()
        self._running = True
        await self._serve(self.resource, "listen", self._config.listen)
        metrics = Resource()
        metrics.putChild(b"metrics", self.metrics)
        await self._serve(metrics, "metrics", self._config.metrics)
        if not self._running:  # it was stopped, or the database has failed
            return
        self._pruning.start(PRUNE_EVERY, now=False)
        self._log.info("ready")
        while self._await_ready:
            self._await_ready.pop(0).callback(None)

    async def _serve(self, resource: IResource, key: str, descriptions: tuple[str, ...]) -> None:
        limits = self._config.limits
        site = BoundedSite(
            resource,
            self._reactor,
            max(limits.operator_message_max, REGISTER_MAX),
            limits.connections_per_address_before_login,
            self._config.trusted_proxies,
            self._refused,
            self.registry.answered,
        )
        self._sites.append(site)
        for description in descriptions:
            if not self._running:
                return
            try:
                self._ports.append(await listening.listen(self._reactor, description, site))
            except Exception as error:
                # An endpoint may read certificates, a file descriptor that was handed down, or a folder.
                reason = error.socketError if isinstance(error, CannotListenError) else error
                raise StartupError(f"cannot listen on {description}: {reason}; see `{key}`") from None

    def _fail(self, failure: Failure) -> None:
        self._running = False
        observers = [*self._await_ready, *self._await_failure]
        self._await_ready, self._await_failure, self._failure = [], [], failure
        for observer in observers:
            observer.errback(failure)
        if not observers and failure.check(StartupError):
            self._log.critical("devconf cannot start: {error}", error=str(failure.value))
        elif not observers and failure.check(StoreFailed):
            self._log.critical("devconf cannot go on: {error}", error=str(failure.value))
        elif not observers:
            self._log.failure("devconf cannot go on", failure)

    @property
    def ready(self) -> bool:
        """Whether commands are taken."""
        return self._running

    def when_ready(self) -> Deferred[None]:
        """Wait until commands are taken; may be called before ``startService``.

        :returns: fires with None; fails as :meth:`when_failed` does, and with ``StartupError`` if the service is
            stopped before.
        """
        if self._running and self._starting.called:
            return defer.succeed(None)
        return self._failed_or(self._await_ready)

    def when_failed(self) -> Deferred[NoReturn]:
        """Wait for a failure. If nobody does, it is logged.

        :returns: fails with what has made the service unable to start (``StartupError``), or to go on; never fires.
            One that could not start has let go of all it had; one that cannot go on has to be stopped.
        """
        return self._failed_or(self._await_failure)

    def _failed_or(self, observers: list[Deferred[Any]]) -> Deferred[Any]:
        if self._failure is not None:
            return defer.fail(self._failure)
        observer: Deferred[Any] = Deferred()
        observers.append(observer)
        return observer

    def stopService(self) -> Deferred[None]:
        """Stop listening, let commands that run end, close all connections (1001), and then the store.

        :returns: fires when all is done, after half a minute at most; so does that of a second call.
        """
        # At once: what begins to listen looks at it, and what a crash has left may not be settled yet.
        self._running, self._ended = False, True
        self.registry.stop()
        return self._stopping.run(self._stop)

    async def _stop(self) -> None:
        await self._starting
        await defer.maybeDeferred(MultiService.stopService, self)
        await self._release()
        while self._await_ready:
            self._await_ready.pop().errback(StartupError("the service was stopped before it was ready"))

    async def _release(self) -> None:
        self._running, self._ended = False, True
        for port in self._ports:
            await defer.maybeDeferred(port.stopListening)
        self._ports.clear()
        if self._pruning.running:
            self._pruning.stop()
        await self._drain()
        reason = close_codes.retry_after("the server is stopping", RETRY_AFTER)
        self.sessions.end_all(close_codes.GOING_AWAY, reason)
        for site in self._sites:
            site.finish()
        await self._until(lambda: not len(self.sessions) and self._all_left(), STOP_WITHIN)
        for site in self._sites:
            site.cut()
        await self._until(self._all_left, STOP_WITHIN)
        self.delivery.stop()
        self.hub.stop()
        self.machine.stop()
        await defer.gatherResults([each.stop() for each in (self._seams.passwords, *self._threads)])
        await self.store.close()

    def _all_left(self) -> bool:
        return not any(site.connections for site in self._sites)

    async def _drain(self) -> None:
        """Take no more requests, and let those that run get their answers."""
        self.registry.stop()
        self.pages.stop()
        self.arrivals.stop()
        self.locks.stop()
        # Of a store that has failed no answer is to be had.
        if self._failure is None:
            await self._until(lambda: not self.registry.running, DRAIN_WITHIN)
            if self.registry.running:
                self.delivery.end_waits()
                await self._until(lambda: not self.registry.running, STOP_WITHIN)
        self.registry.abandon()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = self._seams.clock.seconds() + seconds
        while not condition() and self._seams.clock.seconds() < deadline:
            waited: Deferred[None] = Deferred()
            self._seams.clock.callLater(0.05, waited.callback, None)
            await waited

    # -- in the host's own code

    def request(
        self,
        command: str,
        params: dict[str, Any] | None = None,
        *,
        identity: Identity = host.HOST,
        progress: Callable[[int, int], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Deferred[dict[str, Any]]:
        """Run a command of §4 without a connection: the same checks, locks and history as on one.

        :param command: ``<method> <resource>``, such as ``get tasks``.
        :param params: what JSON can say.
        :param identity: who asks. Its role counts, and the history shows its ``unid`` and ``name``; they need not be
            those of an account.
        :param progress: called with how much is done, and of how much, whenever that changes.
        :param idempotency_key: by which a change that is asked for again is not made again (§2).
        :returns: fires with the response but for ``command``, whatever its ``ecode`` is; never fails. When the service
            stops before there is one, that is ``STOPPING``. Cancelling it ends the waiting, not the command.
        :raises TypeError: ``params`` is nothing that JSON can say.
        """
        if not self._running and not self._ended:
            stopped = {"ecode": int(Ecode.STOPPING), "enote": "the server is not running yet; ask again when it is"}
            return defer.succeed(stopped)
        return host.ask(self.registry, command, params or {}, identity, progress, idempotency_key)

    # -- what the parts need of the whole

    def _may_connect(self) -> None:
        if not self._running:
            raise CommandFailed(Ecode.STOPPING, "the server is stopping; try again later")
        if len(self.sessions) >= self._config.limits.connections:
            raise CommandFailed(Ecode.STOPPING, "the server has as many connections as it takes; try again later")

    def _prune(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._remove_old()).addErrback(
            lambda failure: complain(self._log, failure, "what is old could not be removed")
        )

    async def _remove_old(self) -> None:
        await self.auth.prune()
        limits = self._config.limits
        before = self._seams.now() - limits.history_days * 86400
        while self._running and await self.store.run(journal.prune, before, limits.history_commands):
            pass
        while self._running and await self.store.run(keys.prune, self._seams.now()):
            pass
