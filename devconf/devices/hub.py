"""The devices that are connected.

The newest connection of a device is the only one that counts: an older one is closed (4001), and what comes on it is
dropped. Only where two boxes with one identity throw each other out the one that is there stays
(:mod:`devconf.devices.duplicates`). How orders are made and retried is :mod:`devconf.devices.delivery`'s.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from attrs import define, field
from msgspec import UNSET, Struct, UnsetType
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from devconf import sessions, wire
from devconf.clock import Now, Random
from devconf.devices.duplicates import RETRY_AFTER, Duplicates
from devconf.devices.link import IHub, Link
from devconf.devices.pending import Withdrawn
from devconf.errors import CommandFailed, Ecode
from devconf.events import Events
from devconf.model import Identity
from devconf.pages import Pages
from devconf.sparing import SparingLog
from devconf.store import Store, answers, complain, outbox

#: A page of a device's own ``get tasks`` ends once its contents pass so many bytes.
PAGE_BYTES = 1024 * 1024
#: Requests of its own that a device may have in flight.
ASKING = 4


class IDelivery(Interface):
    """What the hub tells the delivery of orders."""

    def connected(link: Link) -> None:
        """A device is connected and may be sent to."""

    def lost(link: Link) -> None:
        """Its connection was lost, and the server had no part in that; :meth:`disconnected` follows."""

    def disconnected(link: Link) -> None:
        """It no longer is."""

    def has_room(link: Link) -> None:
        """It may be sent more."""

    def drained(link: Link) -> None:
        """It has read what was sent."""

    def answered_late(link: Link, order: Any, answer: wire.DeviceAnswer) -> None:
        """An ``order`` that was remembered by the link has been answered."""


class GetTasks(Struct, forbid_unknown_fields=True):
    """The params of a device's own ``get tasks``."""

    limit: wire.Limit = 100
    after: str | UnsetType = UNSET


