"""The configuration: one file of TOML becomes one :class:`Config`, or a list of everything that is wrong with it.

The commented sample ``etc/devconf.toml`` has every key with its default.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
from attrs import field, fields, frozen
from msgspec import Meta
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from twisted.internet.endpoints import serverFromString

from devconf.errors import StartupError

Network = IPv4Network | IPv6Network

_MIB = 1024 * 1024


@frozen
class Limits:
    """What is bounded, and where (``docs/protocol.md`` §7): the table ``[limits]``.

    :ivar store_conf_max: The largest content of a storage configuration, in bytes, before it is encoded in base64. A
        larger one is answered ``1004000004``. A message or HTTP body from an operator may be a third larger, for
        base64, and 64 KiB more; beyond that the WebSocket is closed (1009), and HTTP answers ``1004130001``.
    :ivar device_message_max: The largest message from a device, in bytes. The WebSocket of a device that sends a larger
        one is closed (1009). It does not bound what is sent to devices.
    :ivar login_message_max: The largest body of a login, of ``token`` and of ``logout``, in bytes. A larger one is
        answered ``1004130001``. A name and a password, or a key, have to fit in.
    :ivar requests_per_connection: How many requests of one connection may be in flight. One more is answered
        ``1004290001``.
    :ivar outstanding_per_device: How many messages to one device may wait for its answer. Further ones wait in the
        database, and of those for the same task only the newest is sent. A device that has never sent a ``req_id`` back
        gets one at a time, whatever stands here.
    :ivar waiting_per_lock: How many commands may wait for another that changes the same task or storage configuration.
        One more is answered ``1004290001``.
    :ivar unread_bytes: How much may wait here for a peer that does not read what it is sent, in bytes. A peer that
        falls further behind is cut off; a device gets what it missed when it connects again.
    :ivar unread_messages: The same as ``unread_bytes``, in messages. Whichever bound is reached first counts.
    :ivar connections: How many WebSocket connections there may be in all. A further handshake ends with HTTP 503. The
        process needs an open file for each, and some more: see ``LimitNOFILE`` in ``etc/devconf.service``.
    :ivar connections_per_address_before_login: How many connections of one address may be open that have not shown a
        ticket or token. Further ones are closed at once. Connections from ``trusted_proxies`` are not counted: the
        proxy has to bound its clients itself. On a ``haproxy`` endpoint too it is the proxy's own address that counts.
        Raise it where many devices come from behind one address.
    :ivar history_days: How long the history of commands is kept, in days. Once an hour, what is older is removed.
    :ivar history_commands: How many commands the history keeps. Once an hour, the oldest beyond that are removed.
        Whichever of this and ``history_days`` is reached first counts.
    """

    store_conf_max: Annotated[int, Meta(ge=1, le=64 * _MIB)] = _MIB
    device_message_max: Annotated[int, Meta(ge=1, le=64 * _MIB)] = 256 * 1024
    login_message_max: Annotated[int, Meta(ge=1, le=_MIB)] = 4096
    requests_per_connection: Annotated[int, Meta(ge=1, le=65536)] = 256
    outstanding_per_device: Annotated[int, Meta(ge=1, le=1024)] = 8
    waiting_per_lock: Annotated[int, Meta(ge=1, le=65536)] = 32
    unread_bytes: Annotated[int, Meta(ge=1, le=1024 * _MIB)] = 4 * _MIB
    unread_messages: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 100_000
    connections_per_address_before_login: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    history_days: Annotated[int, Meta(ge=1, le=36500)] = 90
    history_commands: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000

    @property
    def operator_message_max(self) -> int:
        """The largest message from an operator, in bytes: the largest content in base64, and 64 KiB around it."""
        return self.store_conf_max * 4 // 3 + 65536


@frozen
class Config:
    """How a server is to run. The defaults are those of a first try on one's own machine.

    ``docs/configuration.md`` is made from these two texts, and from the types and defaults below them: ``make docs``.

    :ivar listen: Where to listen: one or more endpoints, as Twisted writes them. HTTP and WebSocket come in on each,
        and each serves the same. ``tcp:8080`` is port 8080 on every IPv4 address of the machine,
        ``tcp:8080:interface=127.0.0.1`` for programs of this machine only, and ``tcp6:8080`` on every address.
        ``unix:/run/devconf/http.sock:mode=660`` is a socket in the file system.
        ``ssl:8443:privateKey=/etc/devconf/key.pem:certKey=/etc/devconf/cert.pem`` is TLS without a proxy. ``systemd``,
        ``haproxy`` and ``tls`` are taken as well. What cannot be listened on ends the start.
        Example: ``listen = ["tcp:8080:interface=127.0.0.1", "tcp:8080:interface=192.168.1.2"]``
    :ivar metrics: Where to serve figures for Prometheus, at ``/metrics``: endpoints like those of ``listen``, none by
        default. Whoever reaches one may read them: no token is asked for, and nothing else is served there.
        Example: ``metrics = ["tcp:9180:interface=127.0.0.1"]``
    :ivar public_url: The address under which clients and devices reach the server: ``http://`` or ``https://`` and a
        host, perhaps with a port, and no path. It is what ``ws_url`` tells them to connect to, with ``ws://`` or
        ``wss://`` instead. Set it behind a proxy. Without it they are sent to the host that their request came to, if
        that is a literal address, ``localhost``, or in ``allowed_hosts``.
        Example: ``public_url = "https://devconf.example.com"``
    :ivar database: Where the data is: a URL of SQLAlchemy, and in this version the file of an SQLite database. Four
        slashes begin an absolute path; a relative one starts at the server's working directory. The file is made if it
        is not there; its folder must exist, on a local disk, and the server must be able to write to it. Beside the
        file there are others with the same name and ``-wal``, ``-shm`` and ``.lock`` after it. One server at a time can
        use it.
        Example: ``database = "sqlite:////var/lib/devconf/devconf.sqlite"``
    :ivar device_timeout: How long a command waits for the answer of a device, in seconds. For each 64 KiB of the
        message a second is added. A device that has not answered by then counts as silent: the command ends without
        it, and what the device should have is sent again.
        Example: ``device_timeout = 5``
    :ivar legacy_device_networks: The networks from which old devices may log in without a key: addresses, perhaps with
        a prefix. There too a device needs its key unless its record says ``key_required: false``, and always once it
        has used it. Anybody in these networks who knows the ``dev_refid`` of such a device can pass for it.
        Example: ``legacy_device_networks = ["192.168.1.0/24", "fd00::/8"]``
    :ivar trusted_proxies: The networks of the proxies in front of the server. Of a connection from there,
        ``X-Forwarded-For`` is believed: the client's address is the last one in it that is not in these networks. From
        everywhere else that header is ignored. On a ``unix`` socket there is no address, so it is ignored there too.
        Example: ``trusted_proxies = ["127.0.0.1"]``
    :ivar allowed_hosts: The host names under which the server may tell a client to connect when there is no
        ``public_url``. They are written without a port, and upper and lower case are the same. A ``ws_url`` that is
        asked for under another name is answered ``1004000002``.
        Example: ``allowed_hosts = ["devconf.example.com", "devconf"]``
    :ivar tolerated_params: Fields that pass in the ``params`` of a request although no command knows them, for pages
        that are older than this server. They are ignored, with a line in the log, of which there are at most 20
        a minute. Any other unknown field is answered ``1004000002``.
        Example: ``tolerated_params = ["page_id"]``
    :ivar limits: See :class:`Limits`.
    """

    listen: tuple[str, ...] = ("tcp:8080:interface=127.0.0.1",)
    metrics: tuple[str, ...] = ()
    public_url: str | None = None
    database: str = "sqlite:///devconf.sqlite"
    device_timeout: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    legacy_device_networks: tuple[Network, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    tolerated_params: tuple[str, ...] = ()
    limits: Limits = field(factory=Limits)


def is_among(address: str, networks: tuple[Network, ...]) -> bool:
    """Tell whether ``address`` is in one of ``networks``; an IPv4 address may come as one of IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


