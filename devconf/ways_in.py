"""How a program comes in: the ways in of a server over HTTP (``docs/protocol.md`` §1).

:mod:`devconf.client` and :mod:`devconf.device` are made of this and of :mod:`devconf.dial`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import treq
from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from devconf import hints, wire
from devconf.errors import CommandFailed, Ecode

#: Seconds until an answer over HTTP.
ANSWER_WITHIN = 30.0
#: Bytes of such an answer.
ANSWER_MAX = 2**20

#: The answers to a token that is no good, or no longer: log in again.
TOKEN_ENDED = (Ecode.BAD_TOKEN, Ecode.TOKEN_EXPIRED)

_WEB = "/webapi/v1/"

Message = dict[str, Any]


class CannotConnect(Exception):
    """The server cannot be reached, or what answers is no devconf server; the text is one line that says why.

    :ivar retry_after: seconds to wait at least before another attempt, if the server said so; else 0.0.
    """

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class RequestFailed(Exception):
    """The server answered with an error.

    :ivar ecode: which one (§3); not 0.
    :ivar enote: what is wrong, for people.
    :ivar response: the whole answer.
    :ivar retry_after: as of :class:`CannotConnect`.
    """

    def __init__(self, response: Message, retry_after: float = 0.0) -> None:
        super().__init__(response)
        self.retry_after = retry_after
        self.ecode: int = response["ecode"]
        self.enote = str(response.get("enote", ""))
        self.response = response

    def __str__(self) -> str:
        return f"{self.ecode}: {self.enote}"


@frozen
class Login:
    """What logging in gives.

    :ivar unid: the ``user_unid``; of a device its ``dev_unid``.
    :ivar atoken: opens what the account may; for one hour.
    :ivar rtoken: gives new tokens, once, within 30 days; may be empty.
    """

    unid: str
    atoken: str = field(repr=False)
    rtoken: str = field(default="", repr=False)


class Server:
    """The ways in of one server.

    :ivar url: its address, without a slash at the end.
    :raises CannotConnect: ``url`` is no address.
    """

    def __init__(self, reactor: Any, url: str) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
            usable = usable and url.isascii() and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise CannotConnect(f"{url!r} is not the address of a server; write it like http://127.0.0.1:8080")
        self._reactor = reactor
        # Not treq's client, which takes no IPv6 address and has the global reactor write what it sends.
        self._agent = Agent(reactor, connectTimeout=ANSWER_WITHIN)
        self.url = url.rstrip("/")

    @property
    def socket_url(self) -> str:
        """The address of the socket for those who come with a token instead of a ticket."""
        return "ws" + self.url.removeprefix("http") + wire.PREFIX.rstrip("/")

    async def log_in(self, account: Message) -> Login:
        """Log in.

        :param account: the body of ``login``.
        :raises RequestFailed: the server says no: ``BAD_CREDENTIALS`` for a wrong name, password or key.
        :raises CannotConnect: no usable answer.
        """
        return self._login(await self._ask("POST", "login", account))

    async def renew(self, login: Login) -> Login:
        """Return new tokens for the ``rtoken`` of ``login``, which is of no use from now on, whatever comes of this.

        :raises RequestFailed: ``BAD_TOKEN`` or ``TOKEN_EXPIRED``: log in again; and others.
        :raises CannotConnect: no usable answer.
        """
        return self._login(await self._ask("POST", "token", {"rtoken": login.rtoken}))

    async def log_out(self, login: Login) -> None:
        """End the tokens of ``login``, and all that were made of the same login. That they have ended is fine.

        :raises RequestFailed: the server cannot do it now.
        :raises CannotConnect: no usable answer.
        """
        # The rtoken is good for longer.
        body, atoken = ({"rtoken": login.rtoken}, "") if login.rtoken else (None, login.atoken)
        try:
            await self._ask("POST", "logout", body, atoken)
        except RequestFailed as failure:
            if failure.ecode not in TOKEN_ENDED:
                raise

    def _login(self, answer: Message) -> Login:
        rtoken = answer.get("rtoken")
        unid, atoken = self._text(answer, "user_unid"), self._text(answer, "atoken")
        return Login(unid, atoken, rtoken if isinstance(rtoken, str) else "")

    async def register(self, login: Login, device: Message) -> None:
        """Describe a device.

        :param device: the body of ``register``.
        :raises RequestFailed: ``BAD_TOKEN`` or ``TOKEN_EXPIRED``: log in again; and others.
        :raises CannotConnect: no usable answer.
        """
        await self._ask("POST", f"devconf_fx/devices/{quote(login.unid, safe='')}/register", device, login.atoken)

    async def ws_url(self, login: Login) -> str:
        """Return an address with a ticket: for one connection, within 60 s.

        :raises RequestFailed: as :meth:`register` does.
        :raises CannotConnect: no usable answer.
        """
        path = f"devconf_fx/users/{quote(login.unid, safe='')}/ws_url?type=devconf_fx"
        return self._text(await self._ask("GET", path, None, login.atoken), "ws_url")

    def _text(self, answer: Message, name: str) -> str:
        text = answer.get(name)
        if not isinstance(text, str) or not text:
            raise CannotConnect(f"{self.url} answered without {name}; is it a devconf server?")
        return text

    def _ask(self, method: str, path: str, body: Message | None, atoken: str = "") -> Deferred[Message]:
        def too_late(_result: Any, _timeout: float) -> NoReturn:
            raise CannotConnect(f"{self.url} did not answer within {ANSWER_WITHIN:g} s")

        asked = Deferred.fromCoroutine(self._exchange(method, self.url + _WEB + path, body, atoken))
        return asked.addTimeout(ANSWER_WITHIN, self._reactor, onTimeoutCancel=too_late)

    async def _exchange(self, method: str, url: str, body: Message | None, atoken: str) -> Message:
        headers = Headers({"authorization": [atoken]} if atoken else {})
        data = None
        if body is not None:
            headers.addRawHeader("content-type", "application/json")
            data = _Body(wire.encode(body))
        try:
            response: Any = await self._agent.request(method.encode(), url.encode(), headers, data)
            content = bytearray()
            await treq.collect(response, partial(_collect, content))
        except CancelledError:
            raise
        except Exception as error:  # the agent, TLS and the resolver each have kinds of their own
            raise CannotConnect(f"{self.url} cannot be reached: {reason(error)}") from None
        wait = hints.in_headers(lambda name: (response.headers.getRawHeaders(name) or [None])[-1])
        try:
            answer = wire.decode_object(bytes(content))
        except CommandFailed:
            why = f"{self.url} answered with HTTP status {response.code} and no JSON object; is it a devconf server?"
            raise CannotConnect(why, wait) from None
        if answer.get("ecode", 0) != 0:
            raise RequestFailed(answer, wait)
        return answer


def _collect(content: bytearray, chunk: bytes) -> None:
    content += chunk
    if len(content) > ANSWER_MAX:
        raise ValueError(f"it answers with more than {ANSWER_MAX} bytes")


def reason(error: BaseException | None) -> str:
    """Return why ``error`` happened, as one line."""
    for inner in getattr(error, "reasons", ()):
        return reason(inner.value)
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


@implementer(IBodyProducer)
class _Body:
    """The body of a request, at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass
