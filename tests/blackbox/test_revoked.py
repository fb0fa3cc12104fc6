"""What ends with an account, its role, password or key (protocol §1): sockets with 1008, tokens and tickets."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from kit import Device, Json, World, combo, eventually, handshake_status, hold, ok, payload
from kit_http import Mirror
from kit_people import BAD_LOGIN, NO_TOKEN, Person, assert_ended, granted, refused, tokens_work

CHANGES: dict[str, Json] = {
    "password": {"password": "another"},
    "role": {"role": "viewer"},
    "both": {"role": "admin", "password": "another"},
}


@pytest.mark.parametrize("change", [*CHANGES, "deleted"])
@pytest.mark.parametrize("way", ["websocket", "http"])
def test_changed_by_an_admin(world: World, change: str, way: str) -> None:
    """Every socket, token and ticket of the account ends, and those of nobody else."""
    person, neighbour = Person(world), Person(world)
    logins = [person.login() for _ in range(2)]
    clients = [person.client(login, how) for login in logins for how in ("ticket", "header")]
    ticket = world.http.ws_url(logins[0]["user_unid"], logins[0]["atoken"])
    other_login = neighbour.login()
    other_ticket = world.http.ws_url(other_login["user_unid"], other_login["atoken"])
    other = neighbour.client(other_login)
    admin = world.admin if way == "websocket" else Mirror(world.http, world.admin.atoken)
    verb = "delete users" if change == "deleted" else "put users"
    ok(admin.call(verb, {"user_name": person.user_name} | CHANGES.get(change, {})))
    assert [client.wait_closed() for client in clients] == [1008] * 4
    assert not any(client.inbox for client in clients)
    for login in logins:
        assert_ended(world, login)
    assert handshake_status(ticket) == 401
    assert other.works()
    assert tokens_work(world, other_login)
    assert handshake_status(other_ticket) == 101
    assert world.admin.works()
    if change == "deleted":
        refused(person.try_login(), BAD_LOGIN)
    else:
        person.password = str(CHANGES[change].get("password", person.password))
        assert person.client().works()
        person.delete()
    neighbour.delete()


@pytest.mark.parametrize("change", ["own password", "own role", "deleted"])
def test_who_changes_their_own_account_is_answered_first(world: World, change: str) -> None:
    person = Person(world, "admin")
    login = person.login()
    asker, elsewhere, anew = person.client(login), person.client(login), person.client()
    name = {"user_name": person.user_name}
    answers = {
        "own password": lambda: asker.call("put users", name | {"password": "another"}),
        "own role": lambda: asker.call("put users", name | {"role": "viewer"}),
        "deleted": lambda: asker.call("delete users", name),
    }
    assert payload(answers[change]()) == {}
    assert [client.wait_closed() for client in (asker, elsewhere, anew)] == [1008] * 3
    assert not asker.inbox
    assert_ended(world, login)
    if change != "deleted":
        person.delete()


def test_own_password_over_http_is_answered_and_ends_the_token(world: World) -> None:
    person = Person(world, "viewer")
    login = person.login()
    client = person.client(login)
    params = {"user_name": person.user_name, "password": "another", "old_password": person.password}
    assert payload(person.mirror(login).call("put users", params)) == {}
    assert client.wait_closed() == 1008
    assert_ended(world, login)
    person.delete()


def test_what_an_account_was_at_goes_on_without_it(world: World) -> None:
    """A client that goes away cancels nothing that is planned (§4), whoever made it go."""
    device, person = world.device(), Person(world)
    task_id = world.pic_task(device)
    device.behave(hold, verb="put", times=1)
    client = person.client()
    client.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    device.wait_heard(1, "put")
    person.delete()
    assert client.wait_closed() == 1008
    device.release()
    eventually(lambda: world.task(task_id)["algo_comb"] == combo("a2"), "it is stored")


# -- devices


def disable(world: World, device: Device) -> None:
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "enabled": False}))


def delete(world: World, device: Device) -> None:
    ok(world.admin.call("delete devices", {"dev_unid": device.dev_unid}))


def new_key(world: World, device: Device) -> None:
    answer = ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "new_key": True}))
    assert answer["dev_key"] != device.dev_key


def replace(world: World, device: Device) -> None:
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "dev_refid": f"new-{secrets.token_hex(4)}"}))


@pytest.mark.parametrize("change", [disable, delete, new_key, replace])
def test_device(world: World, change: Callable[[World, Device], None]) -> None:
    device, neighbour = world.device(connect=False), world.device()
    login = device.login()
    world.connect(device)
    ticket = world.http.ws_url(device.dev_unid, device.atoken)
    change(world, device)
    assert device.sockets[-1].wait_closed() == 1008
    assert_ended(world, login)
    assert handshake_status(ticket) == 401
    body = {"dev_refid": device.dev_refid, "dev_type": "box", "dev_name": "n"}
    refused(world.http.register(device.dev_unid, login["atoken"], body), NO_TOKEN)
    key = {"user_type": "dev", "dev_refid": device.dev_refid, "dev_key": device.dev_key}
    refused(world.http.request("POST", "/webapi/v1/login", key), BAD_LOGIN)
    neighbour.barrier()
    assert tokens_work(world, {"user_unid": neighbour.dev_unid, "atoken": neighbour.atoken})
    assert world.admin.works()


@pytest.mark.parametrize("params", [{"dev_name": "other"}, {"key_required": True}, {"enabled": True}])
def test_a_change_that_shuts_nobody_out(world: World, params: Json) -> None:
    device = world.device()
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid} | params))
    device.barrier()
    assert device.connected
    assert tokens_work(world, {"user_unid": device.dev_unid, "atoken": device.atoken})


def test_an_enabled_device_comes_back(world: World) -> None:
    device = world.device()
    disable(world, device)
    assert device.sockets[-1].wait_closed() == 1008
    ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "enabled": True}))
    refused(world.http.ask_ws_url(device.dev_unid, device.atoken), NO_TOKEN)
    granted(
        world.http.request(
            "POST",
            "/webapi/v1/login",
            {"user_type": "dev", "dev_refid": device.dev_refid, "dev_key": device.dev_key},
        )
    )
    world.connect(device)
    device.barrier()
