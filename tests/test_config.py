"""The configuration file: its defaults, its sample, and all that can be wrong with it, at once."""

from __future__ import annotations

import json
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from attrs import evolve, fields
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from devconf.config import Config, Limits, is_among, load, parse
from devconf.errors import StartupError

SAMPLE = Path(__file__).parent.parent / "etc" / "devconf.toml"


def faults(text: str) -> list[str]:
    """Return the lines of the refusal of ``text``, without the name of the file in front."""
    with pytest.raises(StartupError) as caught:
        parse(text, "devconf.toml")
    lines = str(caught.value).split("\n")
    assert all(line.startswith("devconf.toml: ") for line in lines)
    return [line.removeprefix("devconf.toml: ") for line in lines]


# --- defaults and the sample


def test_an_empty_file_is_the_defaults() -> None:
    assert parse("", "devconf.toml") == Config()
    assert parse("[limits]", "devconf.toml") == Config()
    assert Config() == Config(
        listen=("tcp:8080:interface=127.0.0.1",),
        public_url=None,
        database="sqlite:///devconf.sqlite",
        device_timeout=10.0,
        legacy_device_networks=(),
        trusted_proxies=(),
        allowed_hosts=(),
        tolerated_params=(),
        limits=Limits(
            store_conf_max=1048576,
            device_message_max=262144,
            login_message_max=4096,
            requests_per_connection=256,
            outstanding_per_device=8,
            waiting_per_lock=32,
            unread_bytes=4194304,
            unread_messages=1000,
            connections=100000,
            connections_per_address_before_login=20,
            history_days=90,
            history_commands=1000000,
        ),
    )


def test_the_sample_is_the_defaults() -> None:
    assert load(str(SAMPLE)) == Config()


def test_the_sample_has_every_key() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    table = tomllib.loads(text.replace("#public_url", "public_url"))
    assert set(table.pop("limits")) == {item.name for item in fields(Limits)}
    assert {*table, "limits"} == {item.name for item in fields(Config)}
    assert parse(text.replace("#public_url", "public_url"), "devconf.toml") == evolve(
        Config(), public_url="https://devconf.example.com"
    )


@pytest.mark.parametrize("kind", [Config, Limits])
def test_every_key_is_documented(kind: type[Config] | type[Limits]) -> None:
    assert kind.__doc__ is not None
    documented = [line.split(":")[1].split()[1] for line in kind.__doc__.splitlines() if ":ivar" in line]
    assert documented == [item.name for item in fields(kind)]


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().device_timeout = 3.0  # type: ignore[misc]


def test_the_largest_message_of_an_operator_follows_from_the_largest_content() -> None:
    assert Limits().operator_message_max == 1463637
    assert Limits(store_conf_max=3).operator_message_max == 65540


# --- a whole file

FULL = r"""
listen = ["tcp:80", "tcp6:443:interface=\\:\\:1", "unix:/run/devconf.sock:mode=660", "systemd:domain=INET:index=0"]
public_url = "https://Devconf.example.com:8443/"
database = "sqlite:////var/lib/devconf/devconf.sqlite"
device_timeout = 5
legacy_device_networks = ["10.0.0.0/8", "192.168.1.5", "fd00::/8"]
trusted_proxies = ["::1", "127.0.0.1"]
allowed_hosts = ["Devconf.Example.com", "devconf"]
tolerated_params = ["old_field", "page"]

[limits]
store_conf_max = 2_097_152
history_days = 1
"""


def test_a_whole_file() -> None:
    config = parse(FULL, "devconf.toml")
    assert config == Config(
        listen=(
            "tcp:80",
            r"tcp6:443:interface=\:\:1",
            "unix:/run/devconf.sock:mode=660",
            "systemd:domain=INET:index=0",
        ),
        public_url="https://Devconf.example.com:8443",
        database="sqlite:////var/lib/devconf/devconf.sqlite",
        device_timeout=5.0,
        legacy_device_networks=(
            ip_network("10.0.0.0/8"),
            ip_network("192.168.1.5/32"),
            ip_network("fd00::/8"),
        ),
        trusted_proxies=(ip_network("::1/128"), ip_network("127.0.0.1/32")),
        allowed_hosts=("devconf.example.com", "devconf"),
        tolerated_params=("old_field", "page"),
        limits=Limits(store_conf_max=2097152, history_days=1),
    )
    assert type(config.device_timeout) is float


