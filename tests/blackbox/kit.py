"""The kit of the black-box tests: a server, operators, devices, and how an answer is compared.

It knows the wire contract and nothing of the server's code. A test module says what its server is started with
in ``SERVER``, and takes the fixture ``world``.
"""

from __future__ import annotations

import base64
import itertools
import uuid
from pathlib import Path
from typing import Any, Protocol

from kit_device import (
    NO_SUBTASK,
    NO_TASK,
    OLDER,
    TASKS,
    Behaviour,
    Device,
    Order,
    drop_connection,
    for_another,
    garbage,
    hold,
    late,
    normally,
    on_old_connection,
    refuse,
    reply_with,
    silent,
    twice,
)
from kit_raw import RawSocket, raw_socket
from kit_server import PASSING, PASSWORDS, Dump, Server, free_port
from kit_wire import (
    LEAVE_OUT,
    PATIENCE,
    WEB_PATH,
    WS_PATH,
    Answer,
    Client,
    Http,
    Json,
    Reply,
    Socket,
    eventually,
    full_command,
    handshake_status,
)

__all__ = [
    "LEAVE_OUT",
    "NO_SUBTASK",
    "NO_TASK",
    "OLDER",
    "PASSING",
    "PASSWORDS",
    "PATIENCE",
    "TASKS",
    "WEB_PATH",
    "WS_PATH",
    "Answer",
    "Behaviour",
    "Client",
    "Device",
    "Dump",
    "Http",
    "Json",
    "Order",
    "RawSocket",
    "Reply",
    "Server",
    "Socket",
    "World",
    "algos",
    "b64",
    "combo",
    "drop_connection",
    "eventually",
    "failed",
    "for_another",
    "free_port",
    "full_command",
    "garbage",
    "handshake_status",
    "hold",
    "late",
    "normally",
    "ok",
    "on_old_connection",
    "payload",
    "raw_socket",
    "refuse",
    "reply_with",
    "short",
    "silent",
    "states",
    "twice",
    "unknown",
]

ENVELOPE = ("command", "src_page", "req_id")
NAMED_IDS = ("task_id", "unid", "subtask_id")  # the ids that the standard response repeats


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def short(value: object) -> str | None:
    """The id of a parameter that is too long for one (for `ids=`)."""
    if isinstance(value, str | bytes) and len(value) > 30:
        return f"{value[:24]!r} and {len(value) - 24} more".replace("\\", "/")
    return None


def unknown() -> str:
    """An id that nothing has."""
    return f"none-{uuid.uuid4().hex}"


def combo(*algo_ids: str, **params: Any) -> list[Json]:
    """An `algo_comb` written out in full."""
    return [{"algo_id": algo_id, "enabled": True, "params": params} for algo_id in algo_ids]


def algos(algo_comb: Any) -> list[Json]:
    """An `algo_comb` with its defaults filled in, to be compared."""
    assert isinstance(algo_comb, list), algo_comb
    return [{"enabled": True, "params": {}} | item for item in algo_comb]


# -- comparing answers


def echoed(answer: Answer) -> Json:
    return {name: answer.sent[name] for name in ENVELOPE if name in answer.sent}


def ok(answer: Answer) -> Answer:
    """It succeeded, and repeats the envelope exactly."""
    assert answer["ecode"] == 0, dict(answer)
    assert isinstance(answer["enote"], str)
    assert {name: answer[name] for name in ENVELOPE if name in answer} == echoed(answer)
    return answer


def payload(answer: Answer) -> Json:
    """A successful answer without its envelope; a `command_id` may be there, as text."""
    rest = {k: v for k, v in ok(answer).items() if k not in (*ENVELOPE, "ecode", "enote")}
    assert isinstance(rest.pop("command_id", ""), str)
    return rest


