"""Tokens (protocol §1): traded once, ended by family, and what an ended family takes with it."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from kit import Json, World, handshake_status, ok
from kit_http import line
from kit_people import BAD_LOGIN, NO_TOKEN, Person, assert_ended, granted, refused, standard, tokens_work

NOT_JSON, BAD_FIELD, TOO_LARGE = 1004000001, 1004000002, 1004130001
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SECRETS = ("atoken", "rtoken")


def ends(login: Json, name: str) -> datetime:
    text = login[f"{name}_edt"]
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


def about(one: timedelta, other: timedelta) -> bool:
    return abs(one - other) < timedelta(minutes=5)


def test_login_says_when_its_tokens_end(world: World) -> None:
    login = world.http.login("viewer", "vwr-d2e84bTy")
    now = datetime.now(UTC)
    assert about(ends(login, "atoken") - now, timedelta(hours=1))
    assert about(ends(login, "rtoken") - now, timedelta(days=30))
    assert len({login[name] for name in SECRETS}) == 2
    assert all(len(login[name]) >= 43 for name in SECRETS), "256 bits take 43 characters at least"


# -- token


def test_traded(world: World) -> None:
    """New tokens that work, for the same account; the sockets stay."""
    person = Person(world)
    first = person.login()
    client = person.client(first)
    second = granted(world.http.token(first["rtoken"]))
    third = granted(world.http.token(second["rtoken"]))
    for login in (second, third):
        assert (login["user_unid"], login["user_type"]) == (first["user_unid"], "user")
        assert about(ends(login, "rtoken") - ends(login, "atoken"), timedelta(days=30, hours=-1))
    assert len({login[name] for login in (first, second, third) for name in SECRETS}) == 6
    assert client.works()
    assert person.client(third).works()
    assert person.client(third, "header").works()


def test_traded_by_a_device(world: World) -> None:
    device = world.device(connect=False)
    login = device.login()
    traded = granted(world.http.token(login["rtoken"]))
    assert (traded["user_unid"], traded["user_type"]) == (device.dev_unid, "dev")
    body = {"dev_refid": device.dev_refid, "dev_type": "box", "dev_name": "n"}
    standard(world.http.register(device.dev_unid, traded["atoken"], body))
    assert handshake_status(world.http.header_url, traded["atoken"]) == 101


def test_a_second_use_ends_the_family(world: World) -> None:
    """With all its tokens, tickets and sockets; what was logged in apart from it stays."""
    person = Person(world)
    first, apart = person.login(), person.login()
    before = person.client(first)
    second = granted(world.http.token(first["rtoken"]))
    after = person.client(second, "header")
    third = granted(world.http.token(second["rtoken"]))
    ticket = world.http.ws_url(third["user_unid"], third["atoken"])
    stays = person.client(apart)
    refused(world.http.token(first["rtoken"]), NO_TOKEN)
    assert [client.wait_closed() for client in (before, after)] == [1008] * 2
    for login in (first, second, third):
        assert_ended(world, login)
    assert handshake_status(ticket) == 401
    assert stays.works()
    assert tokens_work(world, apart)
    assert person.client(granted(world.http.token(apart["rtoken"]))).works()


def test_a_second_use_ends_the_family_of_a_device(world: World) -> None:
    device = world.device(connect=False)
    login = device.login()
    world.connect(device)
    traded = granted(world.http.token(login["rtoken"]))
    refused(world.http.token(login["rtoken"]), NO_TOKEN)
    assert device.sockets[-1].wait_closed() == 1008
    assert_ended(world, traded)
    device.login()
    world.connect(device)


def test_many_uses_at_once_are_one_use(world: World) -> None:
    """Of programs that share an `rtoken` one gets new tokens, and by the next use all are out."""
    person = Person(world)
    login = person.login()
    client = person.client(login)
    with ExitStack() as stack:
        lines = [stack.enter_context(line(world.http)) for _ in range(5)]
        for each in lines:
            each.send("POST", "/webapi/v1/token", {"rtoken": login["rtoken"]})
        replies = [each.receive() for each in lines]
    (first,) = [reply for reply in replies if reply.status == 200]
    for reply in replies:
        if reply is not first:
            refused(reply, NO_TOKEN)
    assert client.wait_closed() == 1008
    assert_ended(world, granted(first))
    granted(person.try_login())


@pytest.mark.parametrize("rtoken", ["", "nonsense", "0" * 64, "\xe4\U0001f600", "x" * 2000])
def test_unknown_rtoken(world: World, rtoken: str) -> None:
    with world.server.unchanged(leave_out=()):
        reply = world.http.token(rtoken)
        # Whether an empty text is a token that is unknown or none at all is left open.
        refused(reply, BAD_FIELD if rtoken == "" and reply.status == 400 else NO_TOKEN)


def test_a_token_of_the_other_kind(world: World) -> None:
    """An `atoken` buys nothing, an `rtoken` opens nothing, and trying ends neither."""
    person = Person(world)
    login = person.login()
    with world.server.unchanged(leave_out=()):
        refused(world.http.token(login["atoken"]), NO_TOKEN)
        refused(world.http.ask_ws_url(login["user_unid"], login["rtoken"]), NO_TOKEN)
        refused(world.http.request("GET", "/webapi/v1/devconf_fx/tasks", atoken=login["rtoken"]), NO_TOKEN)
        assert handshake_status(world.http.header_url, login["rtoken"]) == 401
    assert tokens_work(world, login)
    granted(world.http.token(login["rtoken"]))


@pytest.mark.parametrize(
    ("body", "ecode", "says"),
    [
        ({}, BAD_FIELD, "$.rtoken"),
        ({"rtoken": 5}, BAD_FIELD, "$.rtoken"),
        ({"rtoken": None}, BAD_FIELD, "$.rtoken"),
        ({"rtoken": ["x"]}, BAD_FIELD, "$.rtoken"),
        ([], NOT_JSON, ""),
        ("rtoken", NOT_JSON, ""),
        (None, NOT_JSON, ""),
        ({"rtoken": "x" * 5000}, TOO_LARGE, ""),
    ],
)
def test_a_body_that_is_wrong(world: World, body: object, ecode: int, says: str) -> None:
    with world.server.unchanged(leave_out=()):
        refused(world.http.request("POST", "/webapi/v1/token", body), ecode, says)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"rtoken": NaN}'])
@pytest.mark.parametrize("what", ["token", "logout"])
def test_a_body_that_is_no_json(world: World, what: str, raw: bytes) -> None:
    """A logout without body is one without a token."""
    with world.server.unchanged(leave_out=()):
        reply = world.http.request("POST", f"/webapi/v1/{what}", raw=raw)
        refused(reply, NO_TOKEN if (what, raw) == ("logout", b"") else NOT_JSON)


# -- logout


@pytest.mark.parametrize("how", ["bare", "bearer", "rtoken", "newer rtoken"])
def test_logout(world: World, how: str) -> None:
    """The family ends; who asked by which of its tokens makes no difference."""
    person = Person(world)
    first, apart = person.login(), person.login()
    sockets = [person.client(first), person.client(first, "header")]
    second = granted(world.http.token(first["rtoken"]))
    sockets.append(person.client(second))
    ticket = world.http.ws_url(second["user_unid"], second["atoken"])
    stays = person.client(apart)
    tokens = {"bare": second["atoken"], "bearer": f"Bearer {second['atoken']}"}
    if how in tokens:
        standard(world.http.logout(tokens[how]))
    else:
        standard(world.http.logout(rtoken=second["rtoken"]))
    assert [client.wait_closed() for client in sockets] == [1008] * 3
    assert_ended(world, first)
    assert_ended(world, second)
    assert handshake_status(ticket) == 401
    refused(world.http.logout(rtoken=second["rtoken"]), NO_TOKEN)
    assert stays.works()
    assert tokens_work(world, apart)
    granted(world.http.token(apart["rtoken"]))
    granted(person.try_login())


@pytest.mark.parametrize("atoken", [None, "", "nonsense", "Bearer nonsense", "Bearer"])
def test_logout_without_a_good_token(world: World, atoken: str | None) -> None:
    with world.server.unchanged(leave_out=()):
        refused(world.http.logout(atoken), NO_TOKEN)
        refused(world.http.logout(rtoken="nonsense"), NO_TOKEN)


def test_logout_with_a_wrong_field(world: World) -> None:
    with world.server.unchanged(leave_out=()):
        refused(world.http.request("POST", "/webapi/v1/logout", {"rtoken": 5}), BAD_FIELD, "$.rtoken")


def test_logout_ends_no_account(world: World) -> None:
    """Wrong tokens and ended ones tell nothing of the account: its password still decides."""
    person = Person(world)
    standard(world.http.logout(person.login()["atoken"]))
    refused(person.try_login("wrong"), BAD_LOGIN)
    assert person.client().works()


# -- the header


@pytest.mark.parametrize("scheme", ["", "Bearer ", "bearer ", "BEARER "])
def test_header_with_and_without_scheme(world: World, scheme: str) -> None:
    header = scheme + world.viewer.atoken
    assert world.http.ask_ws_url(world.viewer.login["user_unid"], header).status == 200
    assert world.http.request("GET", "/webapi/v1/devconf_fx/tasks", atoken=header).status == 200
    assert handshake_status(world.http.header_url, header) == 101


@pytest.mark.parametrize("scheme", ["Basic ", "Token ", "Bearer Bearer ", "x"])
def test_header_with_another_scheme(world: World, scheme: str) -> None:
    header = scheme + world.viewer.atoken
    refused(world.http.request("GET", "/webapi/v1/devconf_fx/tasks", atoken=header), NO_TOKEN)
    assert handshake_status(world.http.header_url, header) == 401


# -- kept


def test_tokens_survive_a_restart(world: World) -> None:
    """And so does what was ended: a family is over for good."""
    person, device = Person(world), world.device(connect=False)
    kept, ended = person.login(), person.login()
    spent = person.login()
    granted(world.http.token(spent["rtoken"]))
    standard(world.http.logout(ended["atoken"]))
    of_device = device.login()
    world.restart()
    assert tokens_work(world, kept)
    assert person.client(granted(world.http.token(kept["rtoken"]))).works()
    assert_ended(world, ended)
    refused(world.http.token(spent["rtoken"]), NO_TOKEN)
    assert not tokens_work(world, spent)
    assert tokens_work(world, of_device)
    ok(world.admin.call("get tasks"))
