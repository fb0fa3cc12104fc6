"""What a device in Python uses: it logs in, connects, carries out orders, and comes back (``docs/protocol.md`` §6).

    device = Device(reactor, url, "cam-17", key, Application(), journal=Journal("/var/lib/cam/journal.json"))
    device.start()

server -> device  {"command", "req_id", "src_page", "params"}
device -> server  {"req_id", "ecode", "enote", ...}
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import msgspec
from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, fail, maybeDeferred
from twisted.logger import Logger
from zope.interface import Interface

from devconf import wire
from devconf.connection import Client, Disconnected, call, open_client
from devconf.device_journal import DELETED_KEPT, Journal, Key
from devconf.errors import CommandFailed, Ecode
from devconf.staying import Staying
from devconf.ways_in import TOKEN_ENDED, Login, Message, RequestFailed, Server

__all__ = ["DELETED_KEPT", "Device", "IApplication", "Journal", "Key", "Order", "Refuse"]

#: Seconds that the server may take to answer a request of the device.
ANSWER_WITHIN = 60.0
#: Messages that are being answered: what comes beyond them is dropped, and sent again by the server some day.
BUSY_MAX = 256
#: Bytes of an answer: by default (§7) the server takes no more of a device, and closes the connection.
ANSWER_MAX = 262144
#: Characters of an ``enote``: the server keeps no more.
ENOTE_MAX = 500

#: The connection is closed because the device is not, or no longer, authorised (§6).
_NOT_AUTHORISED = 1008

_KINDS: dict[str, Literal["add", "modify", "delete"]] = {
    f"post {wire.PREFIX}tasks": "add",
    f"put {wire.PREFIX}tasks": "modify",
    f"delete {wire.PREFIX}tasks": "delete",
}

_log = Logger()


class Refuse(Exception):
    """Raised by an application that does not take an order; nothing of it may have been taken.

    :ivar ecode: for the operator; not 0.
    :ivar enote: why, for people.
    :raises ValueError: the ``ecode`` is 0.
    """

    def __init__(self, ecode: int, enote: str) -> None:
        if ecode == 0:
            raise ValueError("a refusal needs an ecode that is not 0")
        super().__init__(ecode, enote)
        self.ecode = ecode
        self.enote = enote


@frozen
class Order:
    """What the server wants of a task or subtask.

    :ivar subtask_id: None: the task itself.
    :ivar rev: grows with each order for the same task or subtask.
    :ivar params: the whole ``params`` of the message. To add: all that belongs to it; to modify: the parts ``name``,
        ``algo_comb`` and ``store_conf`` that change (``store_conf`` may be null: none).
    """

    kind: Literal["add", "modify", "delete"]
    task_id: str
    subtask_id: str | None
    rev: int
    params: Message


class IApplication(Interface):
    """What a device does. All methods may return a Deferred or be coroutines.

    The three for orders return None or ``(0, enote)`` once the order has been carried out for good, and refuse with
    :class:`Refuse`, or another ecode than 0. They may be called again for what has been done already: the device may
    have been cut off before it could note it. Orders for one task or subtask come one after another.
    """

    def add(order: Order) -> Any:
        """Have a task or subtask; what is there of the same id is replaced."""

    def modify(order: Order) -> Any:
        """Change the parts that are in the order."""

    def delete(order: Order) -> Any:
        """Have it no longer; it may be unknown."""

    def call(command: str, params: Message) -> Any:
        """Take any other command (``devices/call``).

        :returns: None, or a dict: further fields of the answer.
        """


class _Params(msgspec.Struct):
    task_id: str
    rev: int
    subtask_id: str | None = None


def _report(what: str) -> None:
    _log.info("{what}", what=what)


@define(eq=False)
class Device:
    """A device, from :meth:`start` to :meth:`stop`.

    :ivar _reactor: for connections and waits.
    :ivar _url: the server's address, as for :func:`devconf.client.connect`.
    :ivar _dev_key: what ``post devices`` gave; empty: an old device that has none.
    :ivar _application: an :class:`IApplication`.
    :ivar _algos: what it can run; None: it does not say, and is taken to run anything.
    :ivar _journal: which orders were carried out; by default forgotten with the process, and then all is sent again.
    :ivar _report: told each event of the connection, as a line for people.
    :ivar _fraction: returns a random float in [0, 1), for waits.
    """

    _reactor: Any
    _url: str
    _dev_refid: str
    _dev_key: str
    _application: Any
    _dev_type: str = field(default="", kw_only=True)
    _dev_name: str = field(default="", kw_only=True)
    _algos: list[str] | None = field(default=None, kw_only=True)
    _journal: Journal = field(factory=Journal, kw_only=True)
    _report: Callable[[str], None] = field(default=_report, kw_only=True)
    _fraction: Callable[[], float] = field(default=random.random, kw_only=True)
    _login: Login | None = field(default=None, init=False)
    _client: Client | None = field(default=None, init=False)
    _staying: Staying | None = field(default=None, init=False)
    _busy: set[Deferred[None]] = field(factory=set, init=False)
    _turns: dict[Key, _Turn] = field(factory=dict, init=False)

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost, until :meth:`stop`. Started already is fine.

        A wrong key is reported, and tried again ever more seldom: it may be put right at the server.
        """
        if self._staying is None:
            if self._journal.trouble:
                call(self._report, self._journal.trouble)
            self._staying = Staying(self._reactor, self._fraction, self._connect, self._lost, self._failed)
            self._staying.start()

    def stop(self) -> Deferred[None]:
        """Disconnect. What is being carried out is cancelled: it was not answered, and comes again some day.

        :returns: fires with None when the connection is closed; never fails.
        """

        async def run() -> None:
            client, self._client = self._client, None
            staying, self._staying = self._staying, None
            if staying is not None:
                staying.stop()
            for busy in list(self._busy):
                busy.cancel()
            if client is not None:
                await client.close()

        return Deferred.fromCoroutine(run())

    def get_tasks(self) -> Deferred[list[Message]]:
        """Ask the server for all that this device should have.

        :returns: fires with a list, each item as the ``params`` of an order to add; fails with :class:`Disconnected`,
            :class:`RequestFailed` or :class:`devconf.client.NoResponse`.
        """
        client = self._client
        if client is None:
            return fail(Disconnected(1006, "the device is not connected"))

        async def run() -> list[Message]:
            tasks: list[Message] = []
            params: Message = {}
            while True:
                page = await client.request("get tasks", params, timeout=ANSWER_WITHIN)
                tasks += page["tasks"]
                if page.get("next") is None:
                    return tasks
                params = {"after": page["next"]}

        return Deferred.fromCoroutine(run())

    # -- the connection

    def _lost(self, ending: Disconnected) -> None:
        self._client = None
        for turn in self._turns.values():
            turn.give_up()
        if ending.code == _NOT_AUTHORISED:
            self._login = None
        call(self._report, str(ending))

    def _failed(self, failure: Exception) -> None:
        call(self._report, f"cannot connect: {failure}")

    async def _connect(self) -> Client:
        server = Server(self._reactor, self._url)
        known = self._login is not None
        try:
            self._client = await self._enter(server)
        except RequestFailed as failure:
            if failure.ecode not in TOKEN_ENDED:
                raise
            self._login = None
            # A token that was fresh is not better the next time: that has to wait.
            if not known:
                raise
            self._client = await self._enter(server)
        call(self._report, "connected")
        return self._client

    async def _enter(self, server: Server) -> Client:
        if self._login is None:
            account = {"user_type": "dev", "dev_refid": self._dev_refid}
            if self._dev_key:
                account["dev_key"] = self._dev_key
            self._login = await server.log_in(account)
        description: Message = {
            "dev_refid": self._dev_refid,
            "dev_type": self._dev_type,
            "dev_name": self._dev_name,
            "tasks": self._journal.tasks(),
        }
        if self._algos is not None:
            description["algos"] = self._algos
        await self._register(server, self._login, description)
        return await open_client(self._reactor, await server.ws_url(self._login), other=self._take)

    async def _register(self, server: Server, login: Login, description: Message) -> None:
        try:
            await server.register(login, description)
        except RequestFailed as failure:
            if failure.ecode != Ecode.TOO_LARGE or not description.pop("tasks"):
                raise
            call(self._report, f"the server does not take the list of tasks, and goes by the answers: {failure}")
            await server.register(login, description)

    # -- orders

    def _take(self, client: Client, message: Message) -> None:
        if self._staying is None:
            return
        command, params = message.get("command"), message.get("params")
        if not isinstance(command, str) or not isinstance(params, dict):
            _log.debug("a message that asks nothing was dropped, with {fields}", fields=sorted(message))
            return
        if len(self._busy) >= BUSY_MAX:
            _log.warn("{command} was dropped: {count} others are under way", command=command, count=BUSY_MAX)
            return
        req_id, kind = message.get("req_id"), _KINDS.get(command)
        if kind is None:
            work = self._answer(client, req_id, command, partial(self._call, command, params))
        else:
            work = self._take_turn(client, req_id, command, partial(_order, kind, params))
        busy = Deferred.fromCoroutine(work)
        self._busy.add(busy)
        busy.addErrback(_trap_cancelled).addErrback(lambda failure: _log.failure("an order went wrong", failure))
        busy.addCallback(lambda _: self._busy.discard(busy))

    async def _answer(self, client: Client, req_id: Any, command: str, work: Callable[[], Awaitable[Message]]) -> None:
        try:
            payload = _encode(req_id, await work())
        except (Refuse, CommandFailed) as refusal:
            payload = _encode(req_id, {"ecode": refusal.ecode, "enote": refusal.enote})
        except CancelledError:
            raise
        except Exception:
            _log.failure("{command} failed", command=command)
            payload = _encode(req_id, {"ecode": Ecode.INTERNAL, "enote": "internal error of the device; see its log"})
        # On the connection that it came on: on another it would answer nothing.
        client.send(payload)

    async def _call(self, command: str, params: Message) -> Message:
        return {"ecode": 0, "enote": "ok"} | (await maybeDeferred(self._application.call, command, params) or {})

    async def _take_turn(self, client: Client, req_id: Any, command: str, read: Callable[[], Order]) -> None:
        try:
            order = read()
        except CommandFailed as wrong:
            client.send(_encode(req_id, {"ecode": wrong.ecode, "enote": wrong.enote}))
            return
        key = (order.task_id, order.subtask_id)
        turn = self._turns.setdefault(key, _Turn())
        await turn.take()
        try:
            await self._answer(client, req_id, command, partial(self._carry_out, order, key))
        finally:
            # The next one may have been carried out meanwhile, and have made room for another.
            if turn.end() and self._turns.get(key) is turn:
                del self._turns[key]

    async def _carry_out(self, order: Order, key: Key) -> Message:
        last = self._journal.rev(key)
        if last is not None and order.rev < last:
            return {"ecode": Ecode.STALE_REV, "enote": f"rev {order.rev} is older than mine, {last}", "rev": last}
        if order.rev == last:
            return {"ecode": 0, "enote": "ok"}
        if order.kind == "modify" and not self._journal.has(key):
            if order.subtask_id is None:
                raise Refuse(Ecode.NO_SUCH_TASK, f"no such task here: {order.task_id!r}")
            raise Refuse(Ecode.NO_SUCH_SUBTASK, f"no such subtask here: {order.subtask_id!r}")
        ecode, enote = await maybeDeferred(getattr(self._application, order.kind), order) or (0, "ok")
        # What was refused was not acted on, so that it is tried when it comes again.
        if ecode == 0:
            self._journal.note(key, order.rev, present=order.kind != "delete")
        return {"ecode": ecode, "enote": enote}


