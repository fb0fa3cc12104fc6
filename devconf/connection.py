"""One connection of a program to the server: requests, events, and the end (``docs/protocol.md`` §2 and §4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from itertools import count
from typing import Any, NoReturn

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from devconf import hints, wire
from devconf.dial import Socket, open_socket
from devconf.errors import CommandFailed
from devconf.ways_in import Message, RequestFailed

_log = Logger()


class NoResponse(Exception):
    """The server did not answer within the timeout that was given. What was asked may be done all the same."""


class Disconnected(Exception):
    """The connection has gone. What was asked on it and not answered may be done all the same.

    :ivar code: the close code (§6); 1006 if it was cut.
    :ivar reason: for people; may be empty.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    @property
    def retry_after(self) -> float:
        """Seconds to wait at least before another attempt, if the server said so; else 0.0."""
        return hints.in_reason(self.reason)

    def __str__(self) -> str:
        return f"the connection is closed ({self.code}{': ' if self.reason else ''}{self.reason})"


def _drop(_client: Client, message: Message) -> None:
    _log.debug("a message that answers nothing was dropped, with {fields}", fields=sorted(message))


async def open_client(
    reactor: Any,
    ws_url: str,
    *,
    atoken: str = "",
    other: Callable[[Client, Message], None] = _drop,
    events: Events | None = None,
    end_login: Callable[[], Awaitable[None]] | None = None,
) -> Client:
    """Open a connection to an address of §1.

    :param atoken: for an address without a ticket.
    :param other: takes the messages that answer nothing, and the client that they came to.
    :param events: who is told of events, if that outlasts the connection.
    :param end_login: ends the tokens that the connection came with, for :meth:`Client.log_out`.
    :raises CannotConnect: it cannot be opened.
    """
    client = Client(reactor, other, events or Events(), end_login)
    client._socket = await open_socket(reactor, ws_url, client, atoken)
    return client


@frozen
class _Waiting:
    answer: Deferred[Message]
    progress: Callable[[int, int], None] | None


@frozen
class _Observer:
    topics: frozenset[str]
    event: Callable[[Message], object]
    missed: Callable[[Any], object] | None


@define(eq=False)
class Events:
    """Who observes the events of a connection, and how far these have come (§4, Subscriptions)."""

    _observers: list[_Observer] = field(factory=list, init=False)
    _seq: int = field(default=0, init=False)

    def topics(self) -> list[str]:
        """Return the topics that are observed, each once."""
        return sorted({topic for observer in self._observers for topic in observer.topics})

    def add(
        self,
        topics: Collection[str],
        event: Callable[[Message], object],
        missed: Callable[[Any], object] | None,
    ) -> None:
        """Have ``event`` and ``missed`` called, as :meth:`Client.subscribe` says."""
        self._observers.append(_Observer(frozenset(topics), event, missed))

    def remove(self, topics: Collection[str]) -> None:
        """Have nobody called for ``topics`` any longer."""
        rest = (evolve(observer, topics=observer.topics.difference(topics)) for observer in self._observers)
        self._observers = [observer for observer in rest if observer.topics]

    def begin(self) -> None:
        """Note that the next events come on a new connection, which counts from 1."""
        self._seq = 0

    def tell_missed(self, count: int | None) -> None:
        """Tell the observers that ``count`` events were missed; None: nobody knows how many."""
        # A function that was given twice is called once.
        for tell in dict.fromkeys(observer.missed for observer in self._observers):
            if tell is not None:
                call(tell, count)

    def take(self, event: Message) -> None:
        """Pass on an ``{"event", "seq", "at", "data"}``."""
        seq = event.get("seq")
        if isinstance(seq, int):
            missed, self._seq = seq - self._seq - 1, max(seq, self._seq)
            if missed > 0:
                self.tell_missed(missed)
        for observer in list(self._observers):
            if event["event"] in observer.topics:
                call(observer.event, event)


def call(function: Callable[..., object], *args: Any) -> None:
    """Call what somebody else has given us; what it raises is logged."""
    try:
        function(*args)
    except Exception:
        _log.failure("an observer failed")


