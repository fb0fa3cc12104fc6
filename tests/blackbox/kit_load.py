"""Clients that change everything at once, remember what they were told, and compare it with the lists.

Each worker has tasks and storage configurations of its own, of which it knows what has to be stored: after an answer
exactly that, and after a connection that was lost without one what it was before or what was asked for, which the
history has to agree with. One storage configuration all of them replace.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from random import Random
from typing import Any

from kit import Client, Http, Json, b64, combo
from websockets.exceptions import WebSocketException

OK, OFFLINE, REFUSED, SILENT = 0, 1005030001, 1005020001, 1005040001
TOO_MANY, STOPPING = 1004290001, 1005030002
#: Seconds within which a request is answered, or its connection has closed.
ANSWERED_WITHIN = 40.0

State = Json | None  # what is stored of a thing; None: it is not there


class Lost(Exception):
    """The connection has closed."""


@dataclass
class Thing:
    """A task, subtask or storage configuration: what it is called, and what has to be stored of it."""

    kind: str  # as the list is called
    marker: str  # its first name, or a part of it
    id: str = ""
    state: State = None


@dataclass
class Asked:
    """A request."""

    thing: Thing
    command: str
    params: Json
    after: State  # what is stored once it was done
    stays: tuple[int, ...]  # errors that it is done in spite of
    mark: str  # stands in its params, in the history too
    sent: float = 0.0
    ended: float = 0.0
    answer: Json | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None and self.answer["ecode"] in (OK, *self.stays)


@dataclass
class Shared:
    """A storage configuration that everybody replaces; it was made with what `first` says."""

    unid: str
    first: State
    writes: list[Asked] = field(default_factory=list)

    def may_be(self, state: State) -> bool:
        """Whether this can be what is stored last: no other that was done began after it had ended."""
        done = [asked for asked in self.writes if asked.done]
        if not done and state == self.first:
            return True
        possible = [asked for asked in self.writes if asked.done or asked.answer is None]
        return any(
            asked.after == state and not any(other.sent > asked.ended for other in done if asked.done)
            for asked in possible
        )


def stored_conf(name: str, content: bytes) -> Json:
    return {"name": name, "file_ext": "bin", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


class Worker(threading.Thread):
    """One client; its own things, its own random numbers.

    `problems`: what it found wrong. `asked`: all that it asked for.
    """

    def __init__(self, http: Http, login: Json, seed: str, dev_unids: list[str], shared: Shared) -> None:
        super().__init__(name=f"worker {seed}", daemon=True)
        self.problems: list[str] = []
        self.asked: list[Asked] = []
        self.called: list[str] = []
        self.things: list[Thing] = []
        self.known: set[str] = set()  # command_ids of answers
        self._http, self._login = http, login
        self._seed, self._random = seed, Random(seed)
        self._devices, self._shared = dev_unids, shared
        self._unknown: list[Asked] = []
        self._count = 0
        self._client: Client | None = None
        self._ended = threading.Event()

    # -- staying connected

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                try:
                    self._work()
                except (Lost, OSError, HTTPException, WebSocketException):
                    time.sleep(0.02)
        except BaseException as wrong:
            self.problems.append(f"{self.name}: {type(wrong).__name__}: {wrong}")

    def stop(self) -> None:
        """Ask nothing more, once what was asked is answered."""
        self._ended.set()
        self.join(2 * ANSWERED_WITHIN)
        assert not self.is_alive(), f"{self.name} does not end"

    def _work(self) -> None:
        self._client = Client(self._http, self._login, "header")
        try:
            self.look()
            while not self._ended.is_set():
                self._step()
        finally:
            self._client.close()
            with self._client.changed:
                left = [m for m in self._client.inbox if not isinstance(m, dict) or "event" not in m]
            self.problems += [f"I3: {self.name} got an answer that nobody waits for: {m!r}" for m in left]

    def _call(self, command: str, params: Json) -> Json:
        assert self._client is not None
        return self._answer(self._client.send(command, params))

    def _answer(self, req_id: str) -> Json:
        assert self._client is not None
        try:
            return dict(self._client.answer(req_id, ANSWERED_WITHIN))
        except AssertionError:
            if self._client.socket.ended:
                raise Lost from None
            raise AssertionError(
                f"I3: {self._client.sent(req_id)} is not answered, and its connection is open"
            ) from None

    # -- asking

    def _step(self) -> None:
        """Several requests at once, about different things."""
        assert self._client is not None
        batch: list[tuple[Asked, str]] = []
        busy: set[int | str] = set()
        for _ in range(self._random.randint(1, 3)):
            asked = self._choose()
            if not busy & {id(asked.thing), asked.mark}:
                busy |= {id(asked.thing), asked.mark}
                asked.sent = time.monotonic()
                self.asked.append(asked)
                self._unknown.append(asked)
                batch.append((asked, self._client.send(asked.command, asked.params)))
        lost = False
        for asked, req_id in batch:
            try:
                asked.answer = self._answer(req_id)
            except Lost:
                lost = True
            else:
                asked.ended = time.monotonic()
                self._unknown.remove(asked)
                self._note(asked, asked.answer)
        if lost:
            raise Lost
        if self._random.random() < 0.1:
            self._call_device()

    def _call_device(self) -> None:
        mark = self._mark()
        self.called.append(mark)
        params = {"dev_unid": self._random.choice(self._devices), "command": "get /wsapi/v1/box/state"}
        answer = self._call("post devices/call", params | {"params": {"mark": mark}})
        if answer["ecode"] not in (OK, OFFLINE, SILENT):
            self.problems.append(f"I3: a call is answered {answer}")

    def _note(self, asked: Asked, answer: Json) -> None:
        self.known.add(answer.get("command_id", ""))
        if asked.done:
            if asked.command.startswith("post ") and not asked.thing.id:
                asked.thing.id = answer[ID[asked.thing.kind]]
            self._settle(asked.thing, asked.after)
        elif answer["ecode"] not in (OFFLINE, REFUSED, SILENT, TOO_MANY, STOPPING):
            self.problems.append(f"{asked.command} {asked.params} is answered {answer}")

    def _settle(self, thing: Thing, state: State) -> None:
        thing.state = state
        if state is not None and thing not in self.things and thing.id != self._shared.unid:
            self.things.append(thing)
        if state is None and thing in self.things:
            self.things.remove(thing)

    def _mark(self) -> str:
        self._count += 1
        return f"{self._seed}.{self._count}."

    def _of(self, kind: str, which: Callable[[Json], bool] = lambda _state: True) -> list[Thing]:
        return [thing for thing in self.things if thing.kind == kind and thing.state is not None and which(thing.state)]

    def _choose(self) -> Asked:
        pics = self._of("tasks", lambda state: state["task_type"] == "pic")
        videos = self._of("tasks", lambda state: state["task_type"] == "video")
        confs, subtasks = self._of("store_confs"), self._of("subtasks")
        choices: list[tuple[int, Callable[[], Asked]]] = [
            (4 if len(pics) < 4 else 1, lambda: self._post_task("pic")),
            (2 if not videos else 0, lambda: self._post_task("video")),
            (2 if len(confs) < 2 else 0, self._post_conf),
            (1, lambda: self._put_conf(Thing("store_confs", "shared", self._shared.unid), shared=True)),
        ]
        if pics:
            choices += [
                (4, lambda: self._put_task(self._random.choice(pics))),
                (8, lambda: self._configure(self._random.choice(pics))),
                (2, lambda: self._remove(self._random.choice(pics))),
            ]
        if videos:
            choices.append((3 if len(subtasks) < 4 else 0, lambda: self._post_subtask(self._random.choice(videos))))
        if subtasks:
            choices.append((2, lambda: self._remove(self._random.choice(subtasks))))
        if confs:
            choices.append((4, lambda: self._put_conf(self._random.choice(confs))))
        weights = [weight for weight, _ in choices]
        return self._random.choices([choice for _, choice in choices], weights)[0]()

    def _confs(self) -> list[Any]:
        return [None, self._shared.unid, *(thing.id for thing in self._of("store_confs"))]

    def _some_devices(self) -> list[str]:
        return sorted(self._random.sample(self._devices, self._random.randint(1, min(3, len(self._devices)))))

    def _post_task(self, kind: str) -> Asked:
        mark = self._mark()
        params: Json = {"name": f"task {mark}", "task_type": kind, "algo_comb": combo("a1", mark=mark)}
        conf = self._random.choice(self._confs())
        after = params | {"store_conf_unid": conf, "dev_unids": []}
        if conf is not None:
            params |= {"store_conf_unid": conf}
        if kind == "pic":
            params |= {"dev_unids": self._some_devices()}
            after |= {"dev_unids": params["dev_unids"]}
        return Asked(Thing("tasks", mark), "post tasks", params, after, (), mark)

    def _put_task(self, thing: Thing) -> Asked:
        mark = self._mark()
        change: Json = {"name": f"task {mark}"}
        if self._random.random() < 0.4:
            change["store_conf_unid"] = self._random.choice(self._confs())
        if self._random.random() < 0.4:
            change["dev_unids"] = self._some_devices()
        assert thing.state is not None
        return Asked(thing, "put tasks", {"task_id": thing.id} | change, thing.state | change, (), mark)

    def _configure(self, thing: Thing) -> Asked:
        mark = self._mark()
        change: Json = {"algo_comb": combo("a1", mark=mark)}
        force = {"force": True} if self._random.random() < 0.2 else {}
        assert thing.state is not None
        params = {"task_id": thing.id} | change | force
        return Asked(thing, "post tasks/pic_task_config", params, thing.state | change, (), mark)

    def _remove(self, thing: Thing) -> Asked:
        name = "task_id" if thing.kind == "tasks" else "subtask_id"
        force = {"force": True} if self._random.random() < 0.2 else {}
        return Asked(thing, f"delete {thing.kind}", {name: thing.id} | force, None, (), thing.id)

    def _post_subtask(self, video: Thing) -> Asked:
        mark = self._mark()
        params = {"task_id": video.id, "dev_unid": self._random.choice(self._devices), "vchan": {"url": mark}}
        return Asked(Thing("subtasks", mark), "post subtasks", params, params, (), video.id)

    def _post_conf(self) -> Asked:
        mark = self._mark()
        content = mark.encode() * 50
        params = {"name": f"conf {mark}", "file_ext": "bin", "file_b64": b64(content)}
        after = stored_conf(params["name"], content)
        return Asked(Thing("store_confs", mark), "post store_confs", params, after, (), mark)

    def _put_conf(self, thing: Thing, *, shared: bool = False) -> Asked:
        mark = self._mark()
        content = mark.encode() * self._random.choice((1, 50, 2000))
        params = {"unid": thing.id, "name": f"conf {mark}", "file_ext": "bin", "file_b64": b64(content)}
        after = stored_conf(params["name"], content)
        asked = Asked(thing, "put store_confs", params, after, (OFFLINE, SILENT), mark)
        if shared:
            self._shared.writes.append(asked)
        return asked

    # -- comparing

    def look(self) -> None:
        """What is stored is what has to be; what became of requests without an answer is seen now."""
        lists = {kind: self._list(kind) for kind in ("tasks", "subtasks", "store_confs")}
        while self._unknown:
            self._find_out(self._unknown[0], lists)
            del self._unknown[0]
        for thing in self.things:
            found = seen(thing, lists)
            if found != thing.state:
                self.problems.append(f"I1, I9: stored is {found}, and it has to be {thing.state}: {self._told(thing)}")
                thing.state = found
        self.things = [thing for thing in self.things if thing.state is not None]

    def _told(self, thing: Thing) -> list[Any]:
        return [str((each.command, each.params, each.answer))[:500] for each in self.asked if each.thing is thing][-3:]

    def _find_out(self, asked: Asked, lists: dict[str, list[Json]]) -> None:
        thing = asked.thing
        if not thing.id:
            made = [item for item in lists[thing.kind] if is_made(item, thing)]
            thing.id = made[0][ID[thing.kind]] if made else ""
        if asked.thing.id == self._shared.unid:
            return
        found = seen(thing, lists)
        done = found == asked.after
        if not done and found != thing.state:
            self.problems.append(f"stored is {found}, neither {thing.state} nor {asked.after}: {self._told(thing)}")
        item = self._in_history(asked)
        told = item is not None and (item["ecode"] in (OK, *asked.stays))
        if (item is not None and item["outcome"] == "running") or told != done:
            self.problems.append(f"I3: the history says {item}, and stored is {found}: {self._told(thing)}")
        self._settle(thing, found)

    def _in_history(self, asked: Asked) -> Json | None:
        """The command of the history that was not answered."""
        items = self._call("get commands", {"limit": 500})["commands"]
        command = asked.command.split(" ")
        for item in items:
            method, path = item["command"].split(" ")
            fits = method == command[0] and path.endswith(f"/devconf_fx/{command[1]}")
            if fits and item["command_id"] not in self.known and asked.mark in str(item["params"]):
                found: Json = item
                self.known.add(found["command_id"])
                return found
        return None

    def _list(self, kind: str) -> list[Json]:
        items: list[Json] = []
        after: Json = {}
        while True:
            answer = self._call(f"get {kind}", {"limit": 1000} | after)
            items += answer[kind]
            if answer["next"] is None:
                return items
            after = {"after": answer["next"]}

    def check_at_last(self) -> None:
        """Once more, when all has come to rest."""
        for _ in range(100):
            with suppress(Lost, OSError, HTTPException, WebSocketException):
                self._client = Client(self._http, self._login, "header")
                try:
                    self.look()
                    return
                finally:
                    self._client.close()
            time.sleep(0.1)
        raise AssertionError(f"{self.name} cannot look")


ID = {"tasks": "task_id", "subtasks": "subtask_id", "store_confs": "unid"}


def is_made(item: Json, thing: Thing) -> bool:
    """Whether this item of a list is the thing that was to be made."""
    return thing.marker in str(item.get("name", item.get("vchan")))


def seen(thing: Thing, lists: dict[str, list[Json]]) -> State:
    """What is stored of a thing."""
    for item in lists[thing.kind]:
        if item[ID[thing.kind]] == thing.id:
            names = {
                "tasks": ("name", "task_type", "algo_comb", "store_conf_unid", "dev_unids"),
                "subtasks": ("task_id", "dev_unid", "vchan"),
                "store_confs": ("name", "file_ext", "sha256", "size"),
            }[thing.kind]
            found = {name: item[name] for name in names}
            return found | ({"dev_unids": sorted(found["dev_unids"] or [])} if "dev_unids" in found else {})
    return None
