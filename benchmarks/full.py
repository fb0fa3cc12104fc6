"""devconf as its users run it: ``twistd devconf``, the default configuration, its database on disk."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.fleet import Enrolled
from benchmarks.load import Work, drive
from benchmarks.process import PATIENCE, Failed, Process
from benchmarks.side import PARAMS, Side
from benchmarks.sockets import Connection, Sockets, unasked
from devconf.sandbox import USER, Folder, SandboxFailed


class _Response(msgspec.Struct):
    req_id: str
    ecode: int


class _Order(msgspec.Struct):
    req_id: str


_response = msgspec.json.Decoder(_Response).decode
_order = msgspec.json.Decoder(_Order).decode

_COMMAND = '{"command":"post /wsapi/v1/devconf_fx/%s","req_id":"%d","params":%s}'
_CALL = '{"dev_unid":"%s","command":"post /wsapi/v1/config","params":%s}'
_CONFIG = '{"task_id":"%s","algo_comb":[{"algo_id":"plates","params":%s}]}'


def number_of(payload: bytes) -> int:
    """Return the number of the command that ``payload``, a response of devconf, answers.

    :raises Failed: its ``ecode`` is not 0.
    """
    response = _response(payload)
    if response.ecode:
        raise Failed(f"devconf has answered {payload[:500].decode('utf-8', 'replace')}")
    return int(response.req_id)


class Calling:
    """``devices/call``, each to any of the devices."""

    orders = 1

    def __init__(self, dev_unids: list[str]) -> None:
        self._dev_unids = dev_unids
        self._random = Random(1)

    def command(self, number: int) -> bytes:
        """See :class:`Work`."""
        params = _CALL % (self._random.choice(self._dev_unids), PARAMS % number)
        return (_COMMAND % ("devices/call", number, params)).encode()

    def answered(self, payload: bytes) -> int:
        """See :class:`Work`."""
        return number_of(payload)


class Configuring:
    """``tasks/pic_task_config``, each of a task that is not being configured already: none waits for a lock."""

    def __init__(self, task_ids: Sequence[str], orders: int) -> None:
        self.orders = orders
        self._free = deque(task_ids)
        self._taken: dict[int, str] = {}

    def command(self, number: int) -> bytes:
        """See :class:`Work`."""
        task_id = self._taken[number] = self._free.popleft()
        return (_COMMAND % ("tasks/pic_task_config", number, _CONFIG % (task_id, PARAMS % number))).encode()

    def answered(self, payload: bytes) -> int:
        """See :class:`Work`."""
        number = number_of(payload)
        self._free.append(self._taken.pop(number))
        return number


class _Requests:
    """Some requests, once each."""

    orders = 0

    def __init__(self, resource: str, params: Sequence[dict[str, Any]]) -> None:
        self._resource = resource
        self._params = params
        self.responses: dict[int, dict[str, Any]] = {}

    def command(self, number: int) -> bytes | None:
        if number == len(self._params):
            return None
        return (_COMMAND % (self._resource, number, json.dumps(self._params[number]))).encode()

    def answered(self, payload: bytes) -> int:
        number = number_of(payload)
        self.responses[number] = json.loads(payload)
        return number


class Devconf(Side):
    """The server, as a process of its own; stopped and started again it knows what was enrolled before."""

    def __init__(self, folder: Path, sockets: Sockets) -> None:
        super().__init__(sockets)
        self._folder = Folder(folder)
        try:
            self._folder.prepare()
        except SandboxFailed as error:
            raise Failed(str(error)) from None
        self.port = urlsplit(self._folder.url).port or 80
        self.enrolled: list[Enrolled] = []
        self.start()

    def start(self) -> None:
        """Start the server."""
        options: list[str | Path] = ["--nodaemon", "--pidfile=", "devconf", "--config", self._folder.config]
        command: list[str | Path] = ["-c", "from twisted.scripts.twistd import run; run()", *options]
        self.server = Process.start("devconf", command, self._folder.log, self._ready)
        self.dev_unids: list[str] = []

    def _ready(self) -> bool:
        with suppress(OSError), closing(self._http()) as http:
            http.request("GET", "/readyz")
            return http.getresponse().status == 200
        return False

    def close(self) -> None:
        """Stop, and let go of the folder."""
        self.stop()
        self._folder.close()

    # -- ways in

    def _http(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def _ask(self, http: HTTPConnection, method: str, path: str, atoken: str = "", **body: str) -> dict[str, Any]:
        headers = {"authorization": atoken} if atoken else {}
        http.request(method, f"/webapi/v1/{path}", json.dumps(body).encode() if body else None, headers)
        answer: dict[str, Any] = json.loads(http.getresponse().read())
        if answer["ecode"]:
            raise Failed(f"devconf has answered {method} {path}: {answer['ecode']} {answer['enote']}")
        return answer

    def _ticket(self, http: HTTPConnection, account: dict[str, Any]) -> str:
        path = f"devconf_fx/users/{account['user_unid']}/ws_url?type=devconf_fx"
        url: str = self._ask(http, "GET", path, account["atoken"])["ws_url"]
        return urlsplit(url).path

    def connect_operators(self, count: int) -> None:
        """Connect ``count`` times as the administrator."""
        with closing(self._http()) as http:
            account = self._log_in(http)
            tickets = [self._ticket(http, account) for _ in range(count)]
        self.operators = self.connect(tickets, str, unasked)

    def _log_in(self, http: HTTPConnection) -> dict[str, Any]:
        return self._ask(http, "POST", "login", user_type="user", user_name=USER, password=self._folder.password)

    def atoken(self) -> str:
        """Log in as the administrator, and return the ``atoken``."""
        with closing(self._http()) as http:
            return str(self._log_in(http)["atoken"])

    def unread_operator(self) -> Connection:
        """Connect as the administrator; what comes is not read."""
        with closing(self._http()) as http:
            return Connection.open(self.port, self._ticket(http, self._log_in(http)), unasked)

    def unread_device(self, number: int) -> Connection:
        """Connect the device ``number`` of those that are enrolled; what comes is not read."""
        return Connection.open(self.port, self._ways_in(self.enrolled[number]), unasked)

    def connect_devices(self, count: int) -> None:
        """See :class:`Side`: ``count`` of those that are enrolled."""
        first = len(self.dev_unids)
        boxes = self.enrolled[first : first + count]
        self.connect(boxes, self._ways_in, self._obey)
        self.dev_unids += [box.dev_unid for box in boxes]

    def _ways_in(self, box: Enrolled) -> str:
        """Do what a device does before it connects (§1): login, register, ws_url."""
        with closing(self._http()) as http:
            account = self._ask(http, "POST", "login", user_type="dev", dev_refid=box.dev_refid, dev_key=box.dev_key)
            about = {"dev_refid": box.dev_refid, "dev_type": "box", "dev_name": f"the box {box.dev_refid}"}
            self._ask(http, "POST", f"devconf_fx/devices/{box.dev_unid}/register", account["atoken"], **about)
            return self._ticket(http, account)

    def _obey(self, payload: bytes) -> bytes:
        self.devices.answered += 1
        return b'{"req_id":"%s","ecode":0,"enote":"ok"}' % _order(payload).req_id.encode()

    # -- what there is to work with

    def _do(self, resource: str, params: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        requests = _Requests(resource, params)
        drive(self.sockets, self.operators[:1], requests, window=64)
        return [requests.responses[number] for number in range(len(params))]

    def enrol(self, count: int) -> None:
        """Enrol ``count`` devices more."""
        first = len(self.enrolled)
        refids = [f"box-{number}" for number in range(first, first + count)]
        made = self._do("devices", [{"dev_refid": refid} for refid in refids])
        self.enrolled += [
            Enrolled(refid, each["dev_unid"], each["dev_key"]) for refid, each in zip(refids, made, strict=True)
        ]

    def post_tasks(self, devices: Sequence[Sequence[str]]) -> list[str]:
        """Make a picture task for each of ``devices``, the ``dev_unids`` that it is bound to.

        :returns: their ``task_id``.
        """
        task = {"name": "plates", "task_type": "pic", "algo_comb": [{"algo_id": "plates"}]}
        made = self._do("tasks", [{**task, "dev_unids": list(dev_unids)} for dev_unids in devices])
        return [each["task_id"] for each in made]

    def post_store_conf(self, content: str) -> str:
        """Store a configuration.

        :param content: in base64.
        :returns: its ``unid``.
        """
        return str(self._do("store_confs", [{"name": "large", "file_ext": "bin", "file_b64": content}])[0]["unid"])

    def calling(self) -> Work:
        """Return calls to the devices that are connected."""
        return Calling(self.dev_unids)

    def call_each(self) -> None:
        """Call each device that is connected once.

        :raises Failed: one cannot be reached.
        """
        self._do(
            "devices/call", [{"dev_unid": dev_unid, "command": "get /wsapi/v1/ops"} for dev_unid in self.dev_unids]
        )