@define(eq=False)
class Client:
    """One connection to the server, made by :func:`devconf.client.connect`.

    A request is in the table if and only if its Deferred has not fired.
    """

    _clock: IReactorTime
    _other: Callable[[Client, Message], None]
    _events: Events
    _end_login: Callable[[], Awaitable[None]] | None
    _socket: Socket = field(init=False)
    _waiting: dict[str, _Waiting] = field(factory=dict, init=False)
    _numbers: count[int] = field(factory=lambda: count(1), init=False)
    _closed: Disconnected | None = field(default=None, init=False)
    _observers: list[Deferred[Disconnected]] = field(factory=list, init=False)

    @property
    def is_open(self) -> bool:
        """Whether the connection is not known to have gone."""
        return self._closed is None

    def request(
        self,
        command: str,
        params: Message | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Deferred[Message]:
        """Send a command and wait for its response (§2, §4).

        :param command: such as ``get tasks``, or with the whole path.
        :param progress: called with how much is done, and of how much, now and then while a long command runs.
        :param timeout: seconds to wait; without it as long as the connection lasts, since the server answers all.
            Cancelling the Deferred ends the waiting too. Neither ends the command. A ``connect_wait`` counts.
        :param idempotency_key: 1 to 128 characters; a change that is asked for again with the same one is not made
            again, and its response comes once more.
        :returns: fires with the whole response when its ``ecode`` is 0; fails with :class:`RequestFailed` when it is
            not, with :class:`Disconnected`, or with :class:`NoResponse`.
        :raises TypeError: ``params`` is nothing that JSON can say.
        """
        req_id = str(next(self._numbers))
        message: Message = {"command": whole_command(command), "req_id": req_id}
        if progress is not None:
            message["progress"] = True
        if idempotency_key is not None:
            message["idempotency_key"] = idempotency_key
        if params is not None:
            message["params"] = params
        payload = wire.encode(message)
        if self._closed is not None:
            return fail(self._closed)
        answer: Deferred[Message] = Deferred()
        self._waiting[req_id] = _Waiting(answer, progress)
        answer.addBoth(self._forget, req_id)
        if timeout is not None:
            answer.addTimeout(timeout, self._clock, onTimeoutCancel=_no_response)
        self._socket.send(payload)
        return answer

    def _forget(self, result: Any, req_id: str) -> Any:
        self._waiting.pop(req_id, None)
        return result

    def subscribe(
        self,
        topics: Collection[str],
        observer: Callable[[Message], object],
        missed: Callable[[int], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[Message]:
        """Ask for events (§4, Subscriptions), until :meth:`unsubscribe` or the end of the connection.

        A topic may have several observers. What an observer raises is logged, and ends nothing.

        :param topics: of ``devices``, ``deliveries`` and ``commands``.
        :param observer: called with each event of these topics: ``{"event", "seq", "at", "data"}``.
        :param missed: called when a gap shows that the server dropped events of this connection, with how many;
            nobody knows of which topic they were.
        :param timeout: as for :meth:`request`.
        :returns: fires with the response, before the first event; fails as :meth:`request` does.
        """
        asked = self.request("post subscriptions", {"topics": list(topics)}, timeout=timeout)

        def subscribed(response: Message) -> Message:
            self._events.add(topics, observer, missed)
            return response

        return asked.addCallback(subscribed)

    def unsubscribe(self, topics: Collection[str], *, timeout: float | None = None) -> Deferred[Message]:
        """Ask for the events of ``topics`` no longer; their observers are not called from now on.

        :returns: as :meth:`request`.
        """
        self._events.remove(topics)
        return self.request("delete subscriptions", {"topics": list(topics)}, timeout=timeout)

    def send(self, message: Message | bytes) -> None:
        """Send a message that is no request, or is encoded already; when the connection has gone, it is dropped."""
        self._socket.send(message if isinstance(message, bytes) else wire.encode(message))

    def close(self) -> Deferred[Disconnected]:
        """Close the connection; a server that does not answer this is dropped after a few seconds.

        :returns: as :meth:`when_closed`.
        """
        self._socket.hang_up()
        return self.when_closed()

    def log_out(self) -> Deferred[None]:
        """Close the connection, and end the login that it came with (§1): its tokens are worth nothing any more.

        Without this they live on, the ``rtoken`` for 30 days.

        :returns: fires with None; fails with :class:`CannotConnect`, or :class:`RequestFailed`: the login may live on.
        """

        async def run() -> None:
            await self.close()
            if self._end_login is not None:
                await self._end_login()

        return Deferred.fromCoroutine(run())

    def when_closed(self) -> Deferred[Disconnected]:
        """Wait for the end of the connection.

        :returns: fires with a :class:`Disconnected` that says why, after what was asked has failed; never fails.
        """
        if self._closed is not None:
            return succeed(self._closed)
        observer: Deferred[Disconnected] = Deferred()
        self._observers.append(observer)
        return observer

    # -- from the socket: Receiver

    def received(self, payload: bytes) -> None:
        """See :class:`devconf.dial.Receiver`."""
        try:
            message = wire.decode_object(payload)
        except CommandFailed as failure:
            _log.warn("a message of the server was dropped: {why}", why=failure.enote)
            return
        req_id = message.get("req_id")
        waiting = self._waiting.get(req_id) if isinstance(req_id, str) and "params" not in message else None
        if waiting is None and isinstance(message.get("event"), str):
            self._events.take(message)
        elif waiting is None:
            self._other(self, message)
        elif "progress" in message and "ecode" not in message:
            if waiting.progress is not None:
                waiting.progress(message["progress"]["done"], message["progress"]["total"])
        elif message.get("ecode", 0) == 0:
            waiting.answer.callback(message)
        else:
            waiting.answer.errback(RequestFailed(message))

    def lost(self, code: int, reason: str) -> None:
        """See :class:`devconf.dial.Receiver`."""
        self._closed = Disconnected(code, reason)
        while self._waiting:  # not a for: an errback may ask again
            _, waiting = self._waiting.popitem()
            waiting.answer.errback(Disconnected(code, reason))
        while self._observers:
            self._observers.pop(0).callback(self._closed)


def whole_command(command: str) -> str:
    """Return ``command`` with the path of the resources: ``get tasks`` becomes ``get /wsapi/v1/devconf_fx/tasks``."""
    method, space, path = command.partition(" ")
    return command if not path or path.startswith("/") else method + space + wire.PREFIX + path


def _no_response(_result: Any, timeout: float) -> NoReturn:
    raise NoResponse(f"the server did not answer within {timeout:g} s")
