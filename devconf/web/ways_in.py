"""The ways in, the probes, and a page that says what this is (``docs/protocol.md`` §1)."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal

from attrs import define
from msgspec import UNSET, Struct, UnsetType
from twisted.internet.defer import Deferred
from twisted.web.server import Request

import devconf
from devconf import wire
from devconf.auth import Auth
from devconf.config import Config
from devconf.errors import RETRY_AFTER, CommandFailed, Ecode
from devconf.model import Identity, OrderKey, Role
from devconf.store import Store, answers, devices
from devconf.web.answers import bearer, body_of, header, identified, let_in, peer_address, render, to_its_end

if TYPE_CHECKING:
    from klein import Klein

#: Bytes of a device's description of itself.
REGISTER_MAX = 256 * 1024


#: A ``Host`` that can stand in an address as it is: the rest is not even looked at.
_HOST = re.compile(r"(?P<name>\[(?P<v6>[0-9A-Fa-f:.]+)\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?\Z")


class _LoginKind(Struct):
    user_type: Literal["user", "dev"]


class LoginUser(Struct):
    """The body of an operator's *login*; further fields are ignored."""

    user_name: str
    password: str


class LoginDevice(Struct):
    """The body of a device's *login*."""

    dev_refid: str
    dev_key: str | UnsetType = UNSET


class Renew(Struct):
    """The body of *token*, and of *logout*."""

    rtoken: str


class Has(Struct):
    """A task or subtask that a device has."""

    task_id: str
    rev: int
    subtask_id: str = ""


class Register(Struct):
    """The body of *register*."""

    dev_refid: str
    dev_type: str
    dev_name: str
    algos: list[str] | UnsetType = UNSET
    tasks: list[Has] | UnsetType = UNSET


