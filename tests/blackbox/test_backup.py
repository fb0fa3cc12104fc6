"""`GET /webapi/v1/backup` (protocol §1): only for admins, complete, consistent, and a server starts on it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from kit import WEB_PATH, Client, Device, Server, World, b64, eventually, handshake_status, ok
from kit_http import Line
from kit_people import NO_TOKEN, NOT_ALLOWED, refused

BACKUP = f"{WEB_PATH}/backup"


def fetch(world: World, path: Path) -> Path:
    reply = world.http.request("GET", BACKUP, atoken=world.admin.atoken)
    assert reply.status == 200, reply
    assert reply.body.startswith(b"SQLite format 3\x00")
    path.write_bytes(reply.body)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    return path


@pytest.fixture(scope="module")
def device(world: World) -> Device:
    """With a task, a subtask and a storage configuration, and something that it is still to do."""
    device = world.device(algos=["a1", "a2"], keep=True)
    unid = world.store_conf(b"<a>" + b"x" * 300_000 + b"</a>")
    world.pic_task(device, store_conf_unid=unid, name="pictures")
    world.subtask(world.video_task(), device, vchan={"url": "rtsp://x"})
    world.disconnect(device)
    file = {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": b64(b"new")}
    assert world.operator.call("put store_confs", file)["ecode"] == 1005030001
    return device


def test_refused(world: World, device: Device) -> None:
    with world.server.unchanged(leave_out=()):
        for atoken in (None, "", "nonsense", "Bearer nonsense", world.admin.login["rtoken"]):
            refused(world.http.request("GET", BACKUP, atoken=atoken), NO_TOKEN)
        for atoken in (world.viewer.atoken, world.operator.atoken, device.atoken):
            refused(world.http.request("GET", BACKUP, atoken=atoken), NOT_ALLOWED)
        assert world.http.request("POST", BACKUP, {}, atoken=world.admin.atoken).status in (400, 404, 405)


@pytest.mark.parametrize("scheme", ["", "Bearer "])
def test_everything_is_in_it(world: World, device: Device, tmp_path: Path, scheme: str) -> None:
    """Row by row what the server has; and it opens without what lies beside a database."""
    before = world.server.steady(leave_out=())
    copy = fetch(world, tmp_path / "copy.sqlite")
    assert world.server.dump(leave_out=()) == before
    with closing(sqlite3.connect(copy)) as database:
        rows = {
            name: sorted(repr(row) for row in database.execute(f'SELECT * FROM "{name}"'))
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        }
    assert {name: rows[name] for name in before} == before
    assert set(rows) == set(before)
    assert world.http.request("GET", BACKUP, atoken=scheme + world.admin.atoken).status == 200


def test_a_server_starts_on_it(world: World, device: Device, tmp_path: Path) -> None:
    """With the accounts, tokens, devices and their keys, tasks, contents, history, and what is still to be sent."""
    tables = ("tasks", "subtasks", "store_confs", "devices", "commands")

    def lists(client: Client) -> list[object]:
        return [ok(client.call(f"get {table}"))[table] for table in tables] + [ok(client.call("get users"))["users"]]

    server = Server(tmp_path)
    fetch(world, server.database)
    server.start(may_move=True)
    http = server.http
    stack: list[Client | Device] = []
    try:
        other = Client(http, http.login("admin", "adm-3c1f77Qe"))
        stack.append(other)
        assert lists(other) == lists(world.admin)
        assert handshake_status(http.header_url, world.viewer.atoken) == 101
        twin = Device(http, device.dev_refid, device.dev_key, device.dev_unid)
        stack.append(twin)
        with device.changed:
            twin.held, twin.revs, twin.replies = dict(device.held), dict(device.revs), dict(device.replies)
        twin.connect()
        twin.wait_for(
            lambda: all(task["store_conf"]["name"] == "c" for task in twin.held.values() if "store_conf" in task)
        )
        eventually(
            lambda: ok(other.call("get devices", {"dev_unid": device.dev_unid}))["devices"][0]["pending"] == 0,
            "nothing is pending there",
        )
        assert world.device_item(device)["pending"] == 1, "nothing of it is known here"
    finally:
        for each in stack:
            each.close()
        server.stop()


@pytest.mark.parametrize(
    "header",
    [{"range": "bytes=100-199"}, {"if-modified-since": "Tue, 01 Jan 2999 00:00:00 GMT"}],
    ids=["range", "since"],
)
def test_never_a_part_of_it(world: World, device: Device, header: dict[str, str]) -> None:
    """Each answer is a copy of another moment: parts of two would make no database, and none is "not modified"."""
    reply = world.http.request("GET", BACKUP, headers={"authorization": world.admin.atoken, **header})
    assert reply.status == 200
    assert reply.body.startswith(b"SQLite format 3\x00")


@contextmanager
def busy(world: World) -> Iterator[list[str]]:
    """Commands one after the other, all the time; the `task_id`s made so far."""
    made: list[str] = []
    client = Client(world.http, world.operator.login)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            made.append(ok(client.call("post tasks", {"name": f"{len(made)}", "task_type": "video"}))["task_id"])

    worker = threading.Thread(target=work)
    worker.start()
    try:
        eventually(lambda: len(made) > 5, "it is at work")
        yield made
    finally:
        stop.set()
        worker.join()
        client.close()


def test_while_everything_goes_on(world: World, device: Device, tmp_path: Path) -> None:
    """The state of one moment: of a row of commands the first so many, each whole; and no command waits for it."""
    with busy(world) as made:
        for number in range(3):
            before = len(made)
            copy = fetch(world, tmp_path / f"{number}.sqlite")
            after = len(made)
            with closing(sqlite3.connect(copy)) as database:
                tasks = [task_id for (task_id,) in database.execute("SELECT task_id FROM tasks ORDER BY seq")]
                (count,) = database.execute("SELECT count(*) FROM commands WHERE settled_at IS NULL").fetchone()
            mine = [task_id for task_id in tasks if task_id in made]
            assert mine == made[: len(mine)]
            assert before <= len(mine) <= after + 1
            assert count <= 1, "of one command at a time at most one is not settled"
            eventually(lambda after=after: len(made) > after, "it goes on")  # type: ignore[misc]


def test_who_goes_away_in_the_middle_leaves_nothing(world: World, device: Device) -> None:
    """No copy of the database lies around afterwards."""
    files = {path.name for path in world.server.folder.rglob("*")}
    for _ in range(3):
        connection = Line(world.http)
        connection.send("GET", BACKUP, authorization=world.admin.atoken)
        with suppress(OSError):
            connection.sock.recv(1)
        connection.close()
    world.http.request("GET", BACKUP, atoken=world.admin.atoken)
    eventually(lambda: {path.name for path in world.server.folder.rglob("*")} == files, "the folder is as it was")