def failed(answer: Answer, ecode: int, says: str = "", *, stored: bool = False, maybe: tuple[str, ...] = ()) -> Answer:
    """The whole answer is a failure with this ecode, its `enote` says this, and nothing is in it unasked.

    `stored`: refused for what is stored, so the ids that the request named have to be in it; else they may be.
    `maybe`: what else may be in it.
    """
    rest = dict(answer)
    note = rest.pop("enote", None)
    assert isinstance(note, str), dict(answer)
    assert note, dict(answer)
    assert says in note, dict(answer)
    params = answer.sent.get("params")
    named = {k: params[k] for k in NAMED_IDS if k in params} if isinstance(params, dict) else {}
    if not stored:
        assert all(rest.pop(k, v) == v for k, v in named.items()), dict(answer)
        named = {}
    assert isinstance(rest.pop("command_id", ""), str), dict(answer)
    for name in maybe:
        rest.pop(name, None)
    assert rest == echoed(answer) | {"ecode": ecode} | named
    return answer


def states(answer: Json) -> dict[str, tuple[str, int]]:
    """`devices` of an answer: {dev_unid: (state, ecode)}, for tasks of which a device has one part only."""
    found: dict[str, tuple[str, int]] = {}
    for entry in answer["devices"]:
        extra = set(entry) - {"dev_unid", "subtask_id", "state", "ecode", "enote"}
        assert not extra, entry
        assert isinstance(entry["enote"], str), entry
        assert entry["dev_unid"] not in found, answer
        found[entry["dev_unid"]] = entry["state"], entry["ecode"]
    return found


# -- a server with people and devices around it


class Named(Protocol):
    """A device of whatever kind."""

    @property
    def dev_unid(self) -> str: ...


