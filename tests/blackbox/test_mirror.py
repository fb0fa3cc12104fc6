"""The HTTP mirror (protocol §5) says what the WebSocket says, less `command`: commands that succeed and that fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from kit import Client, Device, Json, World, b64, combo, ok, refuse, silent, unknown
from kit_commands import COMMANDS, SUBSCRIPTIONS
from kit_http import Mirror, without_command

SERVER = {"device_timeout": 1.5}
ID, KEY = re.compile(r"[0-9a-f]{64}|[0-9a-f]{32}(-\d+)?"), "sha256"
TIMES = ("created_at", "updated_at", "at", "since", "first_at", "last_at", "duration", "completed_at", "addr")


class Normal:
    """Answers with each id in the order of its first appearance, so that two stories can be compared."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {k: self(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self(v, name) for v in value]
        if name in TIMES:
            return type(value).__name__
        if isinstance(value, str) and name != KEY:
            return ID.sub(lambda found: self._names.setdefault(found[0], f"<{len(self._names) + 1}>"), value)
        return value


def story(world: World, client: Client | Mirror) -> Iterator[Json]:
    """Every command of §4 that may be given both ways, with its successes and some failures on the way."""

    def call(command: str, /, **params: Any) -> Json:
        told.add(command)
        answer: Json = client.call(command, params) if params else client.call(command)
        return answer

    told: set[str] = set()
    made = call("post devices", dev_refid="story-box", dev_name="box", dev_type="t", key_required=False)
    yield made
    dev_unid = made["dev_unid"]
    box = Device(world.http, "story-box", made["dev_key"], dev_unid)
    box.register(algos=["a1", "a2", "a3"])
    yield call("get devices", dev_unid=dev_unid)
    world.connect(box)
    try:
        yield from told_of(call, box, dev_unid)
    finally:
        box.close()
    yield call("put devices", dev_unid=dev_unid, dev_name="renamed", new_key=True)
    yield call("delete devices", dev_unid=dev_unid)
    yield call("post users", user_name="story", role="viewer", password="one")
    yield call("put users", user_name="story", password="two", role="operator")
    yield call("get users", user_name="story")
    yield call("delete users", user_name="story")
    yield call("get commands", dev_unid=dev_unid)
    assert told == set(COMMANDS) - set(SUBSCRIPTIONS)


def told_of(call: Any, box: Device, dev_unid: str) -> Iterator[Json]:
    """The part of the story with a device that is there."""
    file = {"name": "conf", "file_ext": "xml"}
    conf = call("post store_confs", **file, file_b64=b64(b"<one/>"))
    yield conf
    unid = conf["unid"]
    yield call("get store_confs", unid=unid, content=True)
    pic = call("post tasks", name="pic", task_type="pic", dev_unids=[dev_unid], store_conf_unid=unid)
    yield pic
    task_id = pic["task_id"]
    yield call("post tasks/pic_task_config", task_id=task_id, algo_comb=[{"algo_id": "a1"}])
    yield call("post tasks/pic_task_config", task_id=task_id, algo_comb=[{"algo_id": "a9"}])
    box.behave(refuse(77, "not today"), verb="put", times=1)
    yield call("post tasks/pic_task_config", task_id=task_id, algo_comb=[{"algo_id": "a2"}])
    box.behave(silent(), verb="put", times=1)
    yield call("put store_confs", unid=unid, **file, file_b64=b64(b"<two/>"))
    yield call("put store_confs", unid=unid, **file, file_b64=b64(b"<two/>"))
    yield call("put tasks", task_id=task_id, name="other")
    yield call("get tasks", task_id=task_id)
    yield call("delete store_confs", unid=unid)
    video = call("post tasks", name="video", task_type="video", algo_comb=combo("a1"))
    yield video
    subtask = call("post subtasks", task_id=video["task_id"], dev_unid=dev_unid, vchan={"url": "rtsp://x"})
    yield subtask
    yield call("get subtasks", task_id=video["task_id"])
    yield call("delete tasks", task_id=video["task_id"], force=True)
    yield call("post devices/resync", dev_unid=dev_unid)
    box.barrier()
    yield call("post devices/call", dev_unid=dev_unid, command="get /disks", params={"slot": 1}, timeout=5)
    yield call("get devices/unknown")
    yield call("delete devices", dev_unid=dev_unid)
    yield call("delete subtasks", subtask_id=subtask["subtask_id"])
    yield call("delete tasks", task_id=video["task_id"])
    yield call("delete tasks", task_id=task_id)
    yield call("delete store_confs", unid=unid)


def test_the_same_story_both_ways(world: World) -> None:
    told: list[list[Json]] = []
    for client in (world.admin, Mirror(world.http, world.admin.atoken)):
        normal = Normal()
        told.append([normal(without_command(answer)) for answer in story(world, client)])
    over_websocket, over_http = told
    assert len(over_http) > 30
    for one, other in zip(over_websocket, over_http, strict=True):
        assert one == other
    codes = {answer["ecode"] for answer in over_http}
    assert codes == {0, 1005020001, 1005040001, 1004090005, 1004090004, 1004090001}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in SUBSCRIPTIONS])
def test_the_same_failures(world: World, command: str) -> None:
    """Missing, wrong and unknown fields; and things that do not exist."""
    mirror = Mirror(world.http, world.admin.atoken)
    params = COMMANDS[command].params
    none = unknown()
    cases: list[Json] = [{"colour": "blue"}, params | {"colour": "blue"}]
    cases += [{k: v for k, v in params.items() if k != name} | {"limit": 0} for name in params]
    cases += [params | {name: None if name != "store_conf_unid" else 5} for name in params]
    if not command.startswith(("get", "post users", "post devices", "post store_confs", "delete users")):
        cases.append({k: none if k in ("task_id", "unid", "dev_unid", "subtask_id") else v for k, v in params.items()})
    with world.server.unchanged(leave_out=()):
        for case in cases:
            over_websocket, over_http = world.admin.call(command, case), mirror.call(command, case)
            assert over_websocket["ecode"] != 0
            assert Normal()(without_command(over_websocket)) == Normal()(over_http)


def test_the_same_lists(world: World) -> None:
    """Of a server with something in it, page by page."""
    device = world.device(algos=["a1"])
    for _ in range(3):
        world.pic_task(device, store_conf_unid=world.store_conf())
    for client in (world.viewer, world.operator, world.admin):
        mirror = Mirror(world.http, client.atoken)
        for command in ("get tasks", "get subtasks", "get store_confs", "get devices", "get commands"):
            pages, after = 0, None
            while pages == 0 or after is not None:
                params = {"limit": 2} | ({"after": after} if after else {})
                answer = ok(client.call(command, params))
                assert mirror.call(command, params) == without_command(answer)
                assert mirror.call(command, query=params) == without_command(answer)
                after, pages = answer["next"], pages + 1
