"""Who may give which command (protocol §4), over WebSocket and over HTTP: a table, each cell of it tried.

The role is checked after the command and before its params. So who may give a command hears what is wrong with the
params, and who may not hears only that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit import Device, World, failed, full_command, ok
from kit_commands import COMMANDS, ROLES, SUBSCRIPTIONS
from kit_http import Mirror
from kit_people import NOT_ALLOWED, refused

BAD_FIELD, NO_COMMAND = 1004000002, 1004000003
WRONG = {"colour": "blue"}
CHANNEL = {"url": "rtsp://user:secret@192.0.2.7/1"}


@pytest.fixture(scope="module")
def device(world: World) -> Device:
    return world.device(keep=True)


@pytest.fixture(scope="module")
def other(world: World) -> Device:
    return world.device(connect=False, keep=True)


@pytest.fixture(scope="module")
def subtask(world: World, device: Device) -> str:
    return world.subtask(world.video_task(), device, vchan=CHANNEL)


@pytest.fixture(autouse=True)
def unchanged(world: World, device: Device, other: Device, subtask: str) -> Iterator[None]:
    """Nothing of all this writes anything, not even a line of history."""
    with world.server.unchanged(leave_out=()):
        yield


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("command", COMMANDS)
def test_role(world: World, command: str, role: str) -> None:
    client = {"viewer": world.viewer, "operator": world.operator, "admin": world.admin}[role]
    mirror = Mirror(world.http, client.atoken)
    if COMMANDS[command].allows(role):
        failed(client.call(command, WRONG), BAD_FIELD, "$.params.")
        over_http = (NO_COMMAND, "") if command in SUBSCRIPTIONS else (BAD_FIELD, "$.params.")
        failed(mirror.call(command, WRONG), *over_http)
        return
    for params in (WRONG, COMMANDS[command].params):
        failed(client.call(command, params), NOT_ALLOWED)
        failed(mirror.call(command, params), NOT_ALLOWED)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_device_gives_no_commands(world: World, device: Device, command: str) -> None:
    """On its socket it may ask for its tasks, with its token over HTTP for nothing at all."""
    params = COMMANDS[command].params
    if command != "get tasks":
        answer = device.request(full_command(command), params)
        note = answer.pop("enote")
        assert note
        named = {k: v for k, v in params.items() if k in ("task_id", "subtask_id", "unid") and k in answer}
        sent = {"command": full_command(command), "req_id": answer["req_id"]}
        assert answer == sent | named | {"ecode": NOT_ALLOWED}
    answer = Mirror(world.http, device.atoken).call(command, params)
    # Which is seen first of a command that there is not over HTTP is left open.
    failed(answer, NO_COMMAND if command in SUBSCRIPTIONS and answer["ecode"] == NO_COMMAND else NOT_ALLOWED)


def test_a_device_is_refused_what_is_wrong_too(world: World, device: Device) -> None:
    answer = device.request(full_command("get tasks"), {"colour": "blue"})
    assert (answer["ecode"], "$.params.colour" in answer["enote"]) == (BAD_FIELD, True)
    assert device.request("get /wsapi/v1/devconf_fx/nothing")["ecode"] == NOT_ALLOWED


def test_addresses_of_others(world: World, device: Device, other: Device) -> None:
    """A device's token opens its own two addresses, and an operator's token no `register`."""
    body = {"dev_refid": other.dev_refid, "dev_type": "box", "dev_name": "n"}
    refused(world.http.register(other.dev_unid, device.atoken, body), NOT_ALLOWED)
    refused(world.http.register(other.dev_unid, world.admin.atoken, body), NOT_ALLOWED)
    refused(world.http.ask_ws_url(other.dev_unid, device.atoken), NOT_ALLOWED)
    refused(world.http.ask_ws_url(other.dev_unid, world.admin.atoken), NOT_ALLOWED)
    refused(world.http.ask_ws_url(world.admin.login["user_unid"], device.atoken), NOT_ALLOWED)


@pytest.mark.parametrize("way", ["websocket", "http"])
def test_contents_are_for_operators(world: World, way: str) -> None:
    for client in (world.viewer, world.operator, world.admin):
        asker = client if way == "websocket" else Mirror(world.http, client.atoken)
        answer = asker.call("get store_confs", {"content": True})
        if client is world.viewer:
            failed(answer, NOT_ALLOWED)
        else:
            ok(answer)


@pytest.mark.parametrize("way", ["websocket", "http"])
def test_video_channels_are_for_operators(world: World, subtask: str, way: str) -> None:
    """They may hold a camera's password."""
    for client in (world.viewer, world.operator, world.admin):
        asker = client if way == "websocket" else Mirror(world.http, client.atoken)
        (item,) = ok(asker.call("get subtasks", {"subtask_id": subtask}))["subtasks"]
        seen = {"subtask_id", "task_id", "dev_unid", "rev", "state"}
        assert set(item) == (seen if client is world.viewer else seen | {"vchan"})
        assert item.get("vchan", CHANNEL) == CHANNEL
