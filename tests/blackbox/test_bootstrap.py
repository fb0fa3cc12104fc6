"""What the C++ adapter in the field does (seeds), step by step, with a key and without one, and behind a proxy.

The server takes 127.0.1.0/24 for proxies, and 127.0.2.0/24 and 10.9.0.0/16 for networks of old devices.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

import pytest
from kit import WEB_PATH, WS_PATH, Device, Http, Json, Reply, Server, Socket, World, eventually, handshake_status, ok
from kit_http import line
from kit_people import BAD_LOGIN, granted, refused, standard

BAD_FIELD = 1004000002
PROXY, OTHER_PROXY, LEGACY, ELSEWHERE = "127.0.1.1", "127.0.1.7", "127.0.2.5", "127.0.3.1"
OLD_BOX = "10.9.0.5"
SERVER: dict[str, Any] = {
    "options": {
        "trusted_proxies": ["127.0.1.0/24"],
        "legacy_device_networks": ["127.0.2.0/24", "10.9.0.0/16"],
        "allowed_hosts": ["devconf.example.com"],
    }
}


@dataclass
class Adapter:
    """The steps of the adapter, on three prefixes; it sends the bare token, and echoes `src_page`."""

    http: Http
    dev_refid: str
    dev_key: str | None = None
    content_type: str = "application/json"
    login: Json = field(default_factory=dict)
    heard: list[Json] = field(default_factory=list)

    def post(self, path: str, body: Json, **headers: str) -> Reply:
        sent = {"content-type": self.content_type, **headers}
        return self.http.request("POST", path, raw=json.dumps(body).encode(), headers=sent)

    def step_1(self) -> Reply:
        """`POST <login url>`."""
        key = {} if self.dev_key is None else {"dev_key": self.dev_key}
        return self.post(f"{WEB_PATH}/login", {"user_type": "dev", "dev_refid": self.dev_refid} | key)

    def step_2(self) -> Reply:
        """`POST <prefix><user_unid>/register`."""
        path = f"{WEB_PATH}/devconf_fx/devices/{self.login['user_unid']}/register"
        body = {"dev_refid": self.dev_refid, "dev_type": "box", "dev_name": "an old box"}
        return self.post(path, body, authorization=self.login["atoken"])

    def step_3(self) -> Reply:
        """`GET <prefix><user_unid>/ws_url?type=devconf_fx`."""
        path = f"{WEB_PATH}/devconf_fx/users/{self.login['user_unid']}/ws_url?type=devconf_fx"
        return self.http.request("GET", path, headers={"authorization": self.login["atoken"]})

    def bootstrap(self) -> str:
        """All three; the address of its socket."""
        self.login = granted(self.step_1())
        standard(self.step_2())
        reply = self.step_3()
        assert reply.status == 200, reply
        assert set(reply.json) == {"ecode", "enote", "ws_url"}
        assert reply.json["ecode"] == 0
        url: str = reply.json["ws_url"]
        return url

    def connect(self, url: str) -> Socket:
        """It answers as the manual has it: the command and the `src_page` come back, and an `ecode`."""

        def arrived(channel: Socket, data: str | bytes) -> None:
            message = json.loads(data)
            self.heard.append(message)
            channel.send(json.dumps({k: message[k] for k in ("command", "src_page")} | {"ecode": 0}))

        channel = Socket(url, arrived, source=self.http.source)
        channel.start()
        return channel


def enrolled(world: World, *, key_required: bool = False) -> Device:
    """A device that has never come; without a key unless `key_required`."""
    device = world.device(connect=False)
    if not key_required:
        ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "key_required": False}))
    return device


def no_entry(world: World, adapter: Adapter) -> None:
    """It is refused as a device in the field can bear it, and nothing is written."""
    with world.server.unchanged(leave_out=()):
        refused(adapter.step_1(), BAD_LOGIN)


@pytest.mark.parametrize("key", [True, False], ids=["with a key", "without"])
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
def test_step_by_step(world: World, key: bool, content_type: str) -> None:
    """From the login to a task that it has confirmed. What kind of text it claims to send does not matter."""
    device = enrolled(world, key_required=key)
    http = world.http.seen_from(ELSEWHERE if key else LEGACY)
    adapter = Adapter(http, device.dev_refid, device.dev_key if key else None, content_type)
    url = adapter.bootstrap()
    assert (adapter.login["user_unid"], adapter.login["user_type"]) == (device.dev_unid, "dev")
    parts = urllib.parse.urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.query) == ("ws", f"{http.host}:{http.port}", "")
    prefix, _, connect_unid = parts.path.rpartition("/")
    assert prefix == WS_PATH
    assert len(connect_unid) >= 22, "128 bits take 22 characters at least"
    assert re.fullmatch(r"[0-9A-Za-z_-]+", connect_unid)
    item = world.device_item(device)
    assert (item["dev_type"], item["algos"], item["online"]) == ("box", None, False)
    channel = adapter.connect(url)
    try:
        eventually(lambda: world.is_online(device), "it is online")
        task_id = world.pic_task(device)
        assert world.task(task_id)["state"] == "confirmed"
        (order,) = adapter.heard
        assert set(order) == {"command", "req_id", "src_page", "params"}
        assert (order["command"], order["src_page"]) == (f"post {WS_PATH}/tasks", order["req_id"])
        assert handshake_status(url, source=http.source) == 401, "an address works once"
    finally:
        channel.end()


def test_it_names_itself_until_an_operator_does(world: World) -> None:
    params = {"dev_refid": "old-1", "key_required": False}
    dev_unid = ok(world.admin.call("post devices", params))["dev_unid"]
    adapter = Adapter(world.http.seen_from(LEGACY), "old-1")
    adapter.bootstrap()

    def name() -> str:
        (item,) = ok(world.viewer.call("get devices", {"dev_unid": dev_unid}))["devices"]
        return str(item["dev_name"])

    assert name() == "an old box"
    for given, shown in (("gate 7", "gate 7"), ("", "an old box")):
        ok(world.admin.call("put devices", {"dev_unid": dev_unid, "dev_name": given}))
        standard(adapter.step_2())
        assert name() == shown


# -- who needs no key


def test_no_key_again_and_again(world: World) -> None:
    device = enrolled(world)
    for http in (world.http.seen_from(LEGACY), world.http.seen_from(PROXY, x_forwarded_for=OLD_BOX)):
        for _ in range(2):
            granted(Adapter(http, device.dev_refid).step_1())


def test_no_key_from_elsewhere(world: World) -> None:
    device = enrolled(world)
    for source in ("", ELSEWHERE, PROXY):
        no_entry(world, Adapter(world.http.seen_from(source), device.dev_refid))


def test_no_key_where_the_record_asks_for_one(world: World) -> None:
    device = enrolled(world, key_required=True)
    adapter = Adapter(world.http.seen_from(LEGACY), device.dev_refid)
    no_entry(world, adapter)
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "key_required": False}))
    granted(adapter.step_1())
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "key_required": True}))
    no_entry(world, adapter)


def test_a_key_that_was_used_once_is_needed_always(world: World) -> None:
    """From any address, with any record, and after a restart."""
    device = enrolled(world)
    without = Adapter(world.http.seen_from(LEGACY), device.dev_refid)
    granted(without.step_1())
    granted(Adapter(world.http.seen_from(ELSEWHERE), device.dev_refid, device.dev_key).step_1())
    no_entry(world, without)
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "key_required": False}))
    no_entry(world, without)
    world.restart()
    no_entry(world, without)
    granted(Adapter(world.http.seen_from(LEGACY), device.dev_refid, device.dev_key).step_1())


@pytest.mark.parametrize("dev_key", ["0" * 64, "nonsense"])
def test_a_wrong_key_is_not_no_key(world: World, dev_key: str) -> None:
    device = enrolled(world)
    adapter = Adapter(world.http.seen_from(LEGACY), device.dev_refid, dev_key)
    no_entry(world, adapter)
    adapter.dev_key = None
    granted(adapter.step_1())


@pytest.mark.parametrize("dev_key", ["", None, 5])
def test_a_key_that_is_none(world: World, dev_key: object) -> None:
    """It is not left out: wrong, or of a wrong type."""
    device = enrolled(world)
    body = {"user_type": "dev", "dev_refid": device.dev_refid, "dev_key": dev_key}
    with world.server.unchanged(leave_out=()):
        reply = world.http.seen_from(LEGACY).request("POST", f"{WEB_PATH}/login", body)
        assert reply.json["ecode"] in ((BAD_LOGIN, BAD_FIELD) if dev_key == "" else (BAD_FIELD,))


def test_a_disabled_device_is_refused(world: World) -> None:
    old, new = enrolled(world), enrolled(world, key_required=True)
    for device in (old, new):
        ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "enabled": False}))
    no_entry(world, Adapter(world.http.seen_from(LEGACY), old.dev_refid))
    no_entry(world, Adapter(world.http.seen_from(LEGACY), new.dev_refid, new.dev_key))


def test_an_operator_without_a_password_is_nobody(world: World) -> None:
    """What holds for old devices opens nothing else."""
    body = {"user_type": "user", "user_name": "admin"}
    reply = world.http.seen_from(LEGACY).request("POST", f"{WEB_PATH}/login", body)
    refused(reply, BAD_FIELD, "$.password")


# -- behind a proxy


@pytest.mark.parametrize(
    "forwarded",
    [
        OLD_BOX,
        f"{OLD_BOX}, {OTHER_PROXY}",
        f"192.0.2.1, {OLD_BOX}",
        f"192.0.2.1,{OLD_BOX},{OTHER_PROXY}, {PROXY}",
        f"nonsense, {OLD_BOX}",
        LEGACY,
    ],
)
def test_forwarded_by_a_proxy(world: World, forwarded: str) -> None:
    """The last address that is no proxy's is the device's."""
    device = enrolled(world)
    granted(Adapter(world.http.seen_from(PROXY, x_forwarded_for=forwarded), device.dev_refid).step_1())


@pytest.mark.parametrize(
    "forwarded",
    [
        "192.0.2.1",
        f"{OLD_BOX}, 192.0.2.1",  # the device itself has written the first
        f"{OLD_BOX}, 192.0.2.1, {OTHER_PROXY}",
        f"{OLD_BOX}, nonsense",
        f"{OLD_BOX}, ",
        "",
        "nonsense",
        f"{OLD_BOX}/16",
        "10.9.0",
    ],
)
def test_spoofed_behind_a_proxy(world: World, forwarded: str) -> None:
    device = enrolled(world)
    http = world.http.seen_from(PROXY, x_forwarded_for=forwarded)
    if forwarded == f"{OLD_BOX}, ":  # whether an empty place is one is left open
        assert Adapter(http, device.dev_refid).step_1().status in (200, 401)
        return
    no_entry(world, Adapter(http, device.dev_refid))


@pytest.mark.parametrize(("lines", "is_let_in"), [((OLD_BOX, "192.0.2.1"), False), (("192.0.2.1", OLD_BOX), True)])
def test_forwarded_in_two_headers(world: World, lines: tuple[str, str], is_let_in: bool) -> None:
    """They are one list, in their order."""
    device = enrolled(world)
    with line(world.http.seen_from(PROXY)) as connection:
        request = connection.message(
            "POST", f"{WEB_PATH}/login", {"user_type": "dev", "dev_refid": device.dev_refid}, x_forwarded_for=lines[0]
        )
        more = f"x-forwarded-for: {lines[1]}\r\n\r\n".encode()
        connection.sock.sendall(request.replace(b"\r\n\r\n", b"\r\n" + more, 1))
        reply = connection.receive()
    if is_let_in:
        granted(reply)
    else:
        refused(reply, BAD_LOGIN)


@pytest.mark.parametrize("source", ["", ELSEWHERE])
def test_a_header_of_who_is_no_proxy_is_not_believed(world: World, source: str) -> None:
    device = enrolled(world)
    for forwarded in (OLD_BOX, LEGACY, f"{OLD_BOX}, {PROXY}"):
        no_entry(world, Adapter(world.http.seen_from(source, x_forwarded_for=forwarded), device.dev_refid))


def test_an_old_device_cannot_lose_its_place_by_a_header(world: World) -> None:
    device = enrolled(world)
    granted(Adapter(world.http.seen_from(LEGACY, x_forwarded_for="192.0.2.1"), device.dev_refid).step_1())


# -- who knocks and is not enrolled


def test_unknown_devices_are_listed(world: World) -> None:
    """The last one first, with their address, until they are enrolled."""

    def listed() -> list[Json]:
        answer = ok(world.admin.call("get devices/unknown"))
        assert set(answer) == {"command", "req_id", "ecode", "enote", "unknown"}
        items: list[Json] = answer["unknown"]
        assert all(set(item) == {"dev_refid", "addr", "first_at", "last_at", "count"} for item in items)
        return items

    before = {item["dev_refid"] for item in listed()}
    near = Adapter(world.http.seen_from(LEGACY), "knock-1")
    far = Adapter(world.http.seen_from(PROXY, x_forwarded_for="10.9.0.77"), "knock-2", "some key")
    for adapter in (near, far, near, near):
        no_entry(world, adapter)
    items = [item for item in listed() if item["dev_refid"] not in before]
    assert [(item["dev_refid"], item["addr"], item["count"]) for item in items] == [
        ("knock-1", LEGACY, 3),
        ("knock-2", "10.9.0.77", 1),
    ]
    assert items[0]["first_at"] < items[0]["last_at"]
    assert items[1]["first_at"] == items[1]["last_at"]
    ok(world.admin.call("post devices", {"dev_refid": "knock-1", "key_required": False}))
    assert "knock-1" not in [item["dev_refid"] for item in listed()]
    granted(near.step_1())
    assert "knock-1" not in [item["dev_refid"] for item in listed()]


# -- the host in ws_url


@pytest.mark.parametrize(
    "host",
    [
        "devconf.example.com",
        "devconf.example.com:8443",
        "localhost",
        "localhost:9",
        "192.0.2.9",
        "192.0.2.9:81",
        "[::1]:80",
    ],
)
def test_host_that_may_be_named(world: World, host: str) -> None:
    """A literal address, `localhost`, or one of `allowed_hosts`; with the port that was asked for."""
    login = world.viewer.login
    reply = Http(world.http.port, host=world.http.host, Host=host).ask_ws_url(login["user_unid"], login["atoken"])
    assert reply.status == 200, reply
    prefix, _, connect_unid = reply.json["ws_url"].rpartition("/")
    assert prefix == f"ws://{host}{WS_PATH}"
    assert handshake_status(f"{world.http.header_url}/{connect_unid}") == 101


@pytest.mark.parametrize(
    "host",
    ["evil.example", "devconf.example.com.evil.example", "evil.example:80", "sub.devconf.example.com", "a@b", ""],
)
def test_host_that_may_not(world: World, host: str) -> None:
    """Whoever can make a page ask with a `Host` of theirs does not learn a ticket's address there."""
    login = world.viewer.login
    reply = Http(world.http.port, host=world.http.host, Host=host).ask_ws_url(login["user_unid"], login["atoken"])
    if reply.status == 200:
        host_in_it = urllib.parse.urlsplit(reply.json["ws_url"]).netloc
        assert host_in_it == f"{world.http.host}:{world.http.port}"
    else:
        assert reply.json["ecode"] not in (0, 1004010001, 1004010002)
        assert "ws_url" not in reply.json


@pytest.mark.parametrize(
    ("public_url", "prefix"),
    [
        ("https://conf.example.com", "wss://conf.example.com"),
        ("http://conf.example.com:81", "ws://conf.example.com:81"),
    ],
)
def test_public_url(tmp_path: Any, public_url: str, prefix: str) -> None:
    """It counts more than what the request says."""
    server = Server(tmp_path, options={"public_url": public_url, "allowed_hosts": ["devconf.example.com"]})
    server.add_standing_users()
    server.start(may_move=True)
    try:
        login = server.http.login("viewer", "vwr-d2e84bTy")
        for host in ("devconf.example.com", "localhost", "evil.example"):
            http = Http(server.port, Host=host)
            url = http.ws_url(login["user_unid"], login["atoken"])
            assert url.rpartition("/")[0] == prefix + WS_PATH
        connect_unid = url.rpartition("/")[2]
        assert handshake_status(f"{server.http.header_url}/{connect_unid}") == 101
    finally:
        server.stop()
