"""Waiting for devices that are offline now (``connect_wait``, ``docs/protocol.md`` §4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from devconf.commands.asker import Asker, Dropped
from devconf.devices.hub import Hub
from devconf.errors import CommandFailed, Ecode
from devconf.events import Event, Events
from devconf.store import Store, devices

#: Devices that commands wait for at once, each counted as often as it is waited for.
AWAITED_AT_MOST = 200_000

#: Returns the devices that a command concerns, as it is stored now.
Concerned = Callable[[Connection], Iterable[str]]


@define(eq=False)
class _Waiter:
    dev_unids: set[str]
    missing: set[str]
    done: Deferred[None] = field(factory=Deferred)

    def found(self, dev_unid: str) -> None:
        """Wait for ``dev_unid`` no longer, unless it goes away."""
        self.missing.discard(dev_unid)
        if not self.missing:
            self.end()

    def end(self, result: Failure | None = None) -> None:
        if not self.done.called:
            self.done.callback(result)


@define(eq=False)
class Arrivals:
    """The commands that wait until their devices are connected.

    :ivar _clock: monotonic.
    """

    _clock: IReactorTime
    _store: Store
    _hub: Hub
    _events: Events
    # By each device that a command waits for, or that has come and may go again.
    _waiters: dict[str, dict[_Waiter, None]] = field(factory=dict, init=False)
    _awaited: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)

    async def wait(self, seconds: float, asker: Asker, concerned: Concerned) -> None:
        """Wait until all devices that are concerned, and enabled, are connected, or the time is over.

        :raises CommandFailed: ``TOO_MANY`` devices are waited for already; ``STOPPING``.
        :raises Dropped: who asked has gone.
        """
        dev_unids = await self._store.run(_enabled, concerned)
        missing = {dev_unid for dev_unid in dev_unids if dev_unid not in self._hub}
        if not missing:
            return
        if asker.gone:
            raise Dropped
        if self._stopped:
            raise _stopping()
        if self._awaited + len(dev_unids) > AWAITED_AT_MOST:
            raise CommandFailed(
                Ecode.TOO_MANY, "too many devices are waited for already; try again later, or without connect_wait"
            )
        waiter = _Waiter(set(dev_unids), missing)
        timer = self._clock.callLater(seconds, waiter.end)

        def leave() -> None:
            waiter.end(Failure(Dropped()))

        asker.observe(leave)
        self._add(waiter)
        try:
            await waiter.done
        finally:
            self._remove(waiter, list(waiter.dev_unids))
            asker.ignore(leave)
            if timer.active():
                timer.cancel()

    def _add(self, waiter: _Waiter) -> None:
        if not self._waiters:
            self._events.subscribe("devices", self._happened)
        for dev_unid in waiter.dev_unids:
            self._waiters.setdefault(dev_unid, {})[waiter] = None
        self._awaited += len(waiter.dev_unids)

    def _remove(self, waiter: _Waiter, dev_unids: Collection[str]) -> None:
        for dev_unid in dev_unids:
            waiter.dev_unids.remove(dev_unid)
            del self._waiters[dev_unid][waiter]
            if not self._waiters[dev_unid]:
                del self._waiters[dev_unid]
        self._awaited -= len(dev_unids)
        if not self._waiters:
            self._events.unsubscribe("devices", self._happened)

    def _happened(self, event: Event) -> None:
        dev_unid, change = event.data["dev_unid"], event.data["change"]
        for waiter in list(self._waiters.get(dev_unid, ())):
            if change == "disconnected":
                waiter.missing.add(dev_unid)
            elif change == "connected":
                waiter.found(dev_unid)

    def excuse(self, dev_unid: str) -> None:
        """Let nobody who waits now wait for ``dev_unid`` any more: it was deleted or disabled, and is about to go."""
        waiters = list(self._waiters.get(dev_unid, ()))
        for waiter in waiters:
            self._remove(waiter, [dev_unid])
        for waiter in waiters:
            waiter.found(dev_unid)

    def stop(self) -> None:
        """Refuse all that wait: the server is stopping."""
        self._stopped = True
        for waiter in dict.fromkeys(waiter for waiters in self._waiters.values() for waiter in waiters):
            waiter.end(Failure(_stopping()))


def _enabled(connection: Connection, concerned: Concerned) -> list[str]:
    return devices.enabled_among(connection, list(dict.fromkeys(concerned(connection))))


def _stopping() -> CommandFailed:
    return CommandFailed(Ecode.STOPPING, "the server is stopping; nothing was done: try again later")
