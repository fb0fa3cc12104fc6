"""The HTTP mirror (protocol §5), and connections that carry several requests."""

from __future__ import annotations

import json
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kit_wire import LEAVE_OUT, PATIENCE, WEB_PATH, Answer, Http, Json, Reply


def status_of(ecode: int) -> int:
    """The HTTP status that comes with an `ecode`."""
    return 200 if ecode == 0 else ecode // 10_000 % 1000


def resource_path(resource: str, query: Mapping[str, object] | None = None) -> str:
    path = f"{WEB_PATH}/devconf_fx/{resource}"
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path


def as_answer(reply: Reply, params: object = LEAVE_OUT) -> Answer:
    """The answer of the mirror: JSON, with the status that belongs to its `ecode`."""
    assert reply.headers["content-type"].split(";")[0] == "application/json", reply
    answer = Answer(reply.json)
    assert reply.status == status_of(answer["ecode"]), reply
    answer.sent = {} if params is LEAVE_OUT else {"params": params}
    return answer


class Mirror:
    """A client that gives its commands over HTTP; each on a connection of its own."""

    def __init__(self, http: Http, atoken: str | None) -> None:
        self.http = http
        self.atoken = atoken

    def call(self, command: str, params: object = LEAVE_OUT, *, query: Mapping[str, object] | None = None) -> Answer:
        """Give a command, `params` in the body or `query` in the address."""
        method, resource = command.split(" ")
        reply = self.http.request(method.upper(), resource_path(resource, query), params, atoken=self.atoken)
        return as_answer(reply, dict(query) if query and params is LEAVE_OUT else params)


class Line:
    """One HTTP connection, kept open; requests may be sent before the answers have come."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self.sock = socket.create_connection(
            (http.host, http.port), PATIENCE, (http.source, 0) if http.source else None
        )
        self._file = self.sock.makefile("rb")

    def send(self, method: str, path: str, body: object = LEAVE_OUT, **headers: str) -> None:
        self.sock.sendall(self.message(method, path, body, **headers))

    def message(self, method: str, path: str, body: object = LEAVE_OUT, **headers: str) -> bytes:
        """A request as it goes over the wire."""
        content = b"" if body is LEAVE_OUT else json.dumps(body).encode()
        fields = {"host": f"{self.http.host}:{self.http.port}", "content-length": str(len(content)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
        return "\r\n".join((*lines, "", "")).encode() + content

    def receive(self) -> Reply:
        """The next answer."""
        line = self._file.readline()
        assert line.startswith(b"HTTP/1.1 "), f"the connection ended unanswered: {line!r}"
        headers: dict[str, str] = {}
        while field := self._file.readline().strip():
            name, _, value = field.decode().partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self._file.read(int(headers["content-length"]))
        return Reply(int(line.split()[1]), headers, body)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            self._file.readline()
        self._file.readline()

    def ask(self, method: str, path: str, body: object = LEAVE_OUT, **headers: str) -> Reply:
        self.send(method, path, body, **headers)
        return self.receive()

    def ended(self) -> bool:
        """Has the server closed it? Waits for that, or for an answer that nobody asked for."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.sock.close()


@contextmanager
def line(http: Http) -> Iterator[Line]:
    connection = Line(http)
    try:
        yield connection
    finally:
        connection.close()


def without_command(answer: Json) -> dict[str, Any]:
    """What the mirror says where this was said over WebSocket."""
    return {name: value for name, value in answer.items() if name not in ("command", "req_id", "src_page")}
