"""What a device in Python uses: it logs in, connects, carries out orders, and comes back (``docs/protocol.md`` §6).

    device = Device(reactor, url, "cam-17", key, Application(), journal=Journal("/var/lib/cam/journal.json"))
    device.start()

server -> device  {"command", "req_id", "src_page", "params"}
device -> server  {"req_id", "ecode", "enote", ...}
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, fail, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import Interface

from devconf import wire
from devconf.client import Client, Disconnected, Message, open_client
from devconf.dial import CannotConnect, Login, RequestFailed, Server
from devconf.errors import CommandFailed, Ecode

#: Seconds: the wait before the n-th new attempt to connect is random, at most BACKOFF * 2**n and at most BACKOFF_MAX.
BACKOFF = 1.0
BACKOFF_MAX = 60.0
#: Seconds that the server may take to answer a request of the device.
ANSWER_WITHIN = 60.0

#: ``task_id`` and ``subtask_id`` (None: the task itself).
Key = tuple[str, str | None]

#: Deleted tasks and subtasks that a journal remembers, the newest: only what is still on its way can name them.
DELETED_KEPT = 1000

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
    """

    def __init__(self, ecode: int, enote: str) -> None:
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


class Journal:
    """The last ``rev`` acted on for each task and subtask, in a file or, without one, in memory.

    The file is written with each order, through to the disk, in the thread of the caller.

    :param path: the file; what is missing is made.
    :raises ValueError: the file is damaged.
    :raises OSError: it cannot be read.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._present: dict[Key, int] = {}
        self._deleted: dict[Key, int] = {}
        if path is not None and os.path.exists(path):
            self._read(path)

    def _read(self, path: str) -> None:
        with open(path, "rb") as file:
            content = file.read()
        try:
            tables = json.loads(content)
            self._present, self._deleted = (
                {(str(item["task_id"]), item.get("subtask_id")): int(item["rev"]) for item in tables[name]}
                for name in ("tasks", "deleted")
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is no journal of a device; remove it, and the server sends all again") from None

    def rev(self, key: Key) -> int | None:
        """Return the last rev acted on, also of what has been deleted since; None: nothing is known of it."""
        return self._present.get(key, self._deleted.get(key))

    def has(self, key: Key) -> bool:
        """Tell whether the device has it."""
        return key in self._present

    def tasks(self) -> list[dict[str, Any]]:
        """Return what the device has, as the ``tasks`` of ``register`` (§1)."""
        return _items(self._present)

    def note(self, key: Key, rev: int, *, present: bool) -> None:
        """Note that an order has been carried out.

        :param present: the device has it now; else it has been deleted.
        :raises OSError: this could not be written; then it is not noted.
        """
        tables = {name: {k: r for k, r in table.items() if k != key} for name, table in self._tables().items()}
        tables["tasks" if present else "deleted"][key] = rev
        if len(tables["deleted"]) > DELETED_KEPT:
            del tables["deleted"][next(iter(tables["deleted"]))]
        if self._path is not None:
            _write(self._path, json.dumps({name: _items(table) for name, table in tables.items()}).encode())
        self._present, self._deleted = tables["tasks"], tables["deleted"]

    def _tables(self) -> dict[str, dict[Key, int]]:
        return {"tasks": self._present, "deleted": self._deleted}


def _items(table: dict[Key, int]) -> list[dict[str, Any]]:
    return [
        {"task_id": task_id, "rev": rev} | ({} if subtask_id is None else {"subtask_id": subtask_id})
        for (task_id, subtask_id), rev in table.items()
    ]


def _write(path: str, content: bytes) -> None:
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    # The new name is on the disk only when the folder is.
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
    _running: Deferred[None] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _busy: set[Deferred[None]] = field(factory=set, init=False)
    _turns: dict[Key, DeferredLock] = field(factory=dict, init=False)

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost, until :meth:`stop`."""
        self._stopped = False
        self._running = Deferred.fromCoroutine(self._run()).addErrback(_trap_cancelled)

    def stop(self) -> Deferred[None]:
        """Disconnect. What is being carried out is cancelled: it was not answered, and comes again some day.

        :returns: fires with None when the connection is closed; never fails.
        """

        async def run() -> None:
            self._stopped = True
            client, self._client = self._client, None
            if self._running is not None:
                self._running.cancel()
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

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                self._client = client = await self._connect()
                self._report("connected")
                since = self._reactor.seconds()
                ending = await client.when_closed()
                self._client = None
                self._report(str(ending))
                # One that is thrown out again and again has to wait longer each time.
                if self._reactor.seconds() - since >= BACKOFF_MAX:
                    failures = 0
            except (CannotConnect, RequestFailed) as failure:
                # What is cancelled while it connects fails in several ways.
                if self._stopped:
                    return
                self._report(f"cannot connect: {failure}")
            wait = self._fraction() * min(BACKOFF_MAX, BACKOFF * 2 ** min(failures, 16))
            failures += 1
            await deferLater(self._reactor, wait)

    async def _connect(self) -> Client:
        server = Server(self._reactor, self._url)
        known = self._login is not None
        try:
            return await self._enter(server)
        except RequestFailed as failure:
            if failure.ecode not in (Ecode.BAD_TOKEN, Ecode.TOKEN_EXPIRED):
                raise
            self._login = None
            # A token that was fresh is not better the next time: that has to wait.
            if not known:
                raise
        return await self._enter(server)

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
        await server.register(self._login, description)
        return await open_client(self._reactor, await server.ws_url(self._login), self._take)

    # -- orders

    def _take(self, client: Client, message: Message) -> None:
        if not isinstance(message.get("command"), str) or not isinstance(message.get("params"), dict):
            _log.debug("a message that asks nothing was dropped, with {fields}", fields=sorted(message))
            return
        busy = Deferred.fromCoroutine(self._answer(client, message))
        self._busy.add(busy)
        busy.addErrback(_trap_cancelled).addBoth(lambda _: self._busy.discard(busy))

    async def _answer(self, client: Client, message: Message) -> None:
        command, params = message["command"], message["params"]
        try:
            if command in _KINDS:
                answer = await self._carry_out(_order(_KINDS[command], params))
            else:
                answer = {"ecode": 0, "enote": "ok"}
                answer |= await maybeDeferred(self._application.call, command, params) or {}
        except (Refuse, CommandFailed) as refusal:
            answer = {"ecode": refusal.ecode, "enote": refusal.enote}
        except CancelledError:
            raise
        except Exception:
            _log.failure("{command} failed", command=command)
            answer = {"ecode": Ecode.INTERNAL, "enote": "internal error of the device; see its log"}
        # On the connection that it came on: on another it would answer nothing.
        client.send({"req_id": message.get("req_id"), **answer})

    async def _carry_out(self, order: Order) -> Message:
        key = (order.task_id, order.subtask_id)
        turn = self._turns.setdefault(key, DeferredLock())
        await turn.acquire()
        try:
            return await self._in_turn(order, key)
        finally:
            turn.release()
            if not turn.locked:
                self._turns.pop(key, None)

    async def _in_turn(self, order: Order, key: Key) -> Message:
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


def _order(kind: Literal["add", "modify", "delete"], params: Message) -> Order:
    known = wire.convert(params, _Params, "$.params")
    return Order(kind, known.task_id, known.subtask_id, known.rev, params)


def _trap_cancelled(failure: Any) -> None:
    failure.trap(CancelledError)
