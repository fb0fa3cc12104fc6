"""Subtasks on devices that are away, silent or unwilling; and how lists are paged."""

from __future__ import annotations

from kit import Json, World, failed, hold, ok, refuse, states, unknown

SERVER = {"device_timeout": 1.5}
REFUSED, OFFLINE, SILENT = 1005020001, 1005030001, 1005040001


def test_subtask_of_an_offline_device(world: World) -> None:
    device = world.device(connect=False)
    task_id = world.video_task()
    answer = ok(world.operator.call("post subtasks", {"task_id": task_id, "dev_unid": device.dev_unid}))
    assert states(answer) == {device.dev_unid: ("pending", OFFLINE)}
    assert world.subtask_item(answer["subtask_id"])["state"] == "pending"
    assert world.device_item(device)["pending"] == 1
    world.connect(device)
    device.wait_for(lambda: (task_id, answer["subtask_id"]) in device.held)
    world.settled(task_id)
    assert world.device_item(device)["pending"] == 0


def test_a_vchan_has_a_bound(world: World) -> None:
    device = world.device(warm=True)
    task_id = world.video_task()
    params = {"task_id": task_id, "dev_unid": device.dev_unid}
    largest = {"url": "x" * (65536 - len('{"url":""}'))}
    ok(world.operator.call("post subtasks", {**params, "vchan": largest}))
    answer = world.operator.call("post subtasks", {**params, "vchan": {"url": largest["url"] + "x"}})
    assert answer["ecode"] == 1004000002
    assert answer["enote"] == "$.params.vchan has 65537 bytes as JSON; a video channel has at most 65536"
    assert len(world.operator.call("get subtasks", {"task_id": task_id})["subtasks"]) == 1


def test_subtask_refused_is_undone(world: World) -> None:
    device = world.device(warm=True)
    task_id = world.video_task()
    device.behave(refuse(5, "full"), verb="post")
    answer = world.operator.call("post subtasks", {"task_id": task_id, "dev_unid": device.dev_unid})
    failed(answer, REFUSED, stored=True, maybe=("devices", "subtask_id", "rev"))
    assert states(answer) == {device.dev_unid: ("refused", 5)}
    assert world.subtasks_of(task_id=task_id) == []
    assert world.task(task_id)["subtask_count"] == 0
    device.behave_normally()
    world.subtask(task_id, device)


def test_subtask_met_with_silence_and_answered_late(world: World) -> None:
    device = world.device(warm=True)
    task_id = world.video_task()
    device.behave(hold, verb="post", times=1)
    answer = ok(world.operator.call("post subtasks", {"task_id": task_id, "dev_unid": device.dev_unid}))
    assert states(answer) == {device.dev_unid: ("pending", SILENT)}
    device.release()
    world.settled(task_id)


def test_lists_are_paged(world: World) -> None:
    ids = [world.pic_task(name=f"page {unknown()}") for _ in range(5)]
    found: list[str] = []
    after: Json = {}
    while True:
        page = ok(world.viewer.call("get tasks", {"limit": 2} | after))
        assert len(page["tasks"]) <= 2
        found += [item["task_id"] for item in page["tasks"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert [task_id for task_id in found if task_id in ids] == ids
