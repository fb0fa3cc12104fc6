"""Requests with an idempotency key (protocol §2): carried out once, over both ways in and whatever ends the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit import WEB_PATH, World, eventually, ok
from kit_http import as_answer, resource_path, without_command

KEY = "5a4e1c1e-8a6f-4b53-9d0e-2b8f4c1f7f10"
UNTOLD = ("after plan", "answer received", "answer written", "before settle", "after settle", "before answer")


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("server"), device_timeout=30.0)
    try:
        yield world
    finally:
        world.close()


@pytest.mark.parametrize("failpoint", UNTOLD)
def test_killed_before_it_was_told(world: World, failpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks again with the same key gets what became of it, and there is one task, and not two."""
    device = world.device(connect=False)
    with monkeypatch.context() as armed:
        armed.setenv("DEVCONF_FAILPOINT", failpoint)
        world.restart()
    device.connect()
    device.barrier()  # by then the server has it among those online
    params = {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]}
    world.operator.send("post tasks", params, idempotency_key=KEY)
    eventually(lambda: not world.server.alive, f"the server dies at {failpoint!r}")
    world.restart(kill=True)
    world.connect(device)
    answer = world.operator.call("post tasks", params, idempotency_key=KEY)
    assert (answer["ecode"], len(answer["devices"])) == (0, 1)
    assert [task["task_id"] for task in ok(world.operator.call("get tasks"))["tasks"]] == [answer["task_id"]]
    world.settled(answer["task_id"])
    again = world.client("operator").call("post tasks", params, idempotency_key=KEY)
    assert without_command(again) == without_command(answer)


def test_the_header_over_http(world: World) -> None:
    """The same key over HTTP and WebSocket is the same."""
    params = {"name": "gate", "task_type": "video"}
    path, headers = resource_path("tasks"), {"Idempotency-Key": KEY}
    atoken = world.operator.atoken
    made = as_answer(world.http.request("POST", path, params, atoken=atoken, headers=headers))
    assert made["ecode"] == 0
    again = as_answer(world.http.request("POST", path, params, atoken=atoken, headers=headers))
    assert again == made
    assert without_command(world.operator.call("post tasks", params, idempotency_key=KEY)) == made
    gone = world.operator.call("delete tasks", {"task_id": made["task_id"]}, idempotency_key="bye")
    query = resource_path("tasks", {"task_id": made["task_id"]})
    over_http = world.http.request("DELETE", query, atoken=atoken, headers={"idempotency-key": "bye"})
    assert as_answer(over_http) == without_command(ok(gone))


@pytest.mark.parametrize(
    ("key", "enote"),
    [
        ("", "the header Idempotency-Key: expected `str` of length >= 1"),
        ("k" * 129, "the header Idempotency-Key: expected `str` of length <= 128"),
        ("\xe9", "the header Idempotency-Key is not UTF-8"),
    ],
)
def test_a_header_that_is_no_key(world: World, key: str, enote: str) -> None:
    reply = world.http.request(
        "GET", f"{WEB_PATH}/devconf_fx/tasks", atoken=world.operator.atoken, headers={"Idempotency-Key": key}
    )
    assert as_answer(reply) == {"ecode": 1004000002, "enote": enote}