@implementer(IHub)
@define(eq=False)
class Hub:
    """The connections by device.

    :ivar clock: monotonic.
    :ivar events: told when a device connects or disconnects.
    :ivar window: messages that may be outstanding on one connection.
    :ivar dropped: messages of devices that answered nothing that was asked.
    :ivar duplicates: the devices of which there are two boxes.
    :ivar pages: what devices have asked for that they should have.
    """

    _log = Logger()

    clock: IReactorTime
    _now: Now
    _random: Random
    _store: Store
    events: Events
    window: int
    delivery: Any = field(default=None, init=False)  # IDelivery
    dropped: int = field(default=0, init=False)
    duplicates: Duplicates = field(init=False)
    pages: Pages = field(init=False)
    _links: dict[str, Link] = field(factory=dict, init=False)
    _req_ids: Any = field(init=False)
    _sparing: SparingLog = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.duplicates = Duplicates(self.clock)
        self.pages = Pages(self.clock)
        self._sparing = SparingLog(self.clock, self._log)
        run = self._random.identifier()
        self._req_ids = (f"{run}-{number}" for number in count(1))

    def next_req_id(self) -> str:
        """Return a ``req_id`` that was never used before, on no connection and in no run of the server."""
        return str(next(self._req_ids))

    # -- connections

    def opened(self, identity: Identity, address: str, transport: Any) -> Link:
        """Take over a connection that has been opened; it is live once the store knows of it.

        :param address: where it comes from, without a port.
        :param transport: an ``IDeviceTransport``.
        :returns: what messages of the device, and the end of the connection, have to be given to.
        """
        link = Link(identity, address, self._now(), transport, self)
        older = self._links.get(link.dev_unid)
        if older is not None and not self._may_replace(older, link):
            link.end()
            transport.close(
                sessions.DUPLICATE, f"another box has this identity and is connected; retry after {RETRY_AFTER} s"
            )
            return link
        self._links[link.dev_unid] = link
        if older is not None:
            self._end(older)
            older.transport.close(sessions.REPLACED, "replaced by a newer connection of this device")
        self._store.run(answers.connect, link.dev_unid).addCallbacks(
            self._connected, self._cannot_connect, callbackArgs=(link,), errbackArgs=(link,)
        )
        return link

    def _may_replace(self, older: Link, link: Link) -> bool:
        known = self.duplicates.other(link.dev_unid) is not None
        if self.duplicates.admits(link.dev_unid, older.address, link.address):
            return True
        if not known:
            self._log.warn(
                "there are two boxes with the identity of {name} ({device}), which throw each other out: the one at "
                "{held} stays, the one at {address} is kept out; give each its own dev_refid and key",
                name=link.identity.name,
                device=link.dev_unid,
                held=older.address,
                address=link.address,
            )
            self._tell(link, "duplicate")
        return False

    def _connected(self, connected: answers.Connected | None, link: Link) -> None:
        if link.gone:
            return
        if connected is None:
            link.transport.close(sessions.NOT_AUTHORISED, "this device is disabled")
            return
        link.epoch = connected.epoch
        link.echoes = connected.echoes
        link.behind = connected.behind
        link.live = True
        self.delivery.connected(link)
        self._tell(link, "connected")

    def _cannot_connect(self, failure: Failure, link: Link) -> None:
        complain(self._log, failure, "a device could not be noted as connected")
        why = sessions.retry_after("the server cannot take this device now", sessions.OVERLOADED_RETRY)
        link.transport.close(sessions.OVERLOADED, why)

    def closed(self, link: Link) -> None:
        """Note the end of a connection."""
        if not link.gone:
            del self._links[link.dev_unid]
            if link.live and not link.transport.ended_here:
                self.delivery.lost(link)
            self._end(link)

    def _end(self, link: Link) -> None:
        live = link.live
        link.end()
        self.pages.taken(link)
        if live:
            self.delivery.disconnected(link)
            self._tell(link, "disconnected")

    def _tell(self, link: Link, change: str) -> None:
        self.events.publish("devices", {"dev_unid": link.dev_unid, "dev_refid": link.identity.name, "change": change})

    def stop(self) -> None:
        """Let go of the connections that are left."""
        while self._links:
            _, link = self._links.popitem()
            self._end(link)

    def __contains__(self, dev_unid: object) -> bool:
        """Tell whether a device is online. The store's thread asks this too: one look-up in a dict."""
        link = self._links.get(dev_unid)  # type: ignore[call-overload]
        return link is not None and link.live

    @property
    def online(self) -> int:
        """How many devices are online."""
        return sum(link.live for link in self._links.values())

    def get(self, dev_unid: str) -> Link | None:
        """Return the live connection of ``dev_unid``."""
        link = self._links.get(dev_unid)
        return link if link is not None and link.live else None

    # -- requests

    def call(self, dev_unid: str, command: str, params: Any, timeout: float, asker: Any) -> Deferred[wire.DeviceAnswer]:
        """Pass a request through (``devices/call``).

        :param timeout: seconds, for its turn and its answer together.
        :param asker: an ``Asker``: who waits for it.
        :returns: fires with what the device answers; fails with ``NoAnswer`` or ``ConnectionGone``, and if it was not
            sent with ``CommandFailed``: ``OFFLINE``; ``TOO_MANY`` wait already; ``SILENT``: its turn has not come; or
            with ``Withdrawn``: who asked went away before its turn.
        """
        link = self.get(dev_unid)
        if link is None:
            return fail(CommandFailed(Ecode.OFFLINE, f"the device {dev_unid} is offline"))
        try:
            return link.call(command, params, timeout, asker)
        except (CommandFailed, Withdrawn) as failure:
            return fail(failure)

    # -- what links tell: IHub

    def has_room(self, link: Link) -> None:
        """See :class:`IHub`."""
        self.delivery.has_room(link)

    def drained(self, link: Link) -> None:
        """See :class:`IHub`."""
        self.delivery.drained(link)
        self.pages.taken(link)

    def answered_late(self, link: Link, order: Any, answer: wire.DeviceAnswer) -> None:
        """See :class:`IHub`."""
        self.delivery.answered_late(link, order, answer)

    def learn_echo(self, link: Link) -> None:
        """See :class:`IHub`."""
        self._store.run(answers.learn_echo, link.dev_unid).addErrback(
            lambda failure: complain(self._log, failure, "a device's echo could not be noted")
        )

    def drop(self, link: Link, why: str) -> None:
        """See :class:`IHub`."""
        self.dropped += 1
        self._sparing.info("a message of {device} was dropped: {why}", device=link.dev_unid, why=why)

    def asked(self, link: Link, message: dict[str, Any]) -> bool:
        """See :class:`IHub`. A device may ``get tasks``, and nothing else (§6)."""
        echoed = wire.echo(message)
        try:
            request = wire.request_of(message)
            method, _, path = request.command.partition(" ")
            if (method.lower(), path) != ("get", wire.PREFIX + "tasks"):
                raise CommandFailed(Ecode.FORBIDDEN, "a device may `get tasks`, and nothing else")
            params = wire.convert(request.params, GetTasks, "$.params")
            if link.asking >= ASKING:
                raise CommandFailed(Ecode.TOO_MANY, "too many requests of this device are in flight")
        except CommandFailed as failure:
            link.reply(echoed, {"ecode": failure.ecode, "enote": failure.enote})
            return False
        after = None if isinstance(params.after, UnsetType) else params.after

        def make() -> Deferred[bytes]:
            page = self._store.run(outbox.holds, link.dev_unid, after, params.limit, PAGE_BYTES)
            return page.addCallback(_encoded, echoed)

        def told(result: Any) -> Any:
            link.asking -= 1
            return result

        link.asking += 1
        self.pages.answer(link, make, link.transport.send).addBoth(told).addErrback(self._cannot_tell, link, echoed)
        return True

    def _cannot_tell(self, failure: Failure, link: Link, echoed: dict[str, Any]) -> None:
        error = failure.value
        if isinstance(error, CommandFailed):
            link.reply(echoed, {"ecode": error.ecode, "enote": error.enote})
        else:
            self._log.failure("a device's tasks could not be read", failure)
            link.reply(echoed, {"ecode": Ecode.INTERNAL, "enote": "internal error; see the server's log"})


def _encoded(page: tuple[list[Any], str | None], echoed: dict[str, Any]) -> bytes:
    return wire.encode_response(echoed, {"ecode": 0, "enote": "ok", "tasks": page[0], "next": page[1]})
