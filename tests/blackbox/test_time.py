"""What time does (protocol §1, §7), on a server whose clock is moved: tokens, tickets and history that end."""

from __future__ import annotations

from typing import Any

import pytest
from kit import PASSWORDS, World, eventually, handshake_status, ok, payload
from kit_people import EXPIRED, NO_TOKEN, Person, granted, refused, standard, tokens_work

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SERVER: dict[str, Any] = {"faults": True, "limits": {"history_days": 50, "history_commands": 40}}


@pytest.fixture(autouse=True)
def fresh(world: World) -> None:
    """The standing clients' tokens are of this hour, and their sockets open."""
    log_in_again(world)


def log_in_again(world: World) -> None:
    for client in (world.admin, world.operator, world.viewer):
        client.close()
    world.log_in()


def advance(world: World, seconds: float) -> None:
    world.server.faults.move_all_clocks(seconds)
    world.http.request("GET", "/healthz")


def test_ticket(world: World) -> None:
    """It works for 60 s."""
    login = world.viewer.login
    in_time, too_late = (world.http.ws_url(login["user_unid"], login["atoken"]) for _ in range(2))
    advance(world, 50)
    assert handshake_status(in_time) == 101
    advance(world, 20)
    assert handshake_status(too_late) == 401


def test_atoken(world: World) -> None:
    """It opens nothing after an hour; its sockets stay, and its `rtoken` buys new ones."""
    person = Person(world, "admin")
    login = person.login()
    client = person.client(login)
    advance(world, HOUR - 5 * MINUTE)
    assert tokens_work(world, login)
    advance(world, 10 * MINUTE)
    atoken = login["atoken"]
    with world.server.unchanged(leave_out=()):
        refused(world.http.ask_ws_url(login["user_unid"], atoken), EXPIRED)
        for path in ("devconf_fx/tasks", "backup"):
            refused(world.http.request("GET", f"/webapi/v1/{path}", atoken=atoken), EXPIRED)
        assert handshake_status(world.http.header_url, atoken) == 401
        assert handshake_status(world.http.header_url, f"Bearer {atoken}") == 401
    assert client.works()
    traded = granted(world.http.token(login["rtoken"]))
    assert person.client(traded).works()
    assert client.works()


def test_atoken_of_a_device(world: World) -> None:
    """At `1004010002` it logs in again; its socket had stayed."""
    device = world.device()
    atoken = device.atoken
    advance(world, HOUR + MINUTE)
    body = {"dev_refid": device.dev_refid, "dev_type": "box", "dev_name": "n"}
    refused(world.http.register(device.dev_unid, atoken, body), EXPIRED)
    refused(world.http.ask_ws_url(device.dev_unid, atoken), EXPIRED)
    device.barrier()
    assert device.connected
    world.connect(device)
    assert device.atoken != atoken


def test_logout_when_the_atoken_has_expired(world: World) -> None:
    """By the `rtoken` one can still end what is left: the sockets."""
    person = Person(world)
    login, apart = person.login(), person.login()
    client, stays = person.client(login), person.client(apart)
    advance(world, HOUR + MINUTE)
    refused(world.http.logout(login["atoken"]), EXPIRED)
    assert client.works()
    standard(world.http.logout(rtoken=login["rtoken"]))
    assert client.wait_closed() == 1008
    refused(world.http.token(login["rtoken"]), NO_TOKEN)
    assert stays.works()


def test_rtoken(world: World) -> None:
    """It lives 30 days, and each trade begins anew."""
    person = Person(world)
    idle, busy = person.login(), person.login()
    advance(world, 20 * DAY)
    busy = granted(world.http.token(busy["rtoken"]))
    advance(world, 10 * DAY - HOUR)
    assert tokens_work(world, granted(world.http.token(person.login()["rtoken"])))
    advance(world, 2 * HOUR)
    refused(world.http.token(idle["rtoken"]), EXPIRED)
    refused(world.http.logout(rtoken=idle["rtoken"]), EXPIRED)
    assert tokens_work(world, granted(world.http.token(busy["rtoken"])))


def test_time_that_passes_while_it_is_stopped(world: World) -> None:
    login = Person(world).login()
    world.server.stop()
    world.server.faults.move_all_clocks(HOUR + MINUTE)
    world.restart()
    refused(world.http.ask_ws_url(login["user_unid"], login["atoken"]), EXPIRED)
    granted(world.http.token(login["rtoken"]))


# -- history


def history(world: World) -> list[str]:
    """The `command_id`s that are kept, the newest first."""
    items = payload(world.admin.call("get commands", {"limit": 1000}))["commands"]
    return [item["command_id"] for item in items]


def make(world: World, count: int) -> list[str]:
    """So many commands of the history, the newest first."""
    sent = [ok(world.operator.call("post tasks", {"name": "n", "task_type": "video"})) for _ in range(count)]
    return [answer["command_id"] for answer in reversed(sent)]


def hour_later(world: World) -> None:
    """After what is done once an hour has been done."""
    advance(world, HOUR + MINUTE)
    log_in_again(world)


def test_history_keeps_so_many_commands(world: World) -> None:
    """The oldest are removed once an hour: 40 stay."""
    made = make(world, 45)
    assert history(world)[:45] == made
    hour_later(world)
    eventually(lambda: history(world) == made[:40], "the newest 40 are left")
    device = world.device()
    hour_later(world)
    eventually(lambda: history(world)[1:] == made[:39], "one more is gone")
    assert history(world)[0] not in made
    assert world.device_item(device)["online"]


def test_history_keeps_them_so_long(world: World) -> None:
    """Those of more than 50 days ago are removed, and a command that is still running is not one of them."""
    old = make(world, 3)
    advance(world, 30 * DAY)
    log_in_again(world)
    new = make(world, 2)
    hour_later(world)
    assert history(world)[:5] == new + old
    advance(world, 21 * DAY)
    hour_later(world)
    eventually(lambda: history(world) == new, "only the newest are left")
    assert world.http.login("admin", PASSWORDS["admin"])["ecode"] == 0
