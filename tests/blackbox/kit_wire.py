"""What the kit's operators and devices share: waiting, HTTP, WebSockets read by a thread."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

T = TypeVar("T")
Json = dict[str, Any]

PATIENCE = 20.0  # Seconds: the upper limit of anything that should happen. Nothing is measured with it.
WS_PATH = "/wsapi/v1/devconf_fx"
WEB_PATH = "/webapi/v1"
LEAVE_OUT: Any = object()  # "this field is not in the message at all"


def eventually(check: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
    """Ask again and again, until `check` answers something true, which is returned."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (value := check()):
        assert time.monotonic() < deadline, f"not so after {timeout} s: {what}"
        pause.wait(0.05)
    return value


def full_command(command: str) -> str:
    """`get tasks` -> `get /wsapi/v1/devconf_fx/tasks`; what is not of this form stays as it is."""
    if re.fullmatch(r"(get|post|put|delete) [a-z_]+(/[a-z_]+)?", command):
        method, resource = command.split(" ")
        return f"{method} {WS_PATH}/{resource}"
    return command


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        value = json.loads(self.body)
        assert isinstance(value, dict), self.body
        return value


class Http:
    """The ways in (protocol §1): log in, register, get the address of the socket."""

    def __init__(self, port: int, host: str = "127.0.0.1", source: str = "", **headers: str) -> None:
        self.host = host
        self.port = port
        self.source = source  # the address of ours to come from; empty: any
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}  # sent with each request

    def seen_from(self, source: str = "", **headers: str) -> Http:
        """The same server, for somebody with another address, or behind a proxy that sets these headers."""
        return Http(self.port, self.host, source, **headers)

    def request(
        self,
        method: str,
        path: str,
        body: object = LEAVE_OUT,
        *,
        raw: bytes | None = None,
        atoken: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        sent = self.headers | (headers or {})
        if body is not LEAVE_OUT:
            raw = json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("content-type", "application/json")
        if atoken is not None:
            sent["authorization"] = atoken
        connection = http.client.HTTPConnection(
            self.host, self.port, timeout=PATIENCE, source_address=(self.source, 0) if self.source else None
        )
        try:
            connection.request(method, path, raw, sent)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, fields, answer.read())
        finally:
            connection.close()

    def login(self, user_name: str, password: str) -> Json:
        return self._login({"user_type": "user", "user_name": user_name, "password": password})

    def login_device(self, dev_refid: str, dev_key: str) -> Json:
        return self._login({"user_type": "dev", "dev_refid": dev_refid, "dev_key": dev_key})

    def _login(self, body: Json) -> Json:
        reply = self.request("POST", f"{WEB_PATH}/login", body)
        assert reply.status == 200, reply
        assert reply.json["ecode"] == 0, reply
        return reply.json

    def token(self, rtoken: str) -> Reply:
        return self.request("POST", f"{WEB_PATH}/token", {"rtoken": rtoken})

    def logout(self, atoken: str | None = None, **body: str) -> Reply:
        return self.request("POST", f"{WEB_PATH}/logout", body or LEAVE_OUT, atoken=atoken)

    def register(self, dev_unid: str, atoken: str, body: Json) -> Reply:
        path = f"{WEB_PATH}/devconf_fx/devices/{urllib.parse.quote(dev_unid, safe='')}/register"
        return self.request("POST", path, body, atoken=atoken)

    def ask_ws_url(self, user_unid: str, atoken: str | None, kind: str = "devconf_fx") -> Reply:
        unid = urllib.parse.quote(user_unid, safe="")
        query = urllib.parse.urlencode({"type": kind})
        return self.request("GET", f"{WEB_PATH}/devconf_fx/users/{unid}/ws_url?{query}", atoken=atoken)

    def ws_url(self, user_unid: str, atoken: str) -> str:
        reply = self.ask_ws_url(user_unid, atoken)
        assert reply.status == 200, reply
        assert reply.json["ecode"] == 0, reply
        url: str = reply.json["ws_url"]
        return url

    @property
    def header_url(self) -> str:
        """The address for programs that can set a header."""
        return f"ws://{self.host}:{self.port}{WS_PATH}"


def handshake_status(url: str, atoken: str | None = None, source: str = "") -> int:
    """The HTTP status that a WebSocket handshake ends with; 101 if it succeeds (it is closed again)."""
    try:
        channel = Socket(url, lambda _channel, _data: None, atoken=atoken, source=source)
    except InvalidStatus as refused:
        return refused.response.status_code
    channel.start()
    channel.end()
    return 101


