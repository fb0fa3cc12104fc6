"""Each failure of protocol §3 that one request can reach: the whole answer, and nothing changed by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kit import LEAVE_OUT, Json, World, combo, failed, full_command, ok, unknown
from kit_commands import COMMANDS, FILE

NOT_JSON, BAD_FIELD, NO_COMMAND, BAD_FILE = 1004000001, 1004000002, 1004000003, 1004000004
NO_TOKEN, BAD_LOGIN, NOT_ALLOWED, TOO_LARGE = 1004010001, 1004010003, 1004030001, 1004130001
NO_TASK, NO_CONF, NO_SUBTASK, NO_DEVICE = 1004040001, 1004040002, 1004040003, 1004040004
HAS_SUBTASKS, WRONG_KIND, EXISTS, IN_USE, CANNOT_RUN = (1004090000 + n for n in range(1, 6))

FIELDS = [(name, field) for name, command in COMMANDS.items() for field in command.params]
REQUIRED = [(name, field) for name, command in COMMANDS.items() for field in list(command.params)[: command.required]]
NULL_MEANS_NONE = ("put tasks", "store_conf_unid")


def wrong(value: object) -> object:
    """A value of another type."""
    return {str: 5, int: "five", bool: "yes", list: {"a": 1}, dict: [1]}[type(value)]


@pytest.fixture(scope="module")
def things(world: World) -> dict[str, str]:
    """One of everything, to be refused something about."""
    device = world.device(algos=["a1", "a2"], keep=True)
    other = world.device(connect=False, keep=True)
    conf, free = world.store_conf(), world.store_conf()
    pic = world.pic_task(device, store_conf_unid=conf)
    video = world.video_task()
    subtask = world.subtask(video, device)
    names = {"device": device.dev_unid, "refid": device.dev_refid, "other": other.dev_unid}
    return names | {"conf": conf, "free": free, "pic": pic, "video": video, "subtask": subtask}


@pytest.fixture(autouse=True)
def unchanged(world: World, things: dict[str, str]) -> Iterator[None]:
    with world.server.unchanged():
        yield


def filled(value: Any, things: dict[str, str]) -> Any:
    """`value` with each "{name}" in it replaced by the id of that thing."""
    if isinstance(value, dict):
        return {k: filled(v, things) for k, v in value.items()}
    if isinstance(value, list):
        return [filled(v, things) for v in value]
    return things.get(value[1:-1], value) if isinstance(value, str) and value.startswith("{") else value


# -- fields of params: 1004000002, with the JSON path


@pytest.mark.parametrize(("command", "name"), REQUIRED)
def test_missing(world: World, command: str, name: str) -> None:
    params = {k: v for k, v in COMMANDS[command].params.items() if k != name}
    failed(world.admin.call(command, params), BAD_FIELD, f"$.params.{name}", maybe=("dev_unid",))


@pytest.mark.parametrize(("command", "name"), FIELDS)
def test_wrong_type(world: World, command: str, name: str) -> None:
    params = COMMANDS[command].params
    answer = world.admin.call(command, params | {name: wrong(params[name])})
    failed(
        answer,
        BAD_FIELD,
        f"$.params.{name}",
        maybe=("dev_unid", "command_id") if name == "command" else ("dev_unid", name),
    )


@pytest.mark.parametrize(("command", "name"), [field for field in FIELDS if field != NULL_MEANS_NONE])
def test_null_is_a_wrong_type(world: World, command: str, name: str) -> None:
    answer = world.admin.call(command, COMMANDS[command].params | {name: None})
    failed(
        answer,
        BAD_FIELD,
        f"$.params.{name}",
        maybe=("dev_unid", "command_id") if name == "command" else ("dev_unid", name),
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_field(world: World, command: str) -> None:
    answer = world.admin.call(command, COMMANDS[command].params | {"colour": "blue"})
    failed(answer, BAD_FIELD, "$.params.colour", maybe=("dev_unid",))


@pytest.mark.parametrize("params", [LEAVE_OUT, None, [], "x", 5])
def test_params_that_are_no_object(world: World, params: object) -> None:
    failed(world.admin.call("delete tasks", params), BAD_FIELD, "$.params")


def test_params_may_be_left_out_where_nothing_is_required(world: World) -> None:
    ok(world.viewer.call("get tasks"))


@pytest.mark.parametrize(
    ("algo_comb", "path"),
    [
        ([], "$.params.algo_comb"),
        ([{}], "$.params.algo_comb[0].algo_id"),
        ([{"algo_id": 5}], "$.params.algo_comb[0].algo_id"),
        ([{"algo_id": None}], "$.params.algo_comb[0].algo_id"),
        ([{"algo_id": "a1"}, {"algo_id": "a2", "enabled": "yes"}], "$.params.algo_comb[1].enabled"),
        ([{"algo_id": "a1", "params": []}], "$.params.algo_comb[0].params"),
        ([{"algo_id": "a1", "speed": 1}], "$.params.algo_comb[0].speed"),
        ([{"algo_id": "a1"}, {"algo_id": "a1"}], "$.params.algo_comb"),
        (["a1"], "$.params.algo_comb[0]"),
    ],
)
@pytest.mark.parametrize("command", ["post tasks", "post tasks/pic_task_config"])
def test_bad_algo_comb(world: World, things: dict[str, str], command: str, algo_comb: list[Any], path: str) -> None:
    given: Json = {"name": "n", "task_type": "pic"} if command == "post tasks" else {"task_id": things["pic"]}
    failed(world.operator.call(command, given | {"algo_comb": algo_comb}), BAD_FIELD, path)


@pytest.mark.parametrize(
    ("command", "params", "path"),
    [
        *((f"get {what}", {"limit": n}, "$.params.limit") for what in ("tasks", "devices") for n in (0, -1, 1001)),
        ("get subtasks", {"limit": True}, "$.params.limit"),
        ("get store_confs", {"limit": 1.5}, "$.params.limit"),
        ("get tasks", {"task_type": "audio"}, "$.params.task_type"),
        ("post tasks", {"name": "n", "task_type": "PIC"}, "$.params.task_type"),
        ("post tasks", {"name": "n", "task_type": "pic", "dev_unids": ["{device}", 5]}, "$.params.dev_unids[1]"),
        ("post devices/call", {"dev_unid": "{device}", "command": "x", "timeout": 301}, "$.params.timeout"),
        *(
            (
                "post devices/call",
                {"dev_unid": "{device}", "command": full_command(f"{verb} tasks"), "params": {}},
                "$.params.command",
            )
            for verb in ("post", "put", "delete")
        ),
    ],
)
def test_values_out_of_range(world: World, things: dict[str, str], command: str, params: Json, path: str) -> None:
    answer = world.admin.call(command, filled(params, things))
    failed(answer, BAD_FIELD, path, maybe=("dev_unid",))


# -- the envelope


@pytest.mark.parametrize(
    ("envelope", "path"),
    [
        ({"src_page": 5}, "$.src_page"),
        ({"src_page": None}, "$.src_page"),
        ({"src_page": "p" * 257}, "$.src_page"),
        ({"req_id": 5}, "$.req_id"),
        ({"req_id": ""}, "$.req_id"),
        ({"req_id": "r" * 129}, "$.req_id"),
        ({"req_id": None}, "$.req_id"),
        ({"progress": "yes"}, "$.progress"),
        ({"command": 5}, "$.command"),
        ({"command": None}, "$.command"),
        ({"command": LEAVE_OUT}, "$.command"),
    ],
)
def test_bad_envelope(world: World, envelope: Json, path: str) -> None:
    client = world.client("viewer")
    message = {"command": full_command("get tasks"), "req_id": "e1", "src_page": "p", **envelope}
    message = {k: v for k, v in message.items() if v is not LEAVE_OUT}
    client.send_raw(json.dumps(message))
    answer = client.recv()
    assert answer.pop("ecode") == BAD_FIELD
    assert path in answer.pop("enote")
    # What is in order comes back as sent; of what is not, the contract does not say.
    sound = {k: v for k, v in message.items() if k in ("command", "req_id", "src_page") and k not in envelope}
    assert {k: v for k, v in answer.items() if k not in envelope} == sound
    assert client.works()


@pytest.mark.parametrize(
    "command",
    [
        "",
        "get",
        "get  /wsapi/v1/devconf_fx/tasks",
        " get /wsapi/v1/devconf_fx/tasks",
        "get /wsapi/v1/devconf_fx/tasks ",
        "get\t/wsapi/v1/devconf_fx/tasks",
        "get /wsapi/v1/devconf_fx/tasks/",
        "get /wsapi/v1/devconf_fx/Tasks",
        "get /WSAPI/v1/devconf_fx/tasks",
        "get wsapi/v1/devconf_fx/tasks",
        "get /wsapi/v2/devconf_fx/tasks",
        "get /wsapi/v1/devconf_fx/nothing",
        "get /webapi/v1/devconf_fx/tasks",
        "patch /wsapi/v1/devconf_fx/tasks",
        "put /wsapi/v1/devconf_fx/subtasks",
        "get /wsapi/v1/devconf_fx/tasks/pic_task_config",
        "get /wsapi/v1/devconf_fx/tasks?limit=1",
    ],
)
def test_unknown_command(world: World, command: str) -> None:
    failed(world.admin.call(command, {"anything": 1}, src_page="page 1"), NO_COMMAND)


@pytest.mark.parametrize("method", ["GET", "Get", "gEt"])
def test_method_in_any_case(world: World, method: str) -> None:
    ok(world.viewer.call(f"{method} /wsapi/v1/devconf_fx/tasks", src_page="täsks"))


def test_unknown_envelope_fields_are_ignored(world: World) -> None:
    ok(world.viewer.call("get tasks", {}, colour="blue", ecode=7))


def test_last_of_a_repeated_key_counts(world: World) -> None:
    client = world.client("viewer")
    path = full_command("get tasks")
    client.send_raw('{"command": "x", "req_id": "a", "req_id": "b", "command": "' + path + '"}')
    answer = client.recv()
    assert (answer["req_id"], answer["command"], answer["ecode"]) == ("b", path, 0)


# -- roles, for what test_roles.py does not reach


def test_viewer_may_not_see_contents(world: World, things: dict[str, str]) -> None:
    failed(world.viewer.call("get store_confs", {"unid": things["conf"], "content": True}), NOT_ALLOWED)


# -- what is stored


@pytest.mark.parametrize(
    ("command", "params", "ecode"),
    [
        ("delete tasks", {"task_id": "{none}"}, NO_TASK),
        ("delete tasks", {"task_id": "{none}", "force": True}, NO_TASK),
        ("put tasks", {"task_id": "{none}", "name": "n"}, NO_TASK),
        ("put tasks", {"task_id": "{pic}", "store_conf_unid": "{none}"}, NO_CONF),
        ("put tasks", {"task_id": "{pic}", "dev_unids": ["{device}", "{none}"]}, NO_DEVICE),
        ("post tasks", {"name": "n", "task_type": "pic", "store_conf_unid": "{none}"}, NO_CONF),
        ("post tasks", {"name": "n", "task_type": "pic", "dev_unids": ["{none}"]}, NO_DEVICE),
        ("post tasks/pic_task_config", {"task_id": "{none}", "algo_comb": combo("a1")}, NO_TASK),
        ("post subtasks", {"task_id": "{none}", "dev_unid": "{device}"}, NO_TASK),
        ("post subtasks", {"task_id": "{video}", "dev_unid": "{none}"}, NO_DEVICE),
        ("delete subtasks", {"subtask_id": "{none}"}, NO_SUBTASK),
        ("put store_confs", {"unid": "{none}", **FILE}, NO_CONF),
        ("delete store_confs", {"unid": "{none}"}, NO_CONF),
        ("put devices", {"dev_unid": "{none}", "dev_name": "n"}, NO_DEVICE),
        ("delete devices", {"dev_unid": "{none}"}, NO_DEVICE),
        ("post devices/resync", {"dev_unid": "{none}"}, NO_DEVICE),
        ("post devices/call", {"dev_unid": "{none}", "command": "get /x"}, NO_DEVICE),
    ],
)
def test_unknown_id(world: World, things: dict[str, str], command: str, params: Json, ecode: int) -> None:
    none = unknown()
    answer = world.admin.call(command, filled(params, things | {"none": none}))
    failed(answer, ecode, none, stored=True, maybe=("dev_unid",))


@pytest.mark.parametrize(
    ("command", "params", "ecode"),
    [
        ("delete tasks", {"task_id": "{video}"}, HAS_SUBTASKS),
        ("delete tasks", {"task_id": "{video}", "force": True}, HAS_SUBTASKS),
        ("post tasks/pic_task_config", {"task_id": "{video}", "algo_comb": combo("a1")}, WRONG_KIND),
        (
            "post tasks/pic_task_config",
            {"task_id": "{video}", "algo_comb": combo("a1"), "force": True},
            WRONG_KIND,
        ),
        ("post subtasks", {"task_id": "{pic}", "dev_unid": "{device}"}, WRONG_KIND),
        ("post devices", {"dev_refid": "{refid}"}, EXISTS),
        ("put devices", {"dev_unid": "{other}", "dev_refid": "{refid}"}, EXISTS),
        ("delete store_confs", {"unid": "{conf}"}, IN_USE),
        ("delete devices", {"dev_unid": "{device}"}, IN_USE),
        ("post tasks/pic_task_config", {"task_id": "{pic}", "algo_comb": combo("a1", "a9")}, CANNOT_RUN),
        (
            "post tasks",
            {"name": "n", "task_type": "pic", "algo_comb": combo("a9"), "dev_unids": ["{device}"]},
            CANNOT_RUN,
        ),
    ],
)
def test_conflict(world: World, things: dict[str, str], command: str, params: Json, ecode: int) -> None:
    answer = world.admin.call(command, filled(params, things))
    failed(answer, ecode, stored=True, maybe=("dev_unid", "devices"))


@pytest.mark.parametrize("command", ["post tasks", "put tasks"])
def test_video_task_takes_no_devices(world: World, things: dict[str, str], command: str) -> None:
    """`dev_unids` is for picture tasks: a wrong kind, or a wrong field where the kind is in the request."""
    given = {"task_id": things["video"]} if command == "put tasks" else {"name": "n", "task_type": "video"}
    answer = world.operator.call(command, given | {"dev_unids": [things["device"]]})
    failed(answer, BAD_FIELD if answer["ecode"] == BAD_FIELD else WRONG_KIND)


@pytest.mark.parametrize("resource", ["tasks", "subtasks", "store_confs", "devices"])
def test_get_of_an_unknown_id_is_an_empty_list(world: World, resource: str) -> None:
    id_name = {"tasks": "task_id", "subtasks": "subtask_id", "store_confs": "unid", "devices": "dev_unid"}
    answer = ok(world.viewer.call(f"get {resource}", {id_name[resource]: unknown()}))
    assert (answer[resource], answer["next"]) == ([], None)