@define
class WaysIn:
    """The handlers of §1.

    :ivar _ready: whether commands are taken.
    """

    _auth: Auth
    _store: Store
    _config: Config
    _ready: Callable[[], bool]

    def add_to(self, app: Klein) -> None:
        """Let ``app`` have the addresses of §1."""
        route = app.route
        route("/webapi/v1/login", methods=["POST"])(self.login)
        route("/webapi/v1/token", methods=["POST"])(self.token)
        route("/webapi/v1/logout", methods=["POST"])(self.logout)
        route("/webapi/v1/devconf_fx/devices/<user_unid>/register", methods=["POST"])(self.register)
        route("/webapi/v1/devconf_fx/users/<user_unid>/ws_url", methods=["GET"])(self.ws_url)
        route("/healthz", methods=["GET"])(self.healthz)
        route("/readyz", methods=["GET"])(self.readyz)
        route("/", methods=["GET"])(self.index)

    def login(self, request: Request) -> Deferred[bytes]:
        """``POST /webapi/v1/login``."""
        return Deferred.fromCoroutine(self._login(request))

    async def _login(self, request: Request) -> bytes:
        body = body_of(request, self._config.limits.login_message_max)
        if wire.convert(body, _LoginKind, "$").user_type == "user":
            user = wire.convert(body, LoginUser, "$")
            tokens = await self._auth.login_user(user.user_name, user.password)
        else:
            device = wire.convert(body, LoginDevice, "$")
            key = None if isinstance(device.dev_key, UnsetType) else device.dev_key
            address = peer_address(request, self._config.trusted_proxies)
            tokens = await self._auth.login_device(device.dev_refid, key, address)
        let_in(request)
        return render(request, tokens)

    def token(self, request: Request) -> Deferred[bytes]:
        """``POST /webapi/v1/token``."""
        # If the rtoken was used before, its family ends in the store, and its sockets have to follow.
        return to_its_end(self._token(request))

    async def _token(self, request: Request) -> bytes:
        body = wire.convert(body_of(request, self._config.limits.login_message_max), Renew, "$")
        tokens = await self._auth.renew(body.rtoken)
        let_in(request)
        return render(request, tokens)

    def logout(self, request: Request) -> Deferred[bytes]:
        """``POST /webapi/v1/logout``."""
        # The tokens end in the store, and the sockets have to follow.
        return to_its_end(self._logout(request))

    async def _logout(self, request: Request) -> bytes:
        body = body_of(request, self._config.limits.login_message_max, may_be_empty=True)
        if "rtoken" in body:
            await self._auth.log_out("rtoken", wire.convert(body, Renew, "$").rtoken)
        else:
            await self._auth.log_out("atoken", bearer(request))
        return render(request, {})

    def register(self, request: Request, user_unid: str) -> Deferred[bytes]:
        """``POST /webapi/v1/devconf_fx/devices/<user_unid>/register``."""
        return Deferred.fromCoroutine(self._register(request, user_unid))

    async def _register(self, request: Request, user_unid: str) -> bytes:
        identity = await identified(self._auth, request)
        if identity.role is not Role.DEVICE or identity.unid != user_unid:
            raise CommandFailed(Ecode.FORBIDDEN, "a device registers itself, and nobody else does")
        body = wire.convert(body_of(request, REGISTER_MAX), Register, "$")
        await self._store.run(_describe, identity, body)
        return render(request, {})

    def ws_url(self, request: Request, user_unid: str) -> Deferred[bytes]:
        """``GET /webapi/v1/devconf_fx/users/<user_unid>/ws_url?type=devconf_fx``."""
        return Deferred.fromCoroutine(self._ws_url(request, user_unid))

    async def _ws_url(self, request: Request, user_unid: str) -> bytes:
        identity = await identified(self._auth, request)
        if request.args.get(b"type") != [b"devconf_fx"]:
            raise CommandFailed(Ecode.BAD_FIELD, "$.type must be devconf_fx (in the query)")
        if identity.unid != user_unid:
            raise CommandFailed(Ecode.FORBIDDEN, "this is another user's address")
        base = self._base(request)
        ticket = await self._auth.ticket(identity)
        return render(request, {"ws_url": f"{base}/wsapi/v1/devconf_fx/{ticket}"})

    def _base(self, request: Request) -> str:
        if self._config.public_url is not None:
            return "ws" + self._config.public_url.removeprefix("http").rstrip("/")
        host = header(request, b"host")
        if not self._is_known(host):
            raise CommandFailed(
                Ecode.BAD_FIELD,
                f"the Host header {host[:200]!r} is not known here; add it to allowed_hosts, or set public_url",
            )
        # In the site of a host we may be below a path of its own.
        prefix = request.path.decode("ascii", "replace").rpartition("/webapi/v1/")[0]
        return f"{'wss' if request.isSecure() else 'ws'}://{host}{prefix}"

    def _is_known(self, host: str) -> bool:
        match = _HOST.match(host)
        if match is None:
            return False
        name = match["name"].lower()
        try:
            return ip_address(match["v6"] or name).version == (6 if match["v6"] else 4)
        except ValueError:
            return name == "localhost" or name in self._config.allowed_hosts

    def healthz(self, request: Request) -> bytes:
        """``GET /healthz``: the process lives."""
        return _text(request, "ok")

    def readyz(self, request: Request) -> bytes:
        """``GET /readyz``: commands are taken."""
        if not self._ready():
            request.setResponseCode(503)
            request.setHeader(b"retry-after", b"%d" % RETRY_AFTER)
            return _text(request, "not ready")
        return _text(request, "ok")

    def index(self, request: Request) -> bytes:
        """``GET /``: what this is."""
        return _text(
            request,
            f"devconf {devconf.__version__}: the configuration service of a video-analysis platform.\n"
            "Log in with POST /webapi/v1/login, and connect to the WebSocket that ws_url tells.",
        )


def _text(request: Request, text: str) -> bytes:
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return text.encode() + b"\n"


def _describe(connection: Any, identity: Identity, body: Register) -> None:
    algos = None if isinstance(body.algos, UnsetType) else body.algos
    devices.describe(connection, identity.unid, body.dev_refid, body.dev_type[:256], body.dev_name[:256], algos)
    if not isinstance(body.tasks, UnsetType):
        has = {OrderKey(identity.unid, item.task_id, item.subtask_id): item.rev for item in body.tasks}
        answers.reconcile(connection, identity.unid, has)
