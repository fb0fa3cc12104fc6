"""Accounts that a test makes for itself, and what an ended one is refused."""

from __future__ import annotations

import secrets
import uuid

from kit import WEB_PATH, Client, Json, Reply, World, handshake_status, ok
from kit_http import Mirror

NO_TOKEN, EXPIRED, BAD_LOGIN, NOT_ALLOWED = 1004010001, 1004010002, 1004010003, 1004030001


class Person:
    """An account made by `post users`; its sockets are closed at the end of the test."""

    def __init__(self, world: World, role: str = "operator", user_name: str | None = None) -> None:
        self.world = world
        self.role = role
        self.user_name = user_name if user_name is not None else f"{role}-{uuid.uuid4().hex[:8]}"
        self.password = secrets.token_hex(12)
        params = {"user_name": self.user_name, "role": role, "password": self.password}
        ok(world.admin.call("post users", params))

    def login(self) -> Json:
        """Log in anew: tokens of a family of their own."""
        return self.world.http.login(self.user_name, self.password)

    def client(self, login: Json | None = None, how: str = "ticket") -> Client:
        """A socket that came with these tokens, or with new ones."""
        return self.world.client(how=how, login=login or self.login())

    def mirror(self, login: Json | None = None) -> Mirror:
        return Mirror(self.world.http, (login or self.login())["atoken"])

    def try_login(self, password: str | None = None) -> Reply:
        body = {"user_type": "user", "user_name": self.user_name, "password": password or self.password}
        return self.world.http.request("POST", f"{WEB_PATH}/login", body)

    def item(self) -> Json:
        """Itself in `get users`."""
        (item,) = ok(self.world.admin.call("get users", {"user_name": self.user_name}))["users"]
        assert set(item) == {"user_unid", "user_name", "role"}
        found: Json = item
        return found

    def delete(self) -> None:
        ok(self.world.admin.call("delete users", {"user_name": self.user_name}))


def refused(reply: Reply, ecode: int, says: str = "") -> None:
    """The whole answer of an address of §1 is this failure, with the HTTP status in the middle of its ecode."""
    assert reply.status == ecode // 10_000 % 1000, reply
    body = reply.json
    assert body.pop("ecode") == ecode, reply
    note = body.pop("enote")
    assert isinstance(note, str), reply
    assert note, reply
    assert says in note, reply
    assert body == {}, reply


def granted(reply: Reply) -> Json:
    """The whole answer of login and token."""
    assert reply.status == 200, reply
    answer = reply.json
    fields = ("ecode", "enote", "user_unid", "user_type", "atoken", "atoken_edt", "rtoken", "rtoken_edt")
    assert set(answer) == set(fields), answer
    assert answer["ecode"] == 0, answer
    return answer


def standard(reply: Reply) -> None:
    """The standard response of an address of §1."""
    assert reply.status == 200, reply
    assert set(reply.json) == {"ecode", "enote"}, reply
    assert reply.json["ecode"] == 0, reply


def tokens_work(world: World, login: Json) -> bool:
    """Does this `atoken` still open what it is for? (The `rtoken` is not used up.)"""
    reply = world.http.ask_ws_url(login["user_unid"], login["atoken"])
    if reply.status == 200:
        return True
    refused(reply, NO_TOKEN)
    return False


def assert_ended(world: World, login: Json) -> None:
    """Nothing of this login works any longer, and nobody is told that it ever did."""
    atoken = login["atoken"]
    refused(world.http.ask_ws_url(login["user_unid"], atoken), NO_TOKEN)
    refused(world.http.request("GET", f"{WEB_PATH}/devconf_fx/tasks", atoken=atoken), NO_TOKEN)
    refused(world.http.token(login["rtoken"]), NO_TOKEN)
    refused(world.http.logout(atoken), NO_TOKEN)
    assert handshake_status(world.http.header_url, atoken) == 401
