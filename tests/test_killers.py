"""A message that kills the device it is sent to rests, and does not hold up the others (``docs/protocol.md`` §6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from devconf.devices.delivery import RETRY_AFTER
from devconf.devices.pace import PAUSE
from devconf.store import answers
from devconf.testing import MemoryDevice, MemoryServer
from tests.conftest import LoggedErrors
from tests.delivering import NEW, OLD, configure, online, pic_task, states, stored

LOST = 1005020002
DEADLY = "deadly"
HOUR = 3600.0

Message = dict[str, Any]


def deadly(message: Message) -> bool:
    return DEADLY in str(message["params"].get("name", ""))


def live(device: MemoryDevice, kills: Callable[[Message], bool] = deadly) -> Message | None:
    """Let ``device`` act on all that comes until something kills it; return that."""
    while device.inbox:
        message = device.inbox[0]
        if kills(message):
            device.lose()
            return message
        device.act(message)
    return None


def back(device: MemoryDevice) -> None:
    """Let ``device`` come back when it may be caught up again."""
    device.server.advance(PAUSE)
    device.connect()


def lives(device: MemoryDevice, most: int = 50, kills: Callable[[Message], bool] = deadly) -> list[str]:
    """Let ``device`` come back until nothing kills it; return the names of what did."""
    died: list[str] = []
    for _ in range(most):
        if device.link is None:
            back(device)
        killer = live(device, kills)
        if killer is None:
            return died
        died.append(killer["params"].get("name", ""))
    raise AssertionError(f"it dies and dies: {died}")


def post(server: MemoryServer, name: str, *devices: MemoryDevice) -> Any:
    dev_unids = [device.dev_unid for device in devices]
    return server.call("post tasks", {"name": name, "task_type": "pic", "algo_comb": OLD, "dev_unids": dev_unids})


def posted(server: MemoryServer, device: MemoryDevice, *names: str) -> list[str]:
    """Tasks that an offline device is to have, in the order in which they will be sent."""
    return [str(server.result(post(server, name, device))["task_id"]) for name in names]


def heard(device: MemoryDevice) -> list[str]:
    names = [message["params"].get("name", "") for message in device.heard]
    device.heard.clear()
    return names


def item(server: MemoryServer, device: MemoryDevice) -> dict[str, Any]:
    [found] = server.ask("get devices", {"dev_unid": device.dev_unid})["devices"]
    return dict(found)


@pytest.fixture
def device(server: MemoryServer) -> MemoryDevice:
    """One that has answered with a ``req_id`` before, so that it is sent several messages at once."""
    device = online(server, "gate")
    pic_task(server, device)
    device.lose()
    device.heard.clear()
    return device


def test_after_three_losses_it_rests_and_the_others_are_done(server: MemoryServer, device: MemoryDevice) -> None:
    names = [f"task {number}" for number in range(20)]
    tasks = posted(server, device, *names[:10], DEADLY, *names[10:])
    assert lives(device) == [DEADLY] * 3
    assert sorted(task["name"] for task in device.held.values()) == sorted(["gate", *names])
    why = {"dev_unid": device.dev_unid, "task_id": tasks[10], "ecode": LOST, "enote": "connection lost each time"}
    listed = stored(server, tasks[10])
    assert (listed["state"], listed["refusals"]) == ("refused", [why])
    listed = item(server, device)
    assert (listed["pending"], listed["refused"], listed["refusals"]) == (0, 1, [why])
    assert server.service.delivery._lanes == {}


def test_what_was_sent_along_is_sent_alone(server: MemoryServer, device: MemoryDevice) -> None:
    """What is not suspected goes first, and what has cost the fewest connections before what has cost more."""
    posted(server, device, *(f"task {number}" for number in range(7)), DEADLY)
    back(device)
    assert len(device.inbox) == 8
    device.lose()
    post(server, "not suspected", device)
    heard(device)
    back(device)
    assert heard(device) == ["not suspected"]
    for _ in range(2):
        while not deadly(device.inbox[0]):
            device.act(device.inbox[0])
            assert len(device.inbox) == 1
        device.lose()
        held = {task["name"] for task in device.held.values()}
        back(device)
    assert held == {"gate", "not suspected", *(f"task {number}" for number in range(7))}
    assert device.inbox == []


def test_several_that_kill_are_all_found(server: MemoryServer, device: MemoryDevice) -> None:
    names = [f"task {number}" for number in range(30)]
    deadlies = [f"{DEADLY} {number}" for number in range(4)]
    posted(server, device, *names[:9], *deadlies[:3], *names[9:], deadlies[3])
    died = lives(device)
    assert set(died) == set(deadlies)
    assert len(died) <= 3 * len(deadlies)
    assert sorted(task["name"] for task in device.held.values()) == sorted(["gate", *names])
    assert item(server, device)["refused"] == 4


def test_an_old_device_dies_no_more_often(server: MemoryServer) -> None:
    """It has never sent a ``req_id`` back, and gets one message at a time."""
    device = server.enrol("old")
    posted(server, device, "one", DEADLY, "two")

    def act(message: Message) -> None:
        device.inbox.remove(message)
        device.say(device.do(message))

    died = 0
    for _ in range(5):
        back(device)
        while device.inbox and not deadly(device.inbox[0]):
            act(device.inbox[0])
        died += bool(device.inbox)
        device.lose()
    assert died == 3
    assert sorted(task["name"] for task in device.held.values()) == ["one", "two"]


def test_a_command_that_waits_is_refused_and_undone(server: MemoryServer, device: MemoryDevice) -> None:
    back(device)
    task_id = pic_task(server, device)
    watcher = server.client()
    watcher.ask("post subscriptions", {"topics": ["deliveries"]})
    response = configure(server, task_id)

    def kills(message: Message) -> bool:
        return bool(message["params"].get("algo_comb") == NEW)

    assert live(device, kills) is not None
    for _ in range(2):
        device.connect()
        assert live(device, kills) is not None
    result = server.result(response)
    assert (result["ecode"], states(result)) == (1005020001, [("refused", LOST)])
    assert result["devices"][0]["enote"] == "connection lost each time"
    assert result["enote"] == (
        f"1 refused; the device {device.dev_unid} lost its connection each time; the task keeps its algo_comb, and "
        "devices that took the new one are brought back"
    )
    told = [event["data"] for event in watcher.events]
    assert [(data["state"], data["ecode"], data["enote"]) for data in told] == [
        ("refused", LOST, "connection lost each time")
    ]
    assert stored(server, task_id)["state"] == "pending"  # it may have taken it
    back(device)
    assert device.inbox[0]["params"]["algo_comb"] == OLD
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


def test_what_undoing_gives_a_device_may_rest_too(server: MemoryServer, device: MemoryDevice) -> None:
    back(device)
    task_id = pic_task(server, device)
    response = server.call("put tasks", {"task_id": task_id, "name": DEADLY})

    def kills(message: Message) -> bool:
        return bool(message["params"]["task_id"] == task_id)

    for _ in range(3):
        assert live(device, kills) is not None
        back(device)
    assert states(server.result(response)) == [("refused", LOST)]
    for _ in range(3):
        assert live(device, kills) is not None
        back(device)
    assert not device.inbox
    assert (stored(server, task_id)["name"], stored(server, task_id)["state"]) == ("gate", "refused")


def test_it_is_not_sent_because_the_device_connects(server: MemoryServer, device: MemoryDevice) -> None:
    posted(server, device, DEADLY)
    lives(device)
    device.lose()
    heard(device)
    back(device)
    assert heard(device) == []


@pytest.mark.parametrize("connected", [True, False])
def test_after_an_hour_it_is_tried_once_more(server: MemoryServer, device: MemoryDevice, connected: bool) -> None:
    [task_id] = posted(server, device, DEADLY)
    for _ in range(3):
        lives(device)
        if not connected:
            device.lose()
        heard(device)
        server.advance(HOUR - PAUSE - 2)
        assert heard(device) == []
        assert stored(server, task_id)["state"] == "refused"
        server.advance(4)
        assert stored(server, task_id)["state"] == "pending"
        if not connected:
            back(device)
        assert heard(device) == [DEADLY]
        assert live(device) is not None  # and rests again
        assert stored(server, task_id)["state"] == "refused"
    server.advance(HOUR + 10)
    back(device)
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


def test_it_rests_no_longer_because_the_wall_clock_is_set_back(server: MemoryServer, device: MemoryDevice) -> None:
    posted(server, device, DEADLY)
    lives(device)
    heard(device)
    resting = server.service.delivery._resting
    before = resting._now
    resting._now = lambda: before() - HOUR
    server.advance(HOUR + 1)
    assert heard(device) == [DEADLY]


def test_it_is_sent_at_once_when_it_changes(server: MemoryServer, device: MemoryDevice) -> None:
    [task_id] = posted(server, device, DEADLY)
    lives(device)
    change = server.call("put tasks", {"task_id": task_id, "name": "harmless"})
    assert live(device) is None
    assert states(server.result(change)) == [("confirmed", 0)]


def test_it_is_sent_at_once_by_resync(server: MemoryServer, device: MemoryDevice) -> None:
    [task_id] = posted(server, device, DEADLY)
    lives(device)
    assert server.ask("post devices/resync", {"dev_unid": device.dev_unid})["pending"] == 2
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


def test_it_rests_on_after_a_restart(server: MemoryServer, device: MemoryDevice) -> None:
    [task_id] = posted(server, device, DEADLY)
    lives(device)
    server.advance(HOUR / 2)
    server.crash()
    server.restart()
    device.link = None
    heard(device)
    back(device)
    assert heard(device) == []
    assert stored(server, task_id)["state"] == "refused"
    server.advance(HOUR / 2)
    assert heard(device) == [DEADLY]


def test_a_delete_that_kills_rests_too(server: MemoryServer, device: MemoryDevice) -> None:
    [task_id] = posted(server, device, "gate 2")
    lives(device)
    server.ask("delete tasks", {"task_id": task_id, "force": True})

    def kills(message: Message) -> bool:
        return bool(message["command"].startswith("delete "))

    assert len(lives(device, kills=kills)) == 3
    assert item(server, device)["refused"] == 1
    server.advance(HOUR + 10)
    device.obey()
    assert (task_id, "") not in device.held
    assert item(server, device)["refused"] == 0


@pytest.mark.parametrize(
    "end",
    [
        lambda server, device: (server.advance(5.1), device.lose()),
        lambda server, device: MemoryDevice(server, device.dev_unid, device.dev_refid).connect(),
        lambda server, device: server.service.sessions.end(device.dev_unid, "a new key"),
    ],
    ids=["later", "replaced", "ended by the server"],
)
def test_losses_that_do_not_count(
    server: MemoryServer, device: MemoryDevice, end: Callable[[MemoryServer, MemoryDevice], Any]
) -> None:
    [task_id] = posted(server, device, "gate 2")
    for _ in range(5):
        if device.link is None:
            back(device)
        while not device.inbox:
            server.advance(0.5)
        end(server, device)
        server.finish()
    assert stored(server, task_id)["state"] == "pending"
    back(device)
    server.advance(PAUSE)
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


@pytest.mark.parametrize("lives_on", ["answers", "is silent"])
def test_only_losses_in_a_row_count(server: MemoryServer, device: MemoryDevice, lives_on: str) -> None:
    [task_id] = posted(server, device, DEADLY)
    for _ in range(3):
        for _ in range(2):
            back(device)
            assert live(device) is not None
        back(device)
        if lives_on == "answers":
            device.refuse()
        else:
            server.advance(25)
            assert len(device.inbox) == 2
        device.lose()
    back(device)
    device.obey()
    assert stored(server, task_id)["state"] == "confirmed"


def test_a_suspect_that_is_silent_holds_the_others_up_for_seconds_only(
    server: MemoryServer, device: MemoryDevice
) -> None:
    posted(server, device, "silent")
    device.connect()
    device.lose()
    back(device)
    assert len(device.inbox) == 1
    post(server, "other", device)
    assert len(device.inbox) == 1
    server.advance(5.1)  # and a little for the length of the message
    assert [message["params"]["name"] for message in device.inbox] == ["silent", "other"]
    device.obey()
    assert item(server, device)["pending"] == 0


def test_a_storage_configuration_that_was_not_answered_is_not_delivered(
    server: MemoryServer, device: MemoryDevice
) -> None:
    device.connect()
    conf = {"name": "c", "file_ext": "bin", "file_b64": "MQ=="}
    unid = server.ask("post store_confs", conf)["unid"]
    server.call("put tasks", {"task_id": next(iter(device.held))[0], "store_conf_unid": unid})
    device.obey()
    response = server.call("put store_confs", {**conf, "unid": unid, "file_b64": "Mg=="})
    for _ in range(3):
        device.lose()
        device.connect()
    result = server.result(response)
    assert (result["ecode"], result["total"], result["delivered"], states(result)) == (
        1005040001,
        1,
        0,
        [("refused", LOST)],
    )


def test_what_was_to_rest_and_could_not_be_written_is_sent_again(
    server: MemoryServer, device: MemoryDevice, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    [task_id] = posted(server, device, DEADLY)

    def full(*_args: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(answers, "acknowledge", full)
        for _ in range(3):
            back(device)
            assert live(device) is not None
        server.finish()
    logged_errors.expect(OSError)
    back(device)
    server.advance(RETRY_AFTER)
    device.obey()
    assert (task_id, "") in device.held