def test_all_faults_are_told_at_once() -> None:
    assert faults(
        """
        listen = ["tcp:x", "udp:1", "tcp:80"]
        database = 1
        device_timout = 3
        connections = 3
        [limits]
        store_conf_max = "1 MiB"
        history_days = 0
        device_timeout = 3
        nonsense = 1
        """
    ) == [
        'listen[0] is no endpoint of Twisted; write it like "tcp:8080:interface=127.0.0.1"',
        "listen[1] is no endpoint of Twisted; it must begin with one of tcp, tcp6, unix, ssl, tls, systemd,"
        " haproxy, and a colon",
        "database must be a string, not an integer",
        "device_timout is not a known key; did you mean device_timeout?",
        "connections is not a known key; did you mean limits.connections, which stands below [limits]?",
        "limits.store_conf_max must be an integer, not a string",
        "limits.history_days must be from 1 to 36500",
        "limits.device_timeout is not a known key; did you mean device_timeout, which stands above [limits]?",
        "limits.nonsense is not a known key",
    ]


# --- keys and types


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('"a b" = 1', "'a b' is not a known key"),
        (r'"a\nb" = 1', r"'a\nb' is not a known key"),
        ('"" = 1', "'' is not a known key"),
        ("x" * 200 + " = 1", "x" * 80 + " is not a known key"),
        ("limits = 3", "limits must be a table: write [limits], and its keys below"),
        ("[[limits]]", "limits must be a table: write [limits], and its keys below"),
        ("[limit]", "limit is not a known key; did you mean limits?"),
        ("[limits.connections]", "limits.connections must be an integer, not a table"),
        ("limits.connections = true", "limits.connections must be an integer, not true or false"),
        ("limits.connections = 1.0", "limits.connections must be an integer, not a number with a point"),
        ("limits.connections = -1", "limits.connections must be from 1 to 1000000"),
        ("limits.connections = 0x" + "f" * 9000, "limits.connections must be from 1 to 1000000"),
        ("limits.store_conf_max = 67108865", "limits.store_conf_max must be from 1 to 67108864"),
        ("device_timeout = true", "device_timeout must be a number, not true or false"),
        ('device_timeout = "10"', "device_timeout must be a number, not a string"),
        ("device_timeout = 0", "device_timeout must be more than 0 and at most 3600"),
        ("device_timeout = 3600.1", "device_timeout must be more than 0 and at most 3600"),
        ("device_timeout = nan", "device_timeout must be more than 0 and at most 3600"),
        ("device_timeout = inf", "device_timeout must be more than 0 and at most 3600"),
        ("public_url = 1", "public_url must be a string, not an integer"),
        ('listen = "tcp:80"', "listen must be a list, not a string"),
        ("listen = []", "listen must not be empty"),
        ("listen = [80]", "listen[0] must be a string, not an integer"),
        ('allowed_hosts = ["a", 1]', "allowed_hosts[1] must be a string, not an integer"),
        ("tolerated_params = [12:00:00]", "tolerated_params[0] must be a string, not a time"),
    ],
)
def test_a_wrong_key_or_type(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize("key", [item.name for item in fields(Limits)])
def test_each_limit_is_a_whole_number_from_1(key: str) -> None:
    assert getattr(parse(f"limits.{key} = 1", "devconf.toml").limits, key) == 1
    (fault,) = faults(f"limits.{key} = 0")
    assert fault.startswith(f"limits.{key} must be from 1 to ")
    assert faults(f"limits.{key} = true") == [f"limits.{key} must be an integer, not true or false"]
    largest = int(fault.rpartition(" ")[2])
    assert getattr(parse(f"limits.{key} = {largest}", "devconf.toml").limits, key) == largest
    assert faults(f"limits.{key} = {largest + 1}") == [fault]


# --- values

TCP = 'listen[0] is no endpoint of Twisted; write it like "tcp:8080:interface=127.0.0.1"'
TCP6 = 'listen[0] is no endpoint of Twisted; write it like "tcp6:8080"'
UNIX = 'listen[0] is no endpoint of Twisted; write it like "unix:/run/devconf/http.sock:mode=660"'
KIND = (
    "listen[0] is no endpoint of Twisted; it must begin with one of tcp, tcp6, unix, ssl, tls, systemd, haproxy,"
    " and a colon"
)
PORT = "listen[0] has a port outside 0 to 65535"


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        ("", KIND),
        ("8080", KIND),
        ("TCP:8080", KIND),
        ("ssl", KIND),
        ("tls:", KIND),
        ("onion:80", KIND),
        ("tcp", TCP),
        ("tcp:", TCP),
        ("tcp:http", TCP),
        ("tcp:80:interfce=127.0.0.1", TCP),
        ("tcp:80\\", TCP),
        ("tcp6:x", TCP6),
        ("unix", UNIX),
        ("unix:/run/x:mode=9", UNIX),
        ("tcp:65536", PORT),
        ("tcp6:port=65536:interface=x", PORT),
        ("tcp:-1", PORT),
    ],
)
def test_an_endpoint_that_twisted_would_not_take(endpoint: str, fault: str) -> None:
    assert faults(f"listen = ['{endpoint}']") == [fault]


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:0",
        "tcp:port=80",
        "tcp6:65535",
        "unix:/x",
        "ssl:443:privateKey=/a.pem",
        "tls:/etc/le:port=443",
        "systemd:domain=INET:index=0",
        "haproxy:tcp:8080",
    ],
)
def test_an_endpoint_is_checked_without_opening_anything(endpoint: str) -> None:
    assert parse(f"listen = ['{endpoint}']", "devconf.toml").listen == (endpoint,)


