"""A disk that fails (`EIO`): the server says so in one line and ends, and what it had told is there afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kit import World, b64, eventually, ok
from kit_crash import unsettled

STOPPING = 1005030002


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server of its own for each test."""
    world = World(tmp_path_factory.mktemp("server"), faults=True)
    try:
        yield world
    finally:
        world.server.faults.repair()
        world.close()


@pytest.fixture(autouse=True)
def well_after(world: World) -> Iterator[None]:
    """It runs again, and has logged no traceback."""
    yield
    world.end_test()
    world.check()


def post_until_it_ends(world: World, size: int) -> tuple[dict[str, Any], list[Any]]:
    """Write until the server has ended; what was told ok, and the answers that were errors."""
    stored: dict[str, Any] = {}
    errors = []
    for number in range(400):
        name = f"conf {number}"
        params = {"name": name, "file_ext": "bin", "file_b64": b64(number.to_bytes(2) * (size // 2))}
        try:
            answer = world.operator.call("post store_confs", params)
        except (AssertionError, OSError, EOFError):
            break
        except Exception as closed:
            assert "closed" in type(closed).__name__.lower(), closed  # noqa: PT017
            break
        if answer["ecode"]:
            errors.append(dict(answer))
        else:
            assert not errors, "told ok after an error"
            stored[answer["unid"]] = params
    eventually(lambda: not world.server.alive, "the server ends")
    return stored, errors


def check_ended(world: World, stored: dict[str, Any], errors: list[Any]) -> None:
    assert world.server.returncode == 1
    assert len(errors) <= 1
    for error in errors:
        assert error["ecode"] == STOPPING
        assert "database failed" in error["enote"]
    log = world.server.log()
    assert "Traceback" not in log
    said = [line for line in log.splitlines() if "disk I/O error" in line]
    assert len(said) == 1, log
    assert str(world.server.database) in said[0]
    assert "look at the disk" in said[0]
    world.server.faults.repair()
    world.restart()
    for unid, params in stored.items():
        conf = world.conf(unid, content=True)
        assert {name: conf[name] for name in params} == params
    assert unsettled(world) == []


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_commit_that_cannot_be_synced(world: World, number: int) -> None:
    world.server.faults.break_sync(number)
    stored, errors = post_until_it_ends(world, 1000)
    assert world.server.faults.failed >= 1
    check_ended(world, stored, errors)


def test_a_commit_that_cannot_be_written(world: World) -> None:
    world.server.faults.break_writing(4)
    stored, errors = post_until_it_ends(world, 20_000)
    check_ended(world, stored, errors)


def test_a_log_that_cannot_be_moved_into_the_database(world: World) -> None:
    """SQLite itself keeps silent about that, and the log would grow for ever."""
    conf = world.store_conf()
    task_id = world.pic_task(store_conf_unid=conf)
    # Written and synced twice: the plan and the settling. What fails is emptying the log after them.
    world.server.faults.break_sync(3)
    params = {"unid": conf, "name": "c", "file_ext": "bin", "file_b64": b64(b"new")}
    ok(world.operator.call("put store_confs", params))
    eventually(lambda: not world.server.alive, "the server ends")
    check_ended(world, {conf: params}, [])
    assert world.task(task_id)["store_conf_unid"] == conf


def test_those_that_wait_get_an_error_or_are_closed(world: World) -> None:
    clients = [world.client() for _ in range(5)]
    world.server.faults.break_sync(3)
    sent = [
        (client, client.send("post tasks", {"name": f"task {number}", "task_type": "video"}))
        for number in range(20)
        for client in clients
    ]
    eventually(lambda: not world.server.alive, "the server ends")
    told = []
    for client, req_id in sent:
        client.wait_closed()
        with client.changed:
            answers = [m for m in client.inbox if isinstance(m, dict) and m.get("req_id") == req_id]
        assert len(answers) <= 1
        if answers:
            assert answers[0]["ecode"] in (0, STOPPING)
        told += [answer["task_id"] for answer in answers if answer["ecode"] == 0]
    check_ended(world, {}, [])
    assert all(world.has_task(task_id) for task_id in told)
