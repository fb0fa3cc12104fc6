"""Accounts (protocol §4, Users): made, listed, changed and deleted; what is refused changes nothing."""

from __future__ import annotations

import secrets
import uuid

import pytest
from kit import PASSWORDS, Client, Json, World, failed, ok, payload, unknown
from kit_http import Mirror
from kit_people import BAD_LOGIN, NOT_ALLOWED, Person, granted, refused

BAD_FIELD, NO_USER, EXISTS, LAST_ADMIN = 1004000002, 1004040005, 1004090003, 1004090004


@pytest.fixture(params=["websocket", "http"])
def admin(request: pytest.FixtureRequest, world: World) -> Client | Mirror:
    """The standing admin, by each of the two ways."""
    return world.admin if request.param == "websocket" else Mirror(world.http, world.admin.atoken)


def users(world: World, **params: object) -> list[Json]:
    found = payload(world.admin.call("get users", params))
    assert set(found) == {"users", "next"}
    items: list[Json] = found["users"]
    return items


# -- made and listed


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_made(world: World, admin: Client | Mirror, role: str) -> None:
    name, password = f"new-{uuid.uuid4().hex[:8]}", secrets.token_hex(8)
    params = {"user_name": name, "role": role, "password": password}
    assert payload(admin.call("post users", params)) == {}
    (item,) = users(world, user_name=name)
    assert item == {"user_unid": item["user_unid"], "user_name": name, "role": role}
    body = {"user_type": "user", "user_name": name, "password": password}
    login = granted(world.http.request("POST", "/webapi/v1/login", body))
    assert (login["user_unid"], login["user_type"]) == (item["user_unid"], "user")
    client = world.client(login=login)
    ok(client.call("get tasks"))
    assert client.call("get users")["ecode"] == (0 if role == "admin" else NOT_ALLOWED)
    assert payload(admin.call("delete users", {"user_name": name})) == {}
    assert users(world, user_name=name) == []


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("x", "y"),
        ("n" * 256, "p" * 1024),
        ("Zoë 王 \U0001f600", "пароль \U0001f511"),
        (" spaces ", " \t kept "),
        ("quote' \" \\ % _ ;--", '"; DROP TABLE users; --'),
    ],
    ids=["short", "long", "unicode", "spaces", "quotes"],
)
def test_names_and_passwords_are_kept_as_they_are(world: World, name: str, password: str) -> None:
    ok(world.admin.call("post users", {"user_name": name, "role": "viewer", "password": password}))
    assert [item["user_name"] for item in users(world, user_name=name)] == [name]
    assert world.http.login(name, password)["user_type"] == "user"
    for wrong in (password + " ", password[:-1], password.swapcase() if password.swapcase() != password else "z"):
        body = {"user_type": "user", "user_name": name, "password": wrong}
        assert world.http.request("POST", "/webapi/v1/login", body).json["ecode"] in (BAD_LOGIN, BAD_FIELD)
    ok(world.admin.call("delete users", {"user_name": name}))


def test_listed_in_pages(world: World) -> None:
    """In the order of creation; an `after` whose item is gone still works."""
    made = [Person(world, "viewer") for _ in range(5)]
    everybody = users(world)
    assert [item["user_name"] for item in everybody[:3]] == list(PASSWORDS)
    assert [item["user_name"] for item in everybody[-5:]] == [person.user_name for person in made]
    assert len({item["user_unid"] for item in everybody}) == len(everybody)
    found, after = [], None
    while True:
        page = payload(world.admin.call("get users", {"limit": 3} | ({"after": after} if after else {})))
        assert len(page["users"]) <= 3
        found += page["users"]
        if len(found) == 6:
            made[0].delete()
            everybody = [item for item in everybody if item["user_name"] != made[0].user_name or item in found]
        after = page["next"]
        if after is None:
            break
        assert isinstance(after, str)
    assert found == everybody
    for person in made[1:]:
        person.delete()


def test_a_name_may_come_again_and_an_id_never(world: World) -> None:
    first = Person(world)
    before = first.item()
    first.delete()
    second = Person(world, user_name=first.user_name)
    after = second.item()
    assert after["user_unid"] != before["user_unid"]
    refused(first.try_login(), BAD_LOGIN)
    second.delete()


# -- changed


def test_an_admin_gives_another_password(world: World, admin: Client | Mirror) -> None:
    person = Person(world)
    before, old = person.item(), person.password
    person.password = secrets.token_hex(8)
    assert payload(admin.call("put users", {"user_name": person.user_name, "password": person.password})) == {}
    assert person.item() == before
    refused(person.try_login(old), BAD_LOGIN)
    granted(person.try_login())
    person.delete()


def test_an_admin_gives_another_role(world: World, admin: Client | Mirror) -> None:
    person = Person(world, "viewer")
    before = person.item()
    for role in ("operator", "admin", "viewer"):
        assert payload(admin.call("put users", {"user_name": person.user_name, "role": role})) == {}
        assert person.item() == before | {"role": role}
        answer = person.client().call("get users")
        assert answer["ecode"] == (0 if role == "admin" else NOT_ALLOWED)
    person.delete()


def test_an_admin_gives_both(world: World) -> None:
    person = Person(world, "viewer")
    person.password = secrets.token_hex(8)
    params = {"user_name": person.user_name, "role": "operator", "password": person.password}
    assert payload(world.admin.call("put users", params)) == {}
    assert person.item()["role"] == "operator"
    granted(person.try_login())
    person.delete()