PUBLIC_URL = (
    'public_url must be "http://" or "https://" and a host, perhaps with a port, and nothing after it, like'
    ' "https://devconf.example.com"'
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost", "http://localhost"),
        ("http://10.1.2.3:8080/", "http://10.1.2.3:8080"),
        ("https://[::1]:8080", "https://[::1]:8080"),
    ],
)
def test_a_public_url_is_kept_without_a_slash(text: str, url: str) -> None:
    assert parse(f"public_url = '{text}'", "devconf.toml").public_url == url


@pytest.mark.parametrize(
    "url",
    ["", "h.example.com", "ws://h", "http://", "http://h/x", "http://h//", "http://h?x", "http://h#", "http://u:p@h"],
)
def test_a_public_url_has_nothing_but_scheme_and_host(url: str) -> None:
    assert faults(f"public_url = {json.dumps(url)}") == [PUBLIC_URL]


@pytest.mark.parametrize(
    "host", ["a b", "h\n", "-h", "h..x", "h\u00e9", "[::1", "[1]", "::1", "h:", "h:x", "h:0", "h:65536"]
)
def test_a_public_url_has_a_host_that_can_be(host: str) -> None:
    assert faults(f"public_url = {json.dumps('http://' + host)}") == [PUBLIC_URL]


NOT_SQLITE = "database must begin with sqlite:///: this version keeps its data in a file of SQLite only"
NOT_PLAIN = "database must be sqlite:/// and the path of a file, nothing else"
IN_MEMORY = "database must name a file after sqlite:///: a database in memory would be lost at each stop"
NO_URL = 'database is no URL of a database; write it like "sqlite:////var/lib/devconf/devconf.sqlite"'


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", NO_URL),
        ("devconf.sqlite", NO_URL),
        ("postgresql://h:port/x", NO_URL),
        ("postgresql://user:secret@h/devconf", NOT_SQLITE),
        ("sqlite+aiosqlite:///x.sqlite", NOT_SQLITE),
        ("sqlite://x.sqlite", NOT_PLAIN),
        ("sqlite:///x.sqlite?mode=memory", NOT_PLAIN),
        ("sqlite://", IN_MEMORY),
        ("sqlite:///", IN_MEMORY),
        ("sqlite:///:memory:", IN_MEMORY),
        ("sqlite:///file::memory:", IN_MEMORY),
    ],
)
def test_a_database_is_a_file_of_sqlite(url: str, fault: str) -> None:
    assert faults(f"database = '{url}'") == [fault]


