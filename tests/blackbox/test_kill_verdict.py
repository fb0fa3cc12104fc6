"""The verdict on a killed server can be against it: what is tampered with, or a lie, is found."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kit import Client, Json, World, eventually
from kit_fleet import Box
from kit_killing import Killing

pytestmark = pytest.mark.timeout(300, method="signal")
SERVER: dict[str, Any] = {"device_timeout": 1.0, "limits": {"connections_per_address_before_login": 200}}


def run(world: World, folder: Path, tamper: Callable[[Killing], None], **nature: Any) -> str:
    """What the verdict on one kill is, if this was done before it."""
    with Killing(world, folder, folder.name, workers=2, natures=({}, nature)) as killing:
        killing.kill_at_random()
        eventually(lambda: all(worker.things for worker in killing.workers), "there is something")
        eventually(lambda: any(says_confirmed(killing)), "a device has confirmed something")
        return "\n".join(killing.judge(lambda: tamper(killing)))


def says_confirmed(killing: Killing) -> Iterator[Json]:
    """The answers that say of a device that it has confirmed a rev."""
    for asked in (asked for worker in killing.workers for asked in list(worker.asked)):
        answer = asked.answer
        if answer is None or "rev" not in answer or not asked.done:
            continue
        if any(entry["state"] == "confirmed" for entry in answer.get("devices", [])):
            yield answer


def rewrite(box: Box, change: Callable[[list[Any]], list[Any]]) -> None:
    """Change a journal, of which the device has read what it was."""
    box.journal.write_text("".join(json.dumps(entry) + "\n" for entry in change(box.entries())), encoding="utf-8")


def in_the_database(world: World, statement: str) -> None:
    with closing(sqlite3.connect(world.server.database, timeout=20)) as database, database:
        assert database.execute(statement).rowcount == 1, statement


def taken(killing: Killing) -> tuple[Box, Any]:
    """A device, and the last that it took."""
    for box in killing.boxes:
        for entry in reversed(box.entries()):
            if entry["effect"] == "took" and entry["verb"] != "delete":
                return box, entry
    raise AssertionError("no device took anything")


def test_nothing_was_done(world: World, tmp_path: Path) -> None:
    assert run(world, tmp_path, lambda _killing: None) == ""


def test_an_order_that_took_effect_twice(world: World, tmp_path: Path) -> None:
    def again(killing: Killing) -> None:
        box, entry = taken(killing)
        with box.journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")

    found = run(world, tmp_path, again)
    assert "I2:" in found
    assert "has come twice" in found


def test_a_device_that_says_so_and_does_not(world: World, tmp_path: Path) -> None:
    """It answers modifications with 0 and takes none."""

    def changed(killing: Killing) -> None:
        unid = killing.boxes[1].dev_unid
        task_id = world.pic_task(name="before", dev_unids=[unid])
        world.settled(task_id)
        assert world.operator.call("put tasks", {"task_id": task_id, "name": "after"})["ecode"] == 0

    assert " lacks {(" in run(world, tmp_path, changed, lies=True)


def test_a_device_that_forgets_what_it_told(world: World, tmp_path: Path) -> None:
    """It lost its journal, and holds nothing of what it had confirmed."""

    def lost(killing: Killing) -> None:
        box, _ = taken(killing)
        rewrite(box, lambda _entries: [])

    assert " lacks {(" in run(world, tmp_path, lost)


def test_an_answer_that_says_confirmed_and_is_not(world: World, tmp_path: Path) -> None:
    def too_new(killing: Killing) -> None:
        for answer in says_confirmed(killing):
            answer["rev"] += 1000

    found = run(world, tmp_path, too_new)
    assert "says confirmed, and the device never took it" in found


def test_a_change_that_was_told_and_is_not_stored(world: World, tmp_path: Path) -> None:
    def undone(killing: Killing) -> None:
        thing = next(thing for worker in killing.workers for thing in worker.things if thing.kind == "tasks")
        in_the_database(world, f"UPDATE tasks SET name = 'other' WHERE task_id = '{thing.id}'")

    found = run(world, tmp_path, undone)
    assert "I1, I9: stored is" in found


def test_a_history_that_lacks_what_was_told(world: World, tmp_path: Path) -> None:
    def removed(killing: Killing) -> None:
        done = [
            asked
            for worker in killing.workers
            for asked in worker.asked
            if asked.done and "command_id" in (asked.answer or {})
        ]
        in_the_database(world, f"DELETE FROM commands WHERE command_id = '{done[-1].answer['command_id']}'")  # type: ignore[index]

    assert "I1: the history lacks" in run(world, tmp_path, removed)


def test_a_command_that_never_ends(world: World, tmp_path: Path) -> None:
    def opened(killing: Killing) -> None:
        statement = "UPDATE commands SET settled_at = NULL WHERE seq = (SELECT max(seq) FROM commands)"
        in_the_database(world, statement)

    found = run(world, tmp_path, opened)
    in_the_database(world, "UPDATE commands SET settled_at = planned_at WHERE settled_at IS NULL")
    assert "still runs" in found
    assert "is not settled" in found


def test_two_answers_to_one_request(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = Client._arrived

    def doubled(client: Client, channel: Any, data: str | bytes) -> None:
        arrived(client, channel, data)
        if '"post /wsapi/v1/devconf_fx/tasks"' in str(data):
            arrived(client, channel, data)

    monkeypatch.setattr(Client, "_arrived", doubled)
    assert "got an answer that nobody waits for" in run(world, tmp_path, lambda _killing: time.sleep(0))
