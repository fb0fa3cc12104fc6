"""A client that stays: it comes back whenever its connection is lost (``docs/protocol.md`` §1 to §4)."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NoReturn

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf.connection import Client, Disconnected, Events, NoResponse, call, open_client
from devconf.errors import Ecode
from devconf.staying import Staying
from devconf.ways_in import TOKEN_ENDED, CannotConnect, Login, Message, RequestFailed, Server
from devconf.wire import encode

#: Seconds that the server may take to renew the subscriptions.
ANSWER_WITHIN = 30.0
#: Seconds from when a request is first sent until it is sent again no longer: the server keeps a key for twice as long
#: at least.
ASK_AGAIN_WITHIN = 1800.0
#: The close code that says that a message was too large, and bytes that no server finds too many (§7).
TOO_LARGE = 1009
ALWAYS_TAKEN = 65536

_log = Logger()


def _nothing(*_args: Any) -> None:
    pass


def _random_key() -> str:
    return secrets.token_hex(16)


def _log_it(what: str) -> None:
    _log.info("{what}", what=what)


@define(eq=False)
class LastingClient:
    """An operator's connection, from :meth:`start` to :meth:`stop`, and again whenever it is lost.

    It logs in once, and then lives on its tokens: on the ``atoken``, on what ``token`` makes of the ``rtoken``, and
    only when neither is any good on name and password. When these are refused, it ends; see :meth:`when_ended`.
    The pause before each attempt is random (full jitter), at first at most a second, at last at most a minute.

    A request waits for a connection, as long as its ``timeout`` allows; then it is sent. One that was sent and not
    answered when the connection was lost is sent again on the next one. Each change has an ``idempotency_key``, by
    which the server knows it again: it is made once, and not twice.

    :ivar _reactor: for connections and waits.
    :ivar _url: the server's address, as for :func:`devconf.client.connect`.
    :ivar _connected: called whenever there is a connection, once the subscriptions are renewed.
    :ivar _lost: called whenever it was lost, with why.
    :ivar _report: told each event of the connection, failed attempts too, as a line for people; by default logged.
    :ivar _fraction: returns a random float in [0, 1), for pauses.
    :ivar _new_key: returns a key that nobody has used before.
    """

    _reactor: Any
    _url: str
    _user_name: str
    _password: str = field(repr=False)
    _connected: Callable[[], object] = field(default=_nothing, kw_only=True)
    _lost: Callable[[Disconnected], object] = field(default=_nothing, kw_only=True)
    _report: Callable[[str], object] = field(default=_log_it, kw_only=True)
    _fraction: Callable[[], float] = field(default=random.random, kw_only=True)
    _new_key: Callable[[], str] = field(default=_random_key, kw_only=True)
    _server: Server = field(init=False)
    _events: Events = field(factory=Events, init=False)
    _login: Login | None = field(default=None, init=False)
    _client: Client | None = field(default=None, init=False)
    _usable: bool = field(default=False, init=False)
    _staying: Staying | None = field(default=None, init=False)
    _trouble: str = field(default="it was not started", init=False)
    _waiting: list[Deferred[Client]] = field(factory=list, init=False)
    _observers: list[Deferred[None]] = field(factory=list, init=False)
    _ended: Exception | None = field(default=None, init=False)

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost. Started already is fine.

        :raises CannotConnect: the url is no address of a server.
        """
        if self._staying is None:
            self._server = Server(self._reactor, self._url)
            self._ended = None
            self._trouble = "no attempt has ended yet"
            staying = Staying(self._reactor, self._fraction, self._connect, self._was_lost, self._has_failed)
            self._staying = staying
            staying.start().addErrback(self._refused)

    def stop(self) -> Deferred[None]:
        """Close the connection, and come back no more; the tokens are kept for another :meth:`start`.

        What waits for a connection fails with :class:`CannotConnect`, what waits for its response with
        :class:`Disconnected`.

        :returns: fires with None when the connection is closed; never fails.
        """

        async def run() -> None:
            client, self._client = self._client, None
            self._end(None)
            if client is not None:
                await client.close()

        return Deferred.fromCoroutine(run())

    def log_out(self) -> Deferred[None]:
        """Stop, and end the tokens (§1).

        :returns: fires with None; fails with :class:`CannotConnect`, or :class:`RequestFailed`: they may live on.
        """

        async def run() -> None:
            login, self._login = self._login, None
            await self.stop()
            if login is not None:
                await self._server.log_out(login)

        return Deferred.fromCoroutine(run())

    def when_connected(self) -> Deferred[Client]:
        """Wait for a connection.

        :returns: fires with the connection, as long as it lasts; fails with :class:`CannotConnect` when the client
            ends, or has ended.
        """
        if self._ended is not None:
            return fail(CannotConnect(str(self._ended)))
        if self._client is not None and self._usable and self._client.is_open:
            return succeed(self._client)
        waiting: Deferred[Client] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def when_ended(self) -> Deferred[None]:
        """Wait for the end.

        :returns: fires with None after :meth:`stop` and :meth:`log_out`; fails with :class:`RequestFailed`
            (``BAD_CREDENTIALS``) when name or password are refused.
        """
        if isinstance(self._ended, RequestFailed):
            return fail(self._ended)
        if self._ended is not None:
            return succeed(None)
        observer: Deferred[None] = Deferred(self._observers.remove)
        self._observers.append(observer)
        return observer

    def request(
        self,
        command: str,
        params: Message | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Deferred[Message]:
        """Send a command, once there is a connection, and wait for its response (§2, §4).

        When the connection is lost before, it is sent again on the next one, but not half an hour later, and not if
        it may have been what was too large for the server (1009).

        :param command: and the others, as for :meth:`Client.request`.
        :param timeout: seconds to wait, for connections and the response together; without it as long as it takes.
        :param idempotency_key: of a change; without it, it gets one of its own. It has to be given only if it is to be
            known elsewhere, such as by a program that asks again after a restart of its own.
        :returns: fires with the whole response when its ``ecode`` is 0; fails with :class:`RequestFailed` when it is
            not; with :class:`CannotConnect` if it was not sent, because there was no connection in time or the
            client ended; with :class:`Disconnected` or :class:`NoResponse` if it was, and may have been carried out.
        """
        kind = _kind(command)
        key = self._new_key() if idempotency_key is None and kind == "change" else idempotency_key

        async def run() -> Message:
            deadline = self._deadline(timeout)
            client, left = await self._connection(deadline)
            until = float(self._reactor.seconds()) + ASK_AGAIN_WITHIN
            while True:
                try:
                    return await client.request(command, params, progress=progress, timeout=left, idempotency_key=key)
                except Disconnected as lost:
                    if kind == "subscription" or (lost.code == TOO_LARGE and len(encode(params)) > ALWAYS_TAKEN):
                        raise
                    client = await self._connection_after(lost, until if deadline is None else min(until, deadline))
                    left = self._left(deadline)

        return Deferred.fromCoroutine(run())

    def subscribe(
        self,
        topics: Collection[str],
        observer: Callable[[Message], object],
        missed: Callable[[int | None], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[Message]:
        """Ask for events, on this connection and those that follow, until :meth:`unsubscribe`.

        :param topics: and ``observer``, as for :meth:`Client.subscribe`.
        :param missed: called with how many events were dropped by the server; with None when the connection was lost
            and is there again: nobody knows how many. What is asked from then on is as new as the events.
        :param timeout: as for :meth:`request`.
        :returns: fires with the response, once it is in force; fails with :class:`RequestFailed`,
            :class:`CannotConnect` or :class:`NoResponse`, and is not in force then.
        """

        async def run() -> Message:
            deadline = self._deadline(timeout)
            while True:
                client, left = await self._connection(deadline)
                try:
                    return await client.subscribe(topics, observer, missed, timeout=left)
                except Disconnected:
                    pass  # it does no harm to ask this twice

        return Deferred.fromCoroutine(run())

    def unsubscribe(self, topics: Collection[str]) -> Deferred[None]:
        """Ask for the events of ``topics`` no longer; their observers are not called from now on.

        :returns: fires with None when the server knows, or need not know; fails with :class:`RequestFailed`.
        """
        self._events.remove(topics)
        if self._client is None:
            return succeed(None)
        asked = self._client.unsubscribe(topics, timeout=ANSWER_WITHIN)
        return asked.addErrback(_trap_loss).addCallback(lambda _: None)

    # -- waiting

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else float(self._reactor.seconds()) + timeout

    async def _connection(self, deadline: float | None) -> tuple[Client, float | None]:
        """Wait for a connection, and return it with the seconds that are left then."""
        waiting = self.when_connected()
        if deadline is None:
            return await waiting, None

        def too_late(_result: Any, timeout: float) -> NoReturn:
            raise CannotConnect(f"there was no connection within {timeout:g} s: {self._trouble}")

        client = await waiting.addTimeout(self._left(deadline) or 0.0, self._reactor, onTimeoutCancel=too_late)
        return client, self._left(deadline)

    def _left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - self._reactor.seconds())

    async def _connection_after(self, lost: Disconnected, deadline: float) -> Client:
        """Wait for a connection on which to ask once more; if there is none, nobody knows what became of it."""
        try:
            client, _ = await self._connection(deadline)
        except CannotConnect:
            raise lost from None
        return client

    # -- the connection

    async def _connect(self) -> Client:
        self._client = client = await self._enter()
        self._events.begin()
        again = self._events.topics()
        if again:
            try:
                await client.request("post subscriptions", {"topics": again}, timeout=ANSWER_WITHIN)
            except (RequestFailed, NoResponse, Disconnected) as failure:
                self._client = None
                client.close()
                raise CannotConnect(f"the subscriptions cannot be renewed: {failure}") from None
        self._usable = True
        call(self._report, "connected")
        # Any of those that are told may stop this.
        while self._waiting and self._client is client:
            self._waiting.pop(0).callback(client)
        if self._client is client:
            call(self._connected)
        if self._client is client and again:
            self._events.tell_missed(None)
        return client

    async def _enter(self) -> Client:
        if self._login is not None:
            try:
                return await self._open(self._login)
            except RequestFailed as failure:
                if failure.ecode not in TOKEN_ENDED:
                    raise
            await self._renew(self._login)
        if self._login is None:
            account = {"user_type": "user", "user_name": self._user_name, "password": self._password}
            self._login = await self._server.log_in(account)
        return await self._open(self._login)

    async def _renew(self, login: Login) -> None:
        # Whoever uses an rtoken twice is taken for a thief: whatever comes of this, it is used up.
        self._login = None
        if login.rtoken:
            try:
                self._login = await self._server.renew(login)
            except RequestFailed as failure:
                if failure.ecode not in TOKEN_ENDED:
                    raise

    async def _open(self, login: Login) -> Client:
        address = await self._server.ws_url(login)
        leave = partial(self._server.log_out, login)
        return await open_client(self._reactor, address, events=self._events, end_login=leave)

    def _was_lost(self, ending: Disconnected) -> None:
        self._client, self._usable = None, False
        self._trouble = str(ending)
        call(self._report, str(ending))
        call(self._lost, ending)

    def _has_failed(self, failure: Exception) -> None:
        if isinstance(failure, RequestFailed) and failure.ecode == Ecode.BAD_CREDENTIALS:
            raise failure
        self._trouble = f"cannot connect: {failure}"
        call(self._report, self._trouble)

    def _refused(self, failure: Failure) -> None:
        failure.trap(RequestFailed)
        refusal: Any = failure.value
        call(self._report, f"name or password are refused: {refusal}")
        self._end(refusal)

    def _end(self, refusal: RequestFailed | None) -> None:
        self._ended = refusal or CannotConnect("the client was stopped")
        self._usable = False
        staying, self._staying = self._staying, None
        if staying is not None:
            staying.stop()
        while self._waiting:
            self._waiting.pop(0).errback(CannotConnect(str(self._ended)))
        while self._observers:
            observer = self._observers.pop(0)
            if refusal is None:
                observer.callback(None)
            else:
                observer.errback(refusal)


def _kind(command: str) -> str:
    """Return what a command is: a ``read``, a ``subscription`` of one connection, or a ``change``."""
    method, _, path = command.partition(" ")
    if method.lower() == "get":
        return "read"
    return "subscription" if path.rpartition("/")[2] == "subscriptions" else "change"


def _trap_loss(failure: Failure) -> None:
    failure.trap(Disconnected, NoResponse)
