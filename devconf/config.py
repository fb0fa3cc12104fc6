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

    :ivar store_conf_max: the largest content of a storage configuration, in bytes; default 1048576 (1 MiB), at most
        64 MiB.
    :ivar device_message_max: the largest message from a device, in bytes; default 262144 (256 KiB), at most 64 MiB.
    :ivar login_message_max: the largest message from a peer that has not logged in, in bytes; default 4096 (4 KiB),
        at most 1 MiB.
    :ivar requests_per_connection: requests of one connection that may be in flight; default 256, at most 65536.
    :ivar outstanding_per_device: messages to one device that may wait for its answer; default 8, at most 1024.
    :ivar waiting_per_lock: commands that may wait for another that changes the same thing; default 32, at most
        65536.
    :ivar unread_bytes: what may wait to be read by a slow peer, in bytes; default 4194304 (4 MiB), at most 1 GiB.
    :ivar unread_messages: messages that may wait to be read by a slow peer; default 1000, at most 1000000.
    :ivar connections: connections in all; default 100000, at most 1000000.
    :ivar connections_per_address_before_login: connections from one address that have not logged in; default 20, at
        most 1000000.
    :ivar history_days: how long the history of commands is kept, in days; default 90, at most 36500.
    :ivar history_commands: how many commands the history keeps; default 1000000, at most 1000000000.
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

    :ivar listen: where to listen, as endpoints of Twisted (``tcp``, ``tcp6``, ``unix``, ``ssl``, ``tls``,
        ``systemd``, ``haproxy``), at least one; default ``["tcp:8080:interface=127.0.0.1"]``.
    :ivar public_url: the address under which clients and devices reach the server, ``http://`` or ``https://`` and a
        host, kept without a slash at the end; default none: the host that a request came to.
    :ivar database: the database as a URL of SQLAlchemy, in this version a file of SQLite; a relative path starts at
        the server's working directory; default ``sqlite:///devconf.sqlite``.
    :ivar device_timeout: how long a command waits for a device's answer, in seconds (the time that a long message
        takes is added to it); default 10.0, at most 3600.
    :ivar legacy_device_networks: the networks from which old devices may log in without a key; default none.
    :ivar trusted_proxies: the networks of proxies whose ``X-Forwarded-For`` is believed; default none.
    :ivar allowed_hosts: the host names, in lower case and without a port, that may stand in an address made from a
        request's ``Host`` when there is no ``public_url``; default none.
    :ivar tolerated_params: unknown fields that pass in the ``params`` of a request, for old pages; default none.
    :ivar limits: see :class:`Limits`.
    """

    listen: tuple[str, ...] = ("tcp:8080:interface=127.0.0.1",)
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
    "public_url": _one(_public_url),
    "database": _one(_database),
    "legacy_device_networks": _each(_network),
    "trusted_proxies": _each(_network),
    "allowed_hosts": _each(_host),
    "tolerated_params": _each(_field_name),
}
