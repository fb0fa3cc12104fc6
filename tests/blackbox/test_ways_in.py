"""The ways in (protocol §1): each refusal whole, with the HTTP status in the middle of its ecode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit import WEB_PATH, Device, Json, World, handshake_status
from kit_people import refused

NOT_JSON, BAD_FIELD = 1004000001, 1004000002
NO_TOKEN, BAD_LOGIN, NOT_ALLOWED, TOO_LARGE = 1004010001, 1004010003, 1004030001, 1004130001


@pytest.fixture(scope="module")
def pair(world: World) -> tuple[Device, Device]:
    """Two devices that have logged in and do no more."""
    device, other = (world.device(connect=False, keep=True) for _ in range(2))
    device.login()
    other.login()
    return device, other


@pytest.fixture(autouse=True)
def unchanged(world: World, pair: tuple[Device, Device]) -> Iterator[None]:
    with world.server.unchanged():
        yield


def named(body: object, device: Device) -> object:
    """`body` with "{refid}" replaced by that of a device."""
    if not isinstance(body, dict):
        return body
    return {k: device.dev_refid if v == "{refid}" else v for k, v in body.items()}


@pytest.mark.parametrize(
    ("body", "ecode", "says"),
    [
        ({"user_type": "user", "user_name": "admin", "password": "wrong"}, BAD_LOGIN, ""),
        ({"user_type": "user", "user_name": "nobody", "password": "wrong"}, BAD_LOGIN, ""),
        ({"user_type": "dev", "dev_refid": "nothing", "dev_key": "0" * 64}, BAD_LOGIN, ""),
        ({"user_type": "dev", "dev_refid": "{refid}", "dev_key": "0" * 64}, BAD_LOGIN, ""),
        ({"user_type": "dev", "dev_refid": "{refid}"}, BAD_LOGIN, ""),
        ({"user_type": "user", "user_name": "admin"}, BAD_FIELD, "$.password"),
        ({"user_type": "user", "user_name": 5, "password": "x"}, BAD_FIELD, "$.user_name"),
        ({"user_type": "robot", "user_name": "admin", "password": "x"}, BAD_FIELD, "$.user_type"),
        ({"user_name": "admin", "password": "x"}, BAD_FIELD, "$.user_type"),
        ([], NOT_JSON, ""),
    ],
)
def test_login_refused(world: World, pair: tuple[Device, Device], body: object, ecode: int, says: str) -> None:
    refused(world.http.request("POST", f"{WEB_PATH}/login", named(body, pair[0])), ecode, says)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"user_type": NaN}'])
def test_login_that_is_not_json(world: World, raw: bytes) -> None:
    refused(world.http.request("POST", f"{WEB_PATH}/login", raw=raw), NOT_JSON)


def test_login_too_large(world: World) -> None:
    body = {"user_type": "user", "user_name": "admin", "password": "x" * 5000}
    refused(world.http.request("POST", f"{WEB_PATH}/login", body), TOO_LARGE)


@pytest.mark.parametrize("atoken", [None, "", "nonsense", "Bearer nonsense", "\xe4"])
def test_ws_url_without_a_good_token(world: World, atoken: str | None) -> None:
    refused(world.http.ask_ws_url(world.admin.login["user_unid"], atoken), NO_TOKEN)


def test_ws_url_of_another_type_or_user(world: World) -> None:
    own, atoken = world.viewer.login["user_unid"], world.viewer.atoken
    refused(world.http.ask_ws_url(own, atoken, "devconf"), BAD_FIELD)
    refused(world.http.ask_ws_url(world.admin.login["user_unid"], atoken), NOT_ALLOWED)


def test_register_refused(world: World, pair: tuple[Device, Device]) -> None:
    device, other = pair
    body: Json = {"dev_refid": device.dev_refid, "dev_type": "box", "dev_name": "n"}
    refused(world.http.register(device.dev_unid, "nonsense", body), NO_TOKEN)
    refused(world.http.register(other.dev_unid, device.atoken, body), NOT_ALLOWED)
    for wrong_body, path in [
        (body | {"dev_refid": other.dev_refid}, "$.dev_refid"),
        ({"dev_refid": device.dev_refid, "dev_type": "box"}, "$.dev_name"),
        (body | {"algos": [5]}, "$.algos[0]"),
        (body | {"tasks": [{"task_id": "t"}]}, "$.tasks[0].rev"),
    ]:
        refused(world.http.register(device.dev_unid, device.atoken, wrong_body), BAD_FIELD, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "login"), ("PUT", "token"), ("GET", "logout"), ("POST", "backup"), ("POST", "login/"), ("GET", "nothing")],
)
def test_no_such_address_or_method(world: World, method: str, path: str) -> None:
    """A failure as any other, in JSON."""
    reply = world.http.request(method, f"{WEB_PATH}/{path}", {}, atoken=world.admin.atoken)
    refused(reply, reply.json["ecode"])
    assert 400 <= reply.status < 500


def test_a_ticket_works_once(world: World) -> None:
    login = world.viewer.login
    url = world.http.ws_url(login["user_unid"], login["atoken"])
    assert handshake_status(url) == 101
    assert handshake_status(url) == 401


def test_no_good_ticket_or_token(world: World) -> None:
    base = world.http.header_url
    assert handshake_status(f"{base}/{'0' * 32}") == 401
    assert handshake_status(base) == 401
    assert handshake_status(base, "nonsense") == 401
    assert handshake_status(base, "Bearer nonsense") == 401
    assert handshake_status(base, "") == 401
    assert handshake_status(f"{base}/{'x' * 5000}") in (400, 401, 404, 414, 431)


@pytest.mark.parametrize("how", ["ticket", "header", "bearer"])
def test_each_way_in_works(world: World, how: str) -> None:
    assert world.client("viewer", how).works()
