"""Idempotency keys: what is kept of an answer and for how long, and calls (``docs/protocol.md`` §2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from devconf.store import keys
from devconf.testing import MemoryServer
from tests.conftest import LoggedErrors
from tests.delivering import WAIT, online, pic_task
from tests.keyed import kept

DAY = 86400.0

# -- what is kept, and for how long ---------------------------------------------------------------------------------


def test_secrets_are_shown_once(server: MemoryServer) -> None:
    asked = server.call("post devices", {"dev_refid": "a"}, idempotency_key="k")
    enrolled = server.result(asked)
    dev_key = enrolled.pop("dev_key")
    again = server.ask("post devices", {"dev_refid": "a"}, idempotency_key="k")
    assert again == {**enrolled, "not_kept": ["dev_key"]}
    params = {"dev_unid": enrolled["dev_unid"], "new_key": True}
    renewed = server.ask("put devices", params, idempotency_key="new")
    assert server.ask("put devices", params, idempotency_key="new") == {
        "ecode": 0,
        "enote": "ok",
        "not_kept": ["dev_key"],
    }
    server.ask("post users", {"user_name": "x", "role": "viewer", "password": "mellon"}, idempotency_key="user")
    for file in server.path.parent.iterdir():
        for secret in (dev_key, renewed["dev_key"], "mellon"):
            # The passwords of this server are not hashed, and stand as they are in their own table.
            assert file.read_bytes().replace(b"plain mellon", b"").count(secret.encode()) == 0


def test_a_key_is_kept_for_a_day(server: MemoryServer) -> None:
    params = {"name": "x", "task_type": "video"}
    first = server.ask("post tasks", params, idempotency_key="k")
    server.advance(DAY - 1)
    assert server.ask("post tasks", params, idempotency_key="k") == first
    server.advance(1)
    second = server.ask("post tasks", params, idempotency_key="k")
    assert second["task_id"] != first["task_id"]
    assert server.ask("post tasks", params, idempotency_key="k") == second
    server.advance(DAY + 3600)
    assert kept(server) == 0


def test_of_too_many_keys_the_oldest_go_after_an_hour(server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEPT", 2)
    for number in range(4):
        server.ask("post tasks", {"name": "x", "task_type": "video"}, idempotency_key=str(number))
    server.advance(3599)
    assert kept(server) == 4
    server.advance(3601)
    assert kept(server) == 2


def test_a_clock_that_was_ahead_leaves_no_keys_behind(server: MemoryServer) -> None:
    key = keys.Key("u" * 32, "digest", "fingerprint", {})
    server.service.store.run(keys.begin, key, server.service._seams.now() + 10 * DAY)
    server.advance(3600)
    assert kept(server) == 0


def test_a_deleted_account_takes_its_keys_along(server: MemoryServer) -> None:
    ann, bob = server.client("ann"), server.client("bob")
    for client in (ann, bob):
        client.ask("post tasks", {"name": "x", "task_type": "video"}, idempotency_key="k")
    assert bob.ask("delete users", {"user_name": "ann"})["ecode"] == 0
    assert kept(server) == 1
    assert server.client("carl").ask("delete users", {"user_name": "carl"}, idempotency_key="k")["ecode"] == 0
    assert kept(server) == 1


def test_an_answer_that_is_too_large_is_kept_without_what_is_largest(server: MemoryServer) -> None:
    task_id = pic_task(server)
    algos = [{"algo_id": f"{number:0200}", "enabled": True, "params": {}} for number in range(400)]
    params = {"task_id": task_id, "algo_comb": algos}
    first = server.ask("post tasks/pic_task_config", params, idempotency_key="k")
    assert first["algo_comb"] == algos
    del first["algo_comb"]
    again = server.ask("post tasks/pic_task_config", params, idempotency_key="k")
    assert again == {**first, "not_kept": ["algo_comb"]}


# -- calls ----------------------------------------------------------------------------------------------------------


def test_a_call_is_passed_through_once(server: MemoryServer) -> None:
    device = online(server, "a")
    params = {"dev_unid": device.dev_unid, "command": "post /reboot"}
    calls = [server.call("post devices/call", params, idempotency_key="k") for _ in range(2)]
    [message] = device.inbox
    device.answer(message, 7, "busy", load=[1, 2])
    answer = server.result(calls[0])
    said = {"req_id": message["req_id"], "ecode": 7, "enote": "busy", "load": [1, 2]}
    assert answer == {"ecode": 0, "enote": "ok", "command_id": answer["command_id"], "answer": said}
    assert server.result(calls[1]) == answer
    server.crash()
    server.restart()
    assert server.ask("post devices/call", params, idempotency_key="k") == answer
    assert len(device.heard) == 1


def test_a_call_whose_answer_is_large(server: MemoryServer) -> None:
    device = online(server, "a")
    params = {"dev_unid": device.dev_unid, "command": "get /log"}
    first = server.call("post devices/call", params, idempotency_key="k")
    device.answer(device.inbox[0], log="x" * 70_000)
    answer = server.result(first)
    del answer["answer"]
    assert server.ask("post devices/call", params, idempotency_key="k") == {**answer, "not_kept": ["answer"]}


@pytest.mark.parametrize("ends", ["crash", "stop"])
def test_a_call_that_the_end_of_the_server_cut_off_is_not_passed_through_again(server: MemoryServer, ends: str) -> None:
    device = online(server, "a")
    params = {"dev_unid": device.dev_unid, "command": "post /reboot", "timeout": 300}
    server.call("post devices/call", params, idempotency_key="k")
    assert len(device.inbox) == 1
    if ends == "crash":
        server.crash()
    else:
        server.stop()
    server.restart()
    device.connect()
    answer = server.ask("post devices/call", params, idempotency_key="k")
    enote = "the server ended before the device answered; it may have acted on it"
    entry = {"dev_unid": device.dev_unid, "state": "pending", "ecode": 1005040001, "enote": enote}
    assert answer == {
        "ecode": 1005040001,
        "enote": enote,
        "command_id": answer["command_id"],
        "devices": [entry],
    }
    assert len(device.heard) == 1
    assert calls(server) == ([] if ends == "crash" else [("post /reboot", 1005040001)])


def test_a_call_that_was_not_answered_stays_so(server: MemoryServer) -> None:
    device = online(server, "a")
    params = {"dev_unid": device.dev_unid, "command": "post /reboot"}
    first = server.call("post devices/call", params, idempotency_key="k")
    server.advance(WAIT)
    answer = server.result(first)
    assert answer["ecode"] == 1005040001
    assert server.ask("post devices/call", params, idempotency_key="k") == answer
    assert len(device.heard) == 1


def test_a_call_that_reached_nobody_may_be_asked_again(server: MemoryServer) -> None:
    device = server.enrol("a")
    params = {"dev_unid": device.dev_unid, "command": "post /reboot"}
    assert server.ask("post devices/call", params, idempotency_key="k")["ecode"] == 1005030001
    device.connect()
    for _ in range(41):  # 8 on their way, 32 waiting; the device has not echoed yet: one on its way
        server.call("post devices/call", params)
    assert server.ask("post devices/call", params, idempotency_key="k")["ecode"] == 1004290001
    assert kept(server) == 0


def calls(server: MemoryServer) -> list[tuple[str, int]]:
    """The calls in the history, and their outcomes."""
    done = server.ask("get commands")["commands"]
    return [(each["params"]["command"], each["ecode"]) for each in done if each["command"].endswith("/call")]


def fill(server: MemoryServer, *, full: bool) -> None:
    """Let the disk have no room, or room again."""

    def limit(connection: Connection) -> None:
        sqlite: Any = connection.connection.driver_connection
        pages = sqlite.execute("PRAGMA page_count").fetchone()[0]
        sqlite.execute(f"PRAGMA max_page_count = {pages if full else 2**30}").close()

    server.service.store.run(limit)
    server.finish()


def test_what_a_call_was_answered_is_told_once_it_is_kept(server: MemoryServer, logged_errors: LoggedErrors) -> None:
    device = online(server, "a")
    params = {"dev_unid": device.dev_unid, "command": "get /log"}
    first = server.call("post devices/call", params, idempotency_key="k")
    joined = server.call("post devices/call", params, idempotency_key="k")
    fill(server, full=True)
    device.answer(device.inbox[0], log="x" * 60_000)
    server.advance(30)
    assert not first.called
    assert logged_errors.flush() == [
        f"the disk is full: changes are refused until there is room for {server.path}",
    ]
    fill(server, full=False)
    server.advance(1)
    answer = server.result(first)
    assert (answer["ecode"], answer["answer"]["log"]) == (0, "x" * 60_000)
    assert server.result(joined) == answer
    assert server.ask("post devices/call", params, idempotency_key="k") == answer
    assert calls(server) == [("get /log", 0)]
    assert len(device.heard) == 1


def test_a_call_that_reached_nobody_is_told_once_its_key_is_forgotten(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    device = online(server, "a")
    for _ in range(33):  # one on its way, 32 waiting
        server.call("post devices/call", {"dev_unid": device.dev_unid, "command": "get /uptime"})
    params = {"dev_unid": device.dev_unid, "command": "post /reboot"}
    forget, attempts = keys.forget, [1, 2, 3]

    def fails_at_first(connection: Connection, key: keys.Key) -> None:
        if attempts:
            raise OSError(f"attempt {attempts.pop(0)}")
        forget(connection, key)

    monkeypatch.setattr(keys, "forget", fails_at_first)
    refused = server.call("post devices/call", params, idempotency_key="k")
    server.advance(2.9)
    assert not refused.called
    server.advance(0.1)
    assert server.result(refused)["ecode"] == 1004290001
    assert [str(failure.value) for failure in logged_errors.expect(OSError)] == ["attempt 1", "attempt 2", "attempt 3"]
    assert kept(server) == 0


def fails(*_args: object) -> None:
    raise OSError("it cannot be written")


def test_the_history_and_the_key_say_the_same_of_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    """What cannot be kept for the key is not in the history either: who asks again is not told what that denies."""
    server = MemoryServer(tmp_path)
    device = online(server, "a")
    params = {"dev_unid": device.dev_unid, "command": "post /reboot"}
    first = server.call("post devices/call", params, idempotency_key="k")
    with monkeypatch.context() as patch:
        patch.setattr(keys, "answer", fails)
        device.answer(device.inbox[0])
        server.stop()
    logged_errors.expect(OSError)
    answer = server.result(first)
    enote = "the server stops, and could not keep what became of this call; its device was asked"
    assert answer == {"ecode": 1005030002, "enote": enote}
    assert server.clock.getDelayedCalls() == []
    server.restart()
    assert server.ask("post devices/call", params, idempotency_key="k")["ecode"] == 1005040001
    assert calls(server) == []
    server.stop()