@pytest.mark.parametrize("way", ["websocket", "http"])
@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_own_password(world: World, role: str, way: str) -> None:
    person = Person(world, role)
    before, old = person.item(), person.password
    asker = person.client() if way == "websocket" else person.mirror()
    person.password = secrets.token_hex(8)
    params = {"user_name": person.user_name, "password": person.password, "old_password": old}
    assert payload(asker.call("put users", params)) == {}
    assert person.item() == before
    refused(person.try_login(old), BAD_LOGIN)
    granted(person.try_login())
    person.delete()


# -- refused


@pytest.mark.parametrize("role", ["viewer", "operator"])
@pytest.mark.parametrize("way", ["websocket", "http"])
def test_refused_to_who_is_no_admin(world: World, role: str, way: str) -> None:
    person, other = Person(world, role), Person(world, role)
    asker = person.client() if way == "websocket" else person.mirror()
    own, new = {"user_name": person.user_name}, {"password": "another"}
    cases: list[tuple[Json, int]] = [
        (own | new, NOT_ALLOWED),
        (own | new | {"old_password": "wrong"}, BAD_LOGIN),
        (own | new | {"old_password": ""}, BAD_LOGIN),
        (own | {"role": "admin"}, NOT_ALLOWED),
        (own | {"role": "admin", "old_password": person.password}, NOT_ALLOWED),
        (own | new | {"role": "admin", "old_password": person.password}, NOT_ALLOWED),
        ({"user_name": other.user_name, "old_password": other.password} | new, NOT_ALLOWED),
        ({"user_name": other.user_name, "old_password": person.password} | new, NOT_ALLOWED),
        ({"user_name": unknown(), "old_password": person.password} | new, NOT_ALLOWED),
    ]
    with world.server.unchanged(leave_out=()):
        for params, ecode in cases:
            answer = asker.call("put users", params)
            if params.get("old_password") == "" and answer["ecode"] == BAD_FIELD:
                ecode = BAD_FIELD  # an empty password is none: left open which
            failed(answer, ecode)
        assert isinstance(asker, Mirror) or asker.works()
    person.delete()
    other.delete()


@pytest.mark.parametrize(
    ("command", "params", "path"),
    [
        ("post users", {"user_name": ""}, "$.params.user_name"),
        ("post users", {"user_name": "n" * 257}, "$.params.user_name"),
        ("post users", {"role": "owner"}, "$.params.role"),
        ("post users", {"role": "Admin"}, "$.params.role"),
        ("post users", {"role": ""}, "$.params.role"),
        ("post users", {"password": ""}, "$.params.password"),
        ("post users", {"password": "p" * 1025}, "$.params.password"),
        ("put users", {"role": "owner"}, "$.params.role"),
        ("put users", {"password": ""}, "$.params.password"),
        ("put users", {"password": "p" * 1025}, "$.params.password"),
        ("get users", {"limit": 0}, "$.params.limit"),
        ("get users", {"limit": 1001}, "$.params.limit"),
    ],
)
def test_wrong_fields(world: World, admin: Client | Mirror, command: str, params: Json, path: str) -> None:
    given = {"user_name": "somebody", "role": "viewer", "password": "secret"} if command == "post users" else {}
    given = {"user_name": "viewer"} if command == "put users" else given
    with world.server.unchanged(leave_out=()):
        failed(admin.call(command, given | params), BAD_FIELD, path)


def test_nothing_to_change(world: World, admin: Client | Mirror) -> None:
    with world.server.unchanged(leave_out=()):
        failed(admin.call("put users", {"user_name": "viewer"}), BAD_FIELD)
        failed(admin.call("put users", {"user_name": "viewer", "old_password": "x"}), BAD_FIELD)


def test_no_such_user(world: World, admin: Client | Mirror) -> None:
    none = unknown()
    with world.server.unchanged(leave_out=()):
        failed(admin.call("put users", {"user_name": none, "role": "viewer"}), NO_USER, none)
        failed(admin.call("delete users", {"user_name": none}), NO_USER, none)
        failed(admin.call("delete users", {"user_name": "Viewer"}), NO_USER, "Viewer")
        assert payload(admin.call("get users", {"user_name": none})) == {"users": [], "next": None}


def test_there_is_such_a_user(world: World, admin: Client | Mirror) -> None:
    with world.server.unchanged(leave_out=()):
        answer = admin.call("post users", {"user_name": "viewer", "role": "viewer", "password": "another"})
        failed(answer, EXISTS, "viewer")


def test_the_last_admin_stays(world: World, admin: Client | Mirror) -> None:
    """Neither another role nor deleted, whoever else there is; with a second admin the first may go."""
    assert [item["user_name"] for item in users(world) if item["role"] == "admin"] == ["admin"]
    with world.server.unchanged(leave_out=()):
        failed(admin.call("put users", {"user_name": "admin", "role": "operator"}), LAST_ADMIN)
        failed(admin.call("put users", {"user_name": "admin", "role": "viewer", "password": "x"}), LAST_ADMIN)
        failed(admin.call("delete users", {"user_name": "admin"}), LAST_ADMIN)
    second = Person(world, "admin")
    ok(admin.call("put users", {"user_name": second.user_name, "role": "operator"}))
    with world.server.unchanged(leave_out=()):
        failed(admin.call("delete users", {"user_name": "admin"}), LAST_ADMIN)
    second.delete()


def test_wrong_old_password_of_an_admin(world: World) -> None:
    """It need not be there; if it is, it has to be right."""
    params = {"user_name": "admin", "password": "another", "old_password": "wrong"}
    with world.server.unchanged(leave_out=()):
        failed(world.admin.call("put users", params), BAD_LOGIN)
