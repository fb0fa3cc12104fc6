"""The history: what is kept of a command, who sees it, and for how long (``docs/protocol.md`` §4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from devconf.config import Config, Limits
from devconf.model import Role
from devconf.store import journal
from devconf.store.tables import commands
from devconf.testing import MemoryServer


def history(server: MemoryServer, role: Role = Role.ADMIN, **params: Any) -> list[dict[str, Any]]:
    return list(server.ask("get commands", params, role=role)["commands"])


def make(server: MemoryServer, name: str, role: Role = Role.ADMIN) -> str:
    """Make a task without devices."""
    response = server.ask("post tasks", {"name": name, "task_type": "video"}, role=role)
    return str(response["task_id"])


def test_a_command_that_went_to_devices(server: MemoryServer) -> None:
    device = server.enrol("box-1")
    device.connect()
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    running = history(server)[0]
    assert {name: running[name] for name in ("outcome", "ecode", "enote", "devices", "duration")} == {
        "outcome": "running",
        "ecode": None,
        "enote": None,
        "devices": None,
        "duration": None,
    }
    server.advance(2.5)
    device.obey()
    answer = server.result(response)
    assert history(server)[0] == {
        "command_id": answer["command_id"],
        "command": "post /wsapi/v1/devconf_fx/tasks",
        "user_unid": "u" * 32,
        "user_name": "tester",
        "params": {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]},
        "at": "2025-06-15T15:06:40.000Z",
        "outcome": "ok",
        "ecode": 0,
        "enote": "ok",
        "devices": answer["devices"],
        "duration": 2.5,
    }


def test_a_command_that_failed(server: MemoryServer) -> None:
    device = server.enrol("box-1")
    device.connect()
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [device.dev_unid]})
    device.refuse(7, "no")
    answer = server.result(response)
    found = history(server)[0]
    assert (found["outcome"], found["ecode"], found["enote"], found["devices"]) == (
        "failed",
        1005020001,
        answer["enote"],
        answer["devices"],
    )


def test_the_newest_come_first_in_pages(server: MemoryServer) -> None:
    for number in range(5):
        make(server, f"task {number}")
    page = server.ask("get commands", {"limit": 2})
    assert [each["params"]["name"] for each in page["commands"]] == ["task 4", "task 3"]
    make(server, "task 5")
    page = server.ask("get commands", {"limit": 2, "after": page["next"]})
    assert [each["params"]["name"] for each in page["commands"]] == ["task 2", "task 1"]
    page = server.ask("get commands", {"limit": 2, "after": page["next"]})
    assert [each["params"]["name"] for each in page["commands"]] == ["task 0"]
    assert page["next"] is None


@pytest.mark.parametrize("slice_", [1, 2, 3, 10_000])
def test_filters_look_at_all_of_the_history(server: MemoryServer, monkeypatch: pytest.MonkeyPatch, slice_: int) -> None:
    monkeypatch.setattr(journal, "SLICE", slice_)
    box, other = server.enrol("box-1"), server.enrol("box-2")
    box.connect()
    task_id = make(server, "first")
    response = server.call("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [box.dev_unid]})
    box.obey()
    pic = server.result(response)["task_id"]
    for number in range(4):
        make(server, f"task {number}")
    assert [each["params"]["name"] for each in history(server, task_id=task_id)] == ["first"]
    assert [each["params"]["name"] for each in history(server, task_id=pic)] == ["gate"]
    went_to = [each["command"].rpartition("/")[2] for each in history(server, dev_unid=box.dev_unid)]
    assert went_to == ["tasks", "devices"]  # made, and enrolled
    assert [each["params"]["dev_refid"] for each in history(server, dev_unid=other.dev_unid)] == ["box-2"]
    one = history(server)[3]
    assert history(server, command_id=one["command_id"]) == [one]
    assert history(server, user_name="tester", limit=100) == history(server)
    for nothing in ({"user_name": "nobody"}, {"task_id": "none"}, {"dev_unid": '%"'}, {"command_id": "x"}):
        assert server.ask("get commands", nothing) == {"ecode": 0, "enote": "ok", "commands": [], "next": None}


def test_a_viewer_sees_their_own(server: MemoryServer) -> None:
    make(server, "somebody's")
    assert len(history(server, Role.OPERATOR)) == 1
    # The server in memory asks as the same user whatever the role.
    assert len(history(server, Role.VIEWER)) == 1
    server.service.store.run(
        lambda connection: connection.execute(update(commands).values(user_unid="another")).close()
    )
    server.finish()
    assert history(server, Role.VIEWER) == []
    assert len(history(server, Role.OPERATOR)) == 1


def test_old_commands_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SLICE", 2)
    server = MemoryServer(tmp_path, config=Config(limits=Limits(history_days=1)))
    for number in range(5):
        make(server, f"old {number}")
    server.advance(86400 - 1800)
    make(server, "new")
    assert len(history(server)) == 6
    server.advance(7200)
    assert [each["params"]["name"] for each in history(server)] == ["new"]
    server.stop()


def test_only_so_many_are_kept_and_none_that_runs_is_removed(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path, config=Config(limits=Limits(history_commands=3), device_timeout=3600))
    device = server.enrol("box-1")
    device.connect()
    response = server.call("post tasks", {"name": "runs", "task_type": "pic", "dev_unids": [device.dev_unid]})
    server.advance(3000)
    for number in range(5):
        make(server, f"task {number}")
    server.advance(601)
    assert [each["params"].get("name") for each in history(server)] == ["task 4", "task 3", "task 2", "runs"]
    device.obey()
    assert server.result(response)["ecode"] == 0
    server.advance(3600)
    assert [each["params"].get("name") for each in history(server)] == ["task 4", "task 3", "task 2"]
    device.lose()
    server.stop()