class Socket:
    """A WebSocket; a thread of its own hands each message to `on_message` until the connection has ended."""

    def __init__(
        self,
        url: str,
        on_message: Callable[[Socket, str | bytes], None],
        *,
        atoken: str | None = None,
        compression: str | None = "deflate",
        on_end: Callable[[], None] = lambda: None,
        source: str = "",
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        # A socket of our own: the environment may name a proxy, which `connect` would use.
        sock = socket.create_connection((parts.hostname, parts.port), PATIENCE, (source, 0) if source else None)
        sock.settimeout(None)  # `open_timeout` bounds the handshake
        self._on_message = on_message
        self._on_end = on_end
        self._ended = threading.Event()
        self._stack = ExitStack()
        self._ws = self._stack.enter_context(
            connect(
                url,
                sock=sock,
                additional_headers={"authorization": atoken} if atoken is not None else None,
                compression=compression,
                max_size=None,
                open_timeout=PATIENCE,
                close_timeout=2,
            )
        )
        self._reader = threading.Thread(target=self._read, name="blackbox reader", daemon=True)

    def start(self) -> None:
        self._reader.start()

    def _read(self) -> None:
        try:
            while True:
                self._on_message(self, self._ws.recv())
        except ConnectionClosed:
            pass
        finally:
            self._ended.set()
            self._on_end()

    def send(self, data: str | bytes) -> None:
        self._ws.send(data)

    def drop(self) -> None:
        """Cut the connection, as a broken cable would: no closing handshake."""
        with suppress(OSError):
            self._ws.socket.shutdown(socket.SHUT_RDWR)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def wait_closed(self, timeout: float = PATIENCE) -> int | None:
        """Wait until the connection has ended; its close code, 1006 if it was cut."""
        assert self._ended.wait(timeout), f"the connection is still open after {timeout} s"
        return self._ws.close_code

    def end(self) -> None:
        """Close properly and wait for the reader."""
        self._stack.close()
        if self._reader.is_alive() and self._reader is not threading.current_thread():
            self._reader.join(PATIENCE)


class Answer(Json):
    """A response, with the request that it answers."""

    sent: Json


class Client:
    """An operator's socket. Requests may be in flight together; each answer is found by its `req_id`."""

    def __init__(self, http: Http, login: Json, how: str = "ticket", compression: str | None = "deflate") -> None:
        self.http = http
        self.login = login
        self.atoken: str = login["atoken"]
        self.changed = threading.Condition()
        self.inbox: list[Json | str | bytes] = []  # what nobody has taken yet
        self._sent: dict[str, Json] = {}
        self._numbers = itertools.count(1)
        by_ticket = how == "ticket"
        url = http.ws_url(login["user_unid"], self.atoken) if by_ticket else http.header_url
        token = None if by_ticket else self.atoken if how == "header" else f"Bearer {self.atoken}"
        self.socket = Socket(
            url, self._arrived, atoken=token, compression=compression, on_end=self._wake, source=http.source
        )
        self.socket.start()

    def _arrived(self, _channel: Socket, data: str | bytes) -> None:
        message: Json | str | bytes = data
        with suppress(ValueError):
            value = json.loads(data)
            message = value if isinstance(value, dict) else data
        with self.changed:
            self.inbox.append(message)
            self.changed.notify_all()

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def send(self, command: str, params: object = LEAVE_OUT, **envelope: Any) -> str:
        """Send a request and return its `req_id`; what is `LEAVE_OUT` is left out of the message."""
        message: Json = {"command": full_command(command), "req_id": f"q{next(self._numbers)}", "params": params}
        message = {k: v for k, v in (message | envelope).items() if v is not LEAVE_OUT}
        self.socket.send(json.dumps(message))
        req_id: str = message["req_id"]
        self._sent[req_id] = message
        return req_id

    def answer(self, req_id: str, timeout: float = PATIENCE) -> Answer:
        """The one response to a request; its progress frames stay in the inbox."""

        def wanted(message: object) -> bool:
            return isinstance(message, dict) and message.get("req_id") == req_id and "progress" not in message

        taken = self.take(wanted, timeout)
        assert isinstance(taken, dict)
        answer = Answer(taken)
        answer.sent = self._sent[req_id]
        return answer

    def call(self, command: str, params: object = LEAVE_OUT, *, timeout: float = PATIENCE, **envelope: Any) -> Answer:
        return self.answer(self.send(command, params, **envelope), timeout)

    def sent(self, req_id: str) -> Json:
        """The request of this `req_id`."""
        return self._sent[req_id]

    def progress(self, req_id: str) -> list[Json]:
        """The progress frames of a request that came so far."""
        with self.changed:
            frames = [dict(m) for m in self.inbox if isinstance(m, dict)]
        return [m for m in frames if m.get("req_id") == req_id and "progress" in m]

    def send_raw(self, data: str | bytes) -> None:
        self.socket.send(data)

    def recv(self, timeout: float = PATIENCE) -> Json:
        """The next message, whatever it is; it must be a JSON object."""
        message = self.take(lambda _message: True, timeout)
        assert isinstance(message, dict), message
        return message

    def take(self, wanted: Callable[[object], bool], timeout: float = PATIENCE) -> Json | str | bytes:
        def found() -> int | None:
            for at, message in enumerate(self.inbox):
                if wanted(message):
                    return at
            return None

        with self.changed:
            self.changed.wait_for(lambda: found() is not None or self.socket.ended, timeout)
            at = found()
            if at is not None:
                return self.inbox.pop(at)
        ended = self.socket.ended
        raise AssertionError("the connection ended unanswered" if ended else f"no answer in {timeout} s")

    def works(self) -> bool:
        """Is this connection still served?"""
        return bool(self.call("get tasks", {"limit": 1})["ecode"] == 0)

    def wait_closed(self, timeout: float = PATIENCE) -> int | None:
        return self.socket.wait_closed(timeout)

    def close(self) -> None:
        self.socket.end()
