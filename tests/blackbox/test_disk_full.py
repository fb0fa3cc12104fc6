"""A disk without room (protocol §3): what writes is refused and says why, what reads goes on, and it ends by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kit import PASSWORDS, Client, Device, Json, World, b64, combo, eventually, failed, handshake_status, ok
from kit_crash import differences, unsettled

SERVER: dict[str, Any] = {"faults": True, "device_timeout": 1.0}
DISK_FULL, OFFLINE, SILENT = 1005070001, 1005030001, 1005040001
SAYS = "disk of the server is full"


@pytest.fixture(autouse=True)
def room_again(world: World) -> Iterator[None]:
    yield
    world.server.faults.make_room()


def fill(world: World) -> None:
    """Leave no room, also none that the log has already."""
    world.server.faults.fill_disk()
    for _ in range(1000):
        answer = world.operator.call("post tasks", {"name": "x" * 256, "task_type": "video"})
        if answer["ecode"]:
            failed(answer, DISK_FULL, SAYS)
            return
    raise AssertionError("the disk is never full")


def in_step(world: World, *devices: Device) -> None:
    for device in devices:
        eventually(lambda device=device: world.device_item(device)["pending"] == 0, "nothing is pending")  # type: ignore[misc]
        assert differences(world, device) == []


def test_writes_are_refused_and_leave_everything_as_it_was(world: World) -> None:
    device = world.device(warm=True)
    unid = world.store_conf()
    task_id = world.pic_task(device, store_conf_unid=unid)
    subtask_id = world.subtask(world.video_task(), device)
    fill(world)
    heard = len(device.heard())
    big = b64(bytes(200_000))
    requests: list[tuple[str, Json]] = [
        ("post tasks", {"name": "n", "task_type": "pic", "dev_unids": [device.dev_unid]}),
        ("put tasks", {"task_id": task_id, "name": "another"}),
        ("delete tasks", {"task_id": task_id}),
        ("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")}),
        ("delete subtasks", {"subtask_id": subtask_id}),
        ("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": big}),
        ("put store_confs", {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": big}),
        ("post devices", {"dev_refid": "new"}),
        ("post users", {"user_name": "new", "role": "viewer", "password": "p-12345678"}),
    ]
    with world.server.unchanged():
        for command, params in requests:
            answer = world.admin.call(command, params)
            failed(answer, DISK_FULL, SAYS, stored=True) if set(params) & {"task_id", "unid"} else failed(
                answer, DISK_FULL, SAYS, stored="subtask_id" in params
            )
    assert len(device.heard()) == heard
    assert [task["task_id"] for task in world.tasks_of(device)][-2:-1] == [task_id]


def test_reads_and_connections_go_on(world: World) -> None:
    device = world.device(warm=True)
    fill(world)
    assert world.is_online(device)
    assert len(ok(world.viewer.call("get devices", {"limit": 1}))["devices"]) == 1
    # Beside others that write, in one transaction with them or not.
    with_writes = [
        world.operator.send(*what)
        for _ in range(20)
        for what in (("post tasks", {"name": "n", "task_type": "video"}), ("get commands", {"limit": 1}))
    ]
    ecodes = [world.operator.answer(req_id)["ecode"] for req_id in with_writes]
    assert ecodes == [DISK_FULL, 0] * 20
    device.barrier()
    assert device.connected
    answer = world.admin.call(
        "post devices/call", {"dev_unid": device.dev_unid, "command": "get /wsapi/v1/box/state", "params": {"n": 1}}
    )
    assert ok(answer)["answer"]["heard"] == {"n": 1}


def test_nobody_can_log_in_but_who_is_there_stays(world: World) -> None:
    client = world.client("operator", how="header")
    fill(world)
    reply = world.http.request(
        "POST",
        "/webapi/v1/login",
        {"user_type": "user", "user_name": "viewer", "password": PASSWORDS["viewer"]},
    )
    assert (reply.status, reply.json["ecode"]) == (507, DISK_FULL)
    assert SAYS in reply.json["enote"]
    assert world.http.ask_ws_url(client.login["user_unid"], client.atoken).status == 507
    assert handshake_status(world.http.header_url, client.atoken) == 101  # nothing of it is stored
    assert client.works()
    assert world.http.request("GET", "/readyz").status == 200
    world.server.faults.make_room()
    assert Client(world.http, world.http.login("viewer", PASSWORDS["viewer"])).works()


def test_a_device_that_comes_back_is_taken_when_there_is_room(world: World) -> None:
    device = world.device(warm=True)
    fill(world)
    url = world.http.header_url
    assert device.atoken
    device.drop()
    eventually(lambda: not world.is_online(device), "it is offline")
    assert world.http.ask_ws_url(device.dev_unid, device.atoken).status == 507
    assert handshake_status(url, device.atoken) in (101, 503)
    assert not world.is_online(device)
    world.server.faults.make_room()
    world.connect(device)
    in_step(world, device)


def test_an_answer_of_a_device_that_cannot_be_written_is_asked_for_again(world: World) -> None:
    """What is under way when the disk fills up is settled when there is room, and not before."""
    device = world.device(warm=True)
    task_id = world.pic_task(device, algo_comb=combo("a1"))

    def full_before_it_answers(device: Device, order: Any) -> None:
        fill(world)
        device.reply(order, device.carry_out(order))

    device.behave(full_before_it_answers, verb="put", times=1)
    req_id = world.admin.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a2")})
    device.wait_heard(1, "put", task_id)
    with pytest.raises(AssertionError, match="no answer"):
        world.admin.answer(req_id, timeout=2.5)
    world.server.faults.make_room()
    answer = world.admin.answer(req_id)
    assert answer["ecode"] in (0, SILENT)
    in_step(world, device)
    told = combo("a2") if answer["ecode"] == 0 else combo("a1")
    assert world.task(task_id)["algo_comb"] == told
    held = device.holding(task_id)
    assert held is not None
    assert held["algo_comb"] == told
    assert unsettled(world) == []


def test_it_is_logged_in_one_line_when_it_begins_and_when_it_ends(world: World) -> None:
    before = world.server.log()
    fill(world)
    for _ in range(50):
        failed(world.operator.call("post tasks", {"name": "n", "task_type": "video"}), DISK_FULL, SAYS)
    world.server.faults.make_room()
    world.video_task()
    new = world.server.log()[len(before) :].splitlines()
    assert [line for line in new if "full" in line and "critical" in line] == [
        line for line in new if "disk" in line and "critical" in line
    ]
    assert sum("the disk is full" in line for line in new) == 1
    assert sum("there is room on the disk again" in line for line in new) == 1


def test_a_killed_server_starts_again_and_lost_nothing(world: World) -> None:
    device = world.device(warm=True)
    task_id = world.pic_task(device)
    fill(world)
    kept = world.task(task_id)
    world.server.faults.make_room()
    world.restart(kill=True)
    assert world.task(task_id) == kept
    world.connect(device)
    in_step(world, device)
