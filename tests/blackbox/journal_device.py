"""A device as a process of its own that keeps a journal on disk: what it did is there before it says so.

Started with one argument, a JSON object (see `Settings`). From its standard input it takes lines: `ask` makes it ask
what it should hold, and print that; `behave` ends its moods, and prints `null`. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any

from kit_wire import WS_PATH, Http, Json, Socket
from websockets.exceptions import WebSocketException

NO_TASK, NO_SUBTASK, OLDER, REFUSED = 1004040001, 1004040003, 1004090008, 77
TASKS = f"{WS_PATH}/tasks"
PARTS = ("name", "algo_comb", "store_conf")

Key = tuple[str, str | None]


@dataclass(frozen=True)
class Settings:
    """What the device is like.

    `refuses`: the percentage of contents that it does not take; `slow`: of orders that it takes its time with;
    `tells`: it tells what it has when it registers; `lies`: it says that it took modifications, and does not.
    """

    port: int
    dev_refid: str
    dev_key: str
    dev_unid: str
    journal: str
    refuses: int = 0
    slow: int = 0
    tells: bool = False
    lies: bool = False


class Journal:
    """Every order that was heard, with what came of it: a line each, on the disk before it is answered."""

    def __init__(self, path: Path) -> None:
        self.held: dict[Key, Json] = {}
        self.last: dict[Key, tuple[int, Json]] = {}  # the rev acted on, and what was answered
        lines = read_lines(path)
        with path.open("ab") as whole:  # a line that a kill has cut off was never answered
            whole.truncate(sum(len(line) for line in lines))
        for line in lines:
            self._play(json.loads(line))
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(self, entry: Json) -> None:
        os.write(self._fd, json.dumps(entry).encode() + b"\n")
        os.fsync(self._fd)
        self._play(entry)

    def _play(self, entry: Json) -> None:
        play(self.held, entry)
        if entry["effect"] in ("took", "refused"):
            self.last[key_of(entry)] = entry["rev"], entry["answer"]


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a journal."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def key_of(entry: Json) -> Key:
    return entry["params"]["task_id"], entry["params"].get("subtask_id")


def play(held: dict[Key, Json], entry: Json) -> None:
    """What the device holds after it did this."""
    if entry["effect"] != "took":
        return
    key, params = key_of(entry), entry["params"]
    if entry["verb"] == "post":
        held[key] = dict(params)
    elif entry["verb"] == "put":
        held[key] = held[key] | {part: params[part] for part in PARTS if part in params} | {"rev": params["rev"]}
    else:
        held.pop(key, None)


class JournalDevice:
    """The device."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.http = Http(settings.port)
        self.journal = Journal(Path(settings.journal))
        self.random = Random()
        self.moody = True
        self.answers: dict[str, Json] = {}
        self.answered = threading.Condition()
        self.socket: Socket | None = None
        self._atoken = ""

    def stay_connected(self) -> None:
        """Connect, and again when it is lost, for ever."""
        while True:
            with suppress(OSError, HTTPException, WebSocketException, AssertionError, ValueError):
                self._connect()
            time.sleep(self.random.uniform(0.02, 0.1))

    def _connect(self) -> None:
        settings = self.settings
        reply = self.http.ask_ws_url(settings.dev_unid, self._atoken or "none")
        if reply.status == 401:
            self._atoken = self.http.login_device(settings.dev_refid, settings.dev_key)["atoken"]
        if settings.tells:
            tasks = [
                {"task_id": task_id, "rev": task["rev"]} | ({"subtask_id": subtask_id} if subtask_id else {})
                for (task_id, subtask_id), task in self.journal.held.items()
            ]
            body = {"dev_refid": settings.dev_refid, "dev_type": "box", "dev_name": "journal", "tasks": tasks}
            self.http.register(settings.dev_unid, self._atoken, body)
        ended = threading.Event()
        url = self.http.ws_url(settings.dev_unid, self._atoken)
        self.socket = Socket(url, self._arrived, on_end=ended.set)
        self.socket.start()
        ended.wait()

    def _arrived(self, channel: Socket, data: str | bytes) -> None:
        message = json.loads(data)
        if "ecode" in message:
            with self.answered:
                self.answers[message.get("req_id", "")] = message
                self.answered.notify_all()
            return
        answer = self._carry_out(message)
        if self.moody and self.random.randrange(100) < self.settings.slow:
            time.sleep(self.random.uniform(0.02, 0.4))
        with suppress(WebSocketException, OSError):
            channel.send(json.dumps({"req_id": message["req_id"], **answer}))

    def _carry_out(self, message: Json) -> Json:
        verb, _, path = message["command"].partition(" ")
        entry: Json = {"req_id": message["req_id"], "verb": verb, "params": message["params"]}
        if path != TASKS:
            return self._note(entry | {"verb": message["command"]}, "called", {"ecode": 0, "enote": "ok"})
        key, rev = key_of(entry), message["params"]["rev"]
        entry["rev"] = rev
        last, answer = self.journal.last.get(key, (-1, {}))
        if rev < last:
            return self._note(entry, "older", {"ecode": OLDER, "enote": "older than mine", "rev": last})
        if rev == last:
            return self._note(entry, "again", answer)
        if verb == "put" and key not in self.journal.held:
            return self._note(entry, "lacks", {"ecode": NO_SUBTASK if key[1] else NO_TASK, "enote": "not here"})
        # By what it is about, so that the same order is always refused, and its successor perhaps not.
        refuses = self.moody and zlib.crc32(f"{key} {rev}".encode()) % 100 < self.settings.refuses
        if refuses and verb != "delete":
            return self._note(entry, "refused", {"ecode": REFUSED, "enote": "not that"})
        if self.settings.lies and verb == "put":
            return {"ecode": 0, "enote": "ok"}
        return self._note(entry, "took", {"ecode": 0, "enote": "ok"})

    def _note(self, entry: Json, effect: str, answer: Json) -> Json:
        self.journal.write(entry | {"effect": effect, "answer": answer})
        return answer

    def ask(self) -> list[Json]:
        """What the server says that it should hold."""
        tasks: list[Json] = []
        after: Any = None
        for number in range(1000):
            assert self.socket is not None
            req_id = f"ask-{time.monotonic_ns()}-{number}"
            params = {"limit": 1000} if after is None else {"limit": 1000, "after": after}
            self.socket.send(json.dumps({"command": f"get {TASKS}", "req_id": req_id, "params": params}))
            with self.answered:
                assert self.answered.wait_for(lambda req_id=req_id: req_id in self.answers, 20)  # type: ignore[misc]
                answer = self.answers.pop(req_id)
            tasks += answer["tasks"]
            after = answer["next"]
            if after is None:
                return tasks
        raise AssertionError("pages without end")


def main() -> None:
    device = JournalDevice(Settings(**json.loads(sys.argv[1])))
    threading.Thread(target=device.stay_connected, daemon=True).start()
    for line in sys.stdin:
        if line == "behave\n":
            device.moody = False
            print("null", flush=True)
        else:
            print(json.dumps(device.ask()), flush=True)


if __name__ == "__main__":
    main()