class World:
    """A running server, one client for each role, and devices as they are asked for."""

    def __init__(self, folder: Path, **server: Any) -> None:
        self.server = Server(folder, **server)
        self._kept: list[Device] = []
        self._devices: list[Device] = []
        self._clients: list[Client] = []
        self._numbers = itertools.count(1)
        self._read_log = 0
        self.server.add_standing_users()
        self.server.start(may_move=True)
        self.http = self.server.http
        self.log_in()

    def log_in(self) -> None:
        """Connect the three standing clients (again)."""
        try:
            self.admin, self.operator, self.viewer = (self._standing(role) for role in PASSWORDS)
        except BaseException:
            self.server.kill()
            raise

    def _standing(self, role: str) -> Client:
        return Client(self.http, self.http.login(role, PASSWORDS[role]))

    def client(
        self,
        role: str = "operator",
        how: str = "ticket",
        compression: str | None = "deflate",
        login: Json | None = None,
    ) -> Client:
        """One more client of the same account, or of this login; closed at the end of the test."""
        standing = {"admin": self.admin, "operator": self.operator, "viewer": self.viewer}[role]
        client = Client(self.http, login or standing.login, how, compression)
        self._clients.append(client)
        return client

    def restart(self, *, kill: bool = False) -> None:
        """Stop or kill the server and start it again, with the three clients; devices stay away."""
        if kill:
            self.server.kill()
        for client in (self.admin, self.operator, self.viewer):
            client.close()
        self.server.stop()
        self.server.start()
        self.log_in()

    def device(
        self,
        *,
        algos: list[str] | None = None,
        connect: bool = True,
        echo: str = "req_id",
        warm: bool = False,
        keep: bool = False,
    ) -> Device:
        """A device with a record of its own; closed at the end of the test unless `keep`.

        `warm`: it holds a task already, and so has answered a message with its `req_id`. The server treats a
        device that never did with more care (protocol §6).
        """
        refid = f"ref-{next(self._numbers)}-{uuid.uuid4().hex[:8]}"
        params = {"dev_refid": refid, "dev_name": f"device {refid}", "dev_type": "box"}
        made = ok(self.admin.call("post devices", params))
        device = Device(self.http, refid, made["dev_key"], made["dev_unid"], echo)
        (self._kept if keep else self._devices).append(device)
        if algos is not None:
            device.register(algos=algos)
        if connect:
            self.connect(device)
            if warm:
                self.pic_task(device, name="warm")
        return device

    def call_device(self, device: Device, command: str, **params: Any) -> Json:
        """`devices/call` on a device; what it said."""
        sent = {"dev_unid": device.dev_unid, "command": command, "params": params}
        answer: Json = ok(self.admin.call("post devices/call", sent))["answer"]
        return answer

    def connect(self, device: Device) -> None:
        """Connect it and wait until the server says so."""
        device.connect()
        eventually(lambda: self.is_online(device), "the device is online")

    def disconnect(self, device: Device) -> None:
        """Disconnect it and wait until the server says so."""
        device.disconnect()
        eventually(lambda: not self.is_online(device), "the device is offline")

    def is_online(self, device: Named) -> bool:
        return bool(self.device_item(device)["online"])

    def device_item(self, device: Named) -> Json:
        return self._one("devices", dev_unid=device.dev_unid)

    def _one(self, resource: str, **params: Any) -> Json:
        items = self._some(resource, **params)
        assert len(items) == 1, items
        return items[0]

    def _some(self, resource: str, **params: Any) -> list[Json]:
        answer = payload(self.operator.call(f"get {resource}", params))
        assert set(answer) == {resource, "next"}
        items: list[Json] = answer[resource]
        return items

    def every(self, resource: str, **params: Any) -> list[Json]:
        """All items of a list, however many pages that takes."""
        items: list[Json] = []
        after: Json = {}
        while True:
            page = ok(self.admin.call(f"get {resource}", params | {"limit": 1000} | after))
            items += page[resource]
            if page["next"] is None:
                return items
            after = {"after": page["next"]}

    def task(self, task_id: str) -> Json:
        return self._one("tasks", task_id=task_id)

    def has_task(self, task_id: str) -> bool:
        return bool(self._some("tasks", task_id=task_id))

    def tasks_of(self, device: Device) -> list[Json]:
        return self._some("tasks", dev_unid=device.dev_unid)

    def subtask_item(self, subtask_id: str) -> Json:
        return self._one("subtasks", subtask_id=subtask_id)

    def subtasks_of(self, **params: Any) -> list[Json]:
        return self._some("subtasks", **params)

    def conf(self, unid: str, *, content: bool = False) -> Json:
        return self._one("store_confs", unid=unid, **({"content": True} if content else {}))

    def settled(self, task_id: str, state: str = "confirmed") -> Json:
        """Wait until a task is in this state."""
        eventually(lambda: self.task(task_id)["state"] == state, f"task {task_id} is {state}")
        return self.task(task_id)

    def pic_task(self, *devices: Device, **more: Any) -> str:
        """A picture task, confirmed by its devices if they are there; its id."""
        params = {"name": "pictures", "task_type": "pic", "algo_comb": combo("a1"), **more}
        if devices:
            params["dev_unids"] = [device.dev_unid for device in devices]
        task_id: str = ok(self.operator.call("post tasks", params))["task_id"]
        return task_id

    def video_task(self, **more: Any) -> str:
        params = {"name": "video", "task_type": "video", "algo_comb": combo("a1"), **more}
        task_id: str = ok(self.operator.call("post tasks", params))["task_id"]
        return task_id

    def subtask(self, task_id: str, device: Device, **more: Any) -> str:
        params = {"task_id": task_id, "dev_unid": device.dev_unid, **more}
        subtask_id: str = ok(self.operator.call("post subtasks", params))["subtask_id"]
        return subtask_id

    def store_conf(self, content: bytes = b"<a/>", name: str = "conf", file_ext: str = "xml") -> str:
        params = {"name": name, "file_ext": file_ext, "file_b64": b64(content)}
        unid: str = ok(self.operator.call("post store_confs", params))["unid"]
        return unid

    def check(self) -> None:
        """The server lives, still answers, and has logged no unexpected exception since the last check."""
        log = self.server.log()
        new, self._read_log = log[self._read_log :], len(log)
        assert self.server.alive, f"the server ended with {self.server.returncode}\n{new}"
        assert "Traceback (most recent call last)" not in new, new
        assert self.http.request("GET", "/readyz").status == 200

    def end_test(self) -> None:
        """Close what one test opened."""
        for client in self._clients:
            client.close()
        for device in self._devices:
            device.close()
        self._clients.clear()
        self._devices.clear()

    def close(self) -> None:
        self.end_test()
        for device in self._kept:
            device.close()
        for client in (self.admin, self.operator, self.viewer):
            client.close()
        self.server.stop()