def load(path: str) -> Config:
    """Return the configuration in the file ``path``.

    :raises StartupError: it cannot be read, or as :func:`parse` does.
    """
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise StartupError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise StartupError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    return parse(text, path)


def parse(text: str, origin: str) -> Config:
    """Return the configuration that ``text`` describes in TOML; what it does not name has its default.

    :param origin: the name of the file, for messages.
    :raises StartupError: it is no TOML, or a key is unknown or wrong: one line for each.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise StartupError(f"{origin}: not TOML: {reason}") from None
    faults: list[str] = []
    limits_table = table.pop("limits", {})
    values = _read(Config, table, "", faults)
    if isinstance(limits_table, dict):
        values["limits"] = Limits(**_read(Limits, limits_table, _LIMITS, faults))
    else:
        faults.append("limits must be a table: write [limits], and its keys below")
    if faults:
        raise StartupError("\n".join(f"{origin}: {fault}" for fault in faults))
    return Config(**values)


_LIMITS = "limits."


def _read(kind: type[Any], table: dict[str, Any], prefix: str, faults: list[str]) -> dict[str, Any]:
    """Return the checked values of ``table``, which has keys of ``kind``; what is wrong is added to ``faults``."""
    hints = get_type_hints(kind, include_extras=True)
    values = {}
    for key, value in table.items():
        if key not in hints:
            faults.append(_unknown(key, prefix))
            continue
        try:
            values[key] = _CHECKS.get(key, _plain)(value, hints[key])
        except _WrongValueError as error:
            faults.extend(f"{prefix}{key}{fault}" for fault in error.args)
    return values


def _unknown(key: str, prefix: str) -> str:
    shown = key if _BARE.match(key) else repr(key)
    text = f"{prefix}{shown[:80]} is not a known key"
    known = [item.name for item in fields(Limits if prefix else Config)]
    if close := get_close_matches(key, known, 1):
        return f"{text}; did you mean {prefix}{close[0]}?"
    known = [item.name for item in fields(Config if prefix else Limits)]
    if close := get_close_matches(key, known, 1):
        if prefix:
            return f"{text}; did you mean {close[0]}, which stands above [limits]?"
        return f"{text}; did you mean {_LIMITS}{close[0]}, which stands below [limits]?"
    return text


_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


# --- values

T = TypeVar("T")


class _WrongValueError(Exception):
    """What is wrong with the value of a key: sentences that go on after its name."""


def _plain(value: Any, hint: Any) -> Any:
    """Return ``value`` if it is of the type and within the bounds of ``hint``."""
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        if match := _EXPECTED.match(str(error)):
            wanted, got = match.groups()
            found = "a number with a point" if got == "float" else _KINDS.get(got, got)
            raise _WrongValueError(f" must be {_KINDS.get(wanted, wanted)}, not {found}") from None
        (meta,) = hint.__metadata__
        bounds = f"from {meta.ge}" if meta.gt is None else f"more than {meta.gt}"
        raise _WrongValueError(f" must be {bounds}{' to ' if meta.gt is None else ' and at most '}{meta.le}") from None


_EXPECTED = re.compile(r"Expected `(.*)`, got `(.*)`\Z")
_KINDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "date": "a date",
    "time": "a time",
    "datetime": "a date",
}


def _one(check: Callable[[str], T]) -> Callable[[Any, Any], T]:
    """Return a check of one string, made from one that raises :class:`ValueError`."""

    def checked(value: Any, _hint: Any) -> T:
        text = _plain(value, str)
        try:
            return check(text)
        except ValueError as error:
            raise _WrongValueError(f" {error}") from None

    return checked


def _each(check: Callable[[str], T], *, least: int = 0) -> Callable[[Any, Any], tuple[T, ...]]:
    """Return a check of a list of strings, ``least`` of them or more."""
    check_one = _one(check)

    def checked(value: Any, _hint: Any) -> tuple[T, ...]:
        items = _plain(value, list[Any])
        if len(items) < least:
            raise _WrongValueError(" must not be empty")
        results: list[T] = []
        faults: list[str] = []
        for place, item in enumerate(items):
            try:
                results.append(check_one(item, str))
            except _WrongValueError as error:
                faults.extend(f"[{place}]{fault}" for fault in error.args)
        if faults:
            raise _WrongValueError(*faults)
        return tuple(results)

    return checked


def _endpoint(text: str) -> str:
    kind, _, rest = text.partition(":")
    if kind in ("tcp", "tcp6", "unix"):
        try:
            # Nothing listens yet: an endpoint of these kinds only keeps the reactor that it is given.
            serverFromString(_NO_REACTOR, f"tcp:{rest}" if kind == "tcp6" else text)
        except (ValueError, TypeError, RuntimeError):
            raise ValueError(f"is no endpoint of Twisted; write it like {_EXAMPLES[kind]}") from None
        port = _PORT.match(text)
        if port and not 0 <= int(port.group(1)) <= 65535:
            raise ValueError("has a port outside 0 to 65535")
    elif kind not in _OPAQUE or not rest:
        known = ", ".join((*_EXAMPLES, *_OPAQUE))
        raise ValueError(f"is no endpoint of Twisted; it must begin with one of {known}, and a colon")
    return text


_NO_REACTOR: Any = object()
_EXAMPLES = {
    "tcp": '"tcp:8080:interface=127.0.0.1"',
    "tcp6": '"tcp6:8080"',
    "unix": '"unix:/run/devconf/http.sock:mode=660"',
}
#: Reading these reads certificates or the environment, which is for the moment when the server starts.
_OPAQUE = ("ssl", "tls", "systemd", "haproxy")
_PORT = re.compile(r"tcp6?:(?:port=)?(-?[0-9]+)(?:\Z|:)")


def _public_url(text: str) -> str:
    match = _PUBLIC_URL.match(text)
    try:
        if not match or not 1 <= int(match.group("port") or 80) <= 65535:
            raise ValueError
        if match.group("v6"):
            IPv6Address(match.group("v6"))
    except ValueError:
        raise ValueError(
            'must be "http://" or "https://" and a host, perhaps with a port, and nothing after it,'
            ' like "https://devconf.example.com"'
        ) from None
    return text.removesuffix("/")


_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_HOST = re.compile(rf"{_NAME}\Z")
_PUBLIC_URL = re.compile(rf"https?://(?:{_NAME}|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?/?\Z")


def _database(text: str) -> str:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError('is no URL of a database; write it like "sqlite:////var/lib/devconf/devconf.sqlite"') from None
    # The text is not repeated: it may have a password.
    if url.drivername != "sqlite":
        raise ValueError("must begin with sqlite:///: this version keeps its data in a file of SQLite only")
    if url.host or url.query:
        raise ValueError("must be sqlite:/// and the path of a file, nothing else")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ValueError("must name a file after sqlite:///: a database in memory would be lost at each stop")
    return text


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise ValueError('is no network; write it like "10.0.0.0/8", "192.168.1.5" or "fd00::/8"') from None
    raise ValueError(f'has bits set after its prefix; the network is "{meant}"')


def _host(text: str) -> str:
    if len(text) > 253 or not _HOST.match(text):
        raise ValueError("is no host name; write it without port and without *, one entry for each name")
    return text.lower()


def _field_name(text: str) -> str:
    if not 1 <= len(text) <= 128:
        raise ValueError("must have 1 to 128 characters")
    return text


_CHECKS: dict[str, Callable[[Any, Any], Any]] = {
    "listen": _each(_endpoint, least=1),
    "metrics": _each(_endpoint),
    "public_url": _one(_public_url),
    "database": _one(_database),
    "legacy_device_networks": _each(_network),
    "trusted_proxies": _each(_network),
    "allowed_hosts": _each(_host),
    "tolerated_params": _each(_field_name),
}