NO_NETWORK = 'is no network; write it like "10.0.0.0/8", "192.168.1.5" or "fd00::/8"'


@pytest.mark.parametrize("key", ["legacy_device_networks", "trusted_proxies"])
def test_a_network_is_an_address_perhaps_with_a_prefix(key: str) -> None:
    assert faults(f"{key} = ['10.0.0.1/8', 'localhost', '', '10.0.0.0/33', '10.0.0.0/8']") == [
        f'{key}[0] has bits set after its prefix; the network is "10.0.0.0/8"',
        f"{key}[1] {NO_NETWORK}",
        f"{key}[2] {NO_NETWORK}",
        f"{key}[3] {NO_NETWORK}",
    ]


@pytest.mark.parametrize(
    "host", ["", "a:80", "*.example.com", "a..b", "a.", "-a", "a b", "é", "a" * 64, "a." * 126 + "aa"]
)
def test_an_allowed_host_is_a_bare_name(host: str) -> None:
    assert faults(f"allowed_hosts = ['{host}']") == [
        "allowed_hosts[0] is no host name; write it without port and without *, one entry for each name"
    ]


def test_a_tolerated_field_has_a_name() -> None:
    assert faults(f"tolerated_params = ['', '{'x' * 129}', '{'x' * 128}']") == [
        "tolerated_params[0] must have 1 to 128 characters",
        "tolerated_params[1] must have 1 to 128 characters",
    ]


# --- files


def test_what_is_no_toml_is_refused_with_its_place() -> None:
    assert faults("listen = [\n") == ["not TOML: Invalid value (at end of document)"]
    assert faults("device_timeout = 1\n9") == [
        "not TOML: Expected '=' after a key in a key/value pair (at end of document)"
    ]
    assert faults("listen = " + "[" * 100_000) == ["not TOML: it is nested too deep"]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    with pytest.raises(StartupError) as caught:
        load(missing)
    assert str(caught.value) == f"{missing}: cannot be read: No such file or directory"
    with pytest.raises(StartupError) as caught:
        load(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_file_is_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "devconf.toml"
    path.write_bytes(b"\xef\xbb\xbf# \xe6\x91\x84\r\ndevice_timeout = 3\r\n")
    assert load(str(path)) == Config(device_timeout=3.0)
    path.write_bytes(b"# \xd6\xd0")
    with pytest.raises(StartupError) as caught:
        load(str(path))
    assert str(caught.value) == f"{path}: byte 3 is not UTF-8; save the file as UTF-8"


KEYS = [item.name for item in fields(Config)] + [f"limits.{item.name}" for item in fields(Limits)]
VALUES = st.sampled_from(["1", "-1", "true", "nan", "[]", "[1]", "[[]]", "{}", "12:00:00", "'tcp:\\'", "['::/0']"])
TEXTS = st.text(st.characters(exclude_characters="'", exclude_categories=["Cc", "Cs"])).map("'{}'".format)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES | TEXTS | TEXTS.map("[{}]".format)))
def test_whatever_it_says_it_is_taken_or_refused(values: dict[str, str]) -> None:
    try:
        parse("\n".join(f"{key} = {value}" for key, value in values.items()), "devconf.toml")
    except StartupError as error:
        text = str(error)
    else:
        text = ""
    assert all(line.startswith("devconf.toml: ") for line in text.split("\n") if text)


@pytest.mark.parametrize(
    ("address", "among"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:11.1.2.3", False),
        ("fd00::1", True),
        ("fe80::1", False),
        ("unix", False),
        ("", False),
    ],
)
def test_which_addresses_are_among_networks(address: str, among: bool) -> None:
    networks = parse('trusted_proxies = ["10.0.0.0/8", "fd00::/8"]', "devconf.toml").trusted_proxies
    assert is_among(address, networks) is among
