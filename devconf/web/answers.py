"""Answers over HTTP, and what is read of a request's head (``docs/protocol.md`` §1 and §5)."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.web.server import Request

from devconf import wire
from devconf.auth import Auth
from devconf.config import Network, is_among
from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity

T = TypeVar("T")


def to_its_end(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Carry out ``work`` whether or not its client stays.

    Klein cancels what a handler returns when the client goes away, and ``work`` would stop between two of its steps.

    :returns: fires, or fails, as ``work`` ends. To cancel it ends the waiting, and nothing else.
    """
    outcome: Deferred[T] = Deferred()
    Deferred.fromCoroutine(work).addCallbacks(outcome.callback, outcome.errback)
    return outcome


def respond(request: Request, outcome: object) -> None:
    """Finish ``request`` with ``outcome``: the fields of an answer, or what went wrong."""
    request.write(render(request, outcome))
    request.finish()


def render(request: Request, outcome: object) -> bytes:
    """Return the body of an answer, and set the status that goes with its ``ecode`` (§5)."""
    if isinstance(outcome, CommandFailed):
        fields = {"ecode": outcome.ecode, "enote": outcome.enote, **outcome.payload}
    elif isinstance(outcome, dict):
        fields = {"ecode": Ecode.OK, "enote": "ok", **outcome}
    else:
        fields = {"ecode": Ecode.INTERNAL, "enote": "internal error; the server's log tells more"}
    ecode = Ecode(fields["ecode"])
    request.setResponseCode(ecode.http_status)
    if ecode.retry_after is not None:
        request.setHeader(b"retry-after", b"%d" % ecode.retry_after)
    request.setHeader(b"cache-control", b"no-store")
    return render_json(request, fields)


def render_json(request: Request, value: object) -> bytes:
    """Return ``value`` as the JSON body of an answer."""
    request.setHeader(b"content-type", b"application/json")
    body = wire.encode(value)
    request.setHeader(b"content-length", b"%d" % len(body))
    return body


def header(request: Request, name: bytes) -> str:
    """Return the last header ``name``, or nothing; bytes that are no ASCII are replaced."""
    values = request.requestHeaders.getRawHeaders(name, [])
    return values[-1].decode("ascii", "replace") if values else ""


def bearer(request: Request) -> str:
    """Return the ``atoken`` of the ``authorization`` header, which may come with ``Bearer`` or without.

    :raises CommandFailed: ``BAD_TOKEN``: there is none.
    """
    value = header(request, b"authorization").strip()
    scheme, _, token = value.partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else value
    if not token:
        raise CommandFailed(Ecode.BAD_TOKEN, "the `authorization` header is missing; send the atoken of a login in it")
    return token


async def identified(auth: Auth, request: Request) -> Identity:
    """Return who ``request`` comes from, by the ``atoken`` in its header.

    :raises CommandFailed: ``BAD_TOKEN``, ``TOKEN_EXPIRED``.
    """
    identity = await auth.identify(bearer(request))
    let_in(request)
    return identity


def let_in(request: Request) -> None:
    """Note that who is at the other end is known: our own site counts those who are not."""
    known = getattr(request.channel, "known", None)
    if known is not None:
        known()


def when_read(request: Request) -> Deferred[None]:
    """Return what fires once the peer has read all that was written, or is gone: on our own site. On others, now."""
    told = getattr(request.channel, "when_read", None)
    return succeed(None) if told is None else told()


def body_of(request: Request, limit: int, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Return the JSON object in the body of ``request``.

    :param limit: bytes.
    :raises CommandFailed: ``TOO_LARGE``, ``NOT_AN_OBJECT``.
    """
    content = b"" if request.content is None else request.content.read()
    if len(content) > limit:
        raise CommandFailed(Ecode.TOO_LARGE, f"the body is larger than {limit} bytes")
    return {} if may_be_empty and not content else wire.decode_object(content)


def peer_address(request: Request, trusted_proxies: tuple[Network, ...]) -> str:
    """Return the address a request comes from: the TCP peer's, or what a trusted proxy says of it (§1)."""
    address = str(getattr(request.getClientAddress(), "host", ""))
    forwarded = [
        part.strip().decode("ascii", "replace")
        for value in request.requestHeaders.getRawHeaders(b"x-forwarded-for", [])
        for part in value.split(b",")
    ]
    while forwarded and is_among(address, trusted_proxies):
        address = forwarded.pop()
    return address