class _Turn:
    """Orders for one task or subtask: one is carried out, and the newest of the others waits.

    A newer one comes when the server has given up waiting for the answer to the older. What waits on a connection
    that is lost is given up too: nobody would hear its answer, and it comes again.
    """

    def __init__(self) -> None:
        self._lock = DeferredLock()
        self._newest: Deferred[Any] | None = None

    def take(self) -> Deferred[Any]:
        self.give_up()
        self._newest = self._lock.acquire()
        return self._newest

    def give_up(self) -> None:
        if self._newest is not None:
            self._newest.cancel()

    def end(self) -> bool:
        """End a turn; tell whether nobody waits."""
        self._lock.release()
        return not self._lock.locked


def _encode(req_id: Any, answer: Message) -> bytes:
    if isinstance(answer.get("enote"), str):
        answer = {**answer, "enote": answer["enote"][:ENOTE_MAX]}
    payload = wire.encode({"req_id": req_id} | answer | {"req_id": req_id})
    if len(payload) > ANSWER_MAX:
        note = f"the answer of the device has {len(payload)} bytes; at most {ANSWER_MAX} are taken"
        return wire.encode({"req_id": req_id, "ecode": Ecode.TOO_LARGE, "enote": note})
    return payload


def _order(kind: Literal["add", "modify", "delete"], params: Message) -> Order:
    known = wire.convert(params, _Params, "$.params")
    return Order(kind, known.task_id, known.subtask_id, known.rev, params)


def _trap_cancelled(failure: Any) -> None:
    failure.trap(CancelledError)
