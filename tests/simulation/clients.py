"""Simulated clients of operators: they ask, several things at once, and note what they are told.

What a client writes has the number of the request in it, so that what is stored tells which request it came from.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Protocol

from tests.simulation.frames import BINARY, Socket
from tests.simulation.network import Connection
from tests.simulation.pipe import Mark
from tests.simulation.records import DONE, KEY_USED, LATER, Request

_PREFIX = "/wsapi/v1/devconf_fx/"

#: Seconds without a byte after which a client takes its connection for dead.
GIVES_UP_AFTER = 75.0
#: Bytes that a client's socket takes before the client waits.
ROOM = 65536

GARBAGE = ((b"no json", 1), (b"[]", 1), (b'{"command": 1}', 1), (b'{"x"', 1), (b"\xff\xfe", 1), (b"\0\1", BINARY))


class IWorld(Protocol):
    """What a client needs of the world."""

    def dial(self, end: Any) -> Connection:
        """Connect to the server."""

    def after(self, seconds: float, function: Callable[..., Any], *args: Any) -> None:
        """Let something happen later."""

    def saw(self, what: str) -> None:
        """Count that something has happened."""

    def answered(self, request: Request) -> None:
        """A request has got its answer."""

    @property
    def tick(self) -> int:
        """How many events there have been."""

    @property
    def now(self) -> float:
        """Seconds."""


class Client:
    """A client, with one connection at a time.

    :ivar requests: those of its present connection that have no answer yet, by ``req_id``.
    :ivar strays: answers to nothing that it has asked; :ivar bare: how many without ``req_id`` it may still get.
    """

    def __init__(self, world: IWorld, name: str, random: Random) -> None:
        self.name = name
        self.random = random
        self.requests: dict[str, Request] = {}
        self.done: dict[str, Request] = {}
        self.strays: list[dict[str, Any]] = []
        self.bare = 0
        self.bare_lost = False
        self.events = 0
        self.socket: Socket | None = None
        self._world = world
        self._outbox: deque[tuple[Request, bool]] = deque()
        self._dialling: Socket | None = None
        self._failures = 0
        self._later = 0

    # -- asking

    def ask(self, request: Request, *, progress: bool = False) -> None:
        """Send ``request``, as soon as there is a connection."""
        self._outbox.append((request, progress))
        self._send_waiting()

    def ask_again(self, request: Request) -> None:
        """Send ``request`` once more, with its key, whether it has been answered or not."""
        self._world.saw(f"client: asks again what is {'over' if request.answers else 'under way'}")
        self.ask(request)

    def garble(self, which: int) -> None:
        """Send what is no request."""
        if self.socket is not None and self.socket.is_open:
            payload, opcode = GARBAGE[which % len(GARBAGE)]
            self._world.saw("client: garbage")
            self.socket.send(payload, opcode)
            self.bare += opcode != BINARY

    def _send_waiting(self) -> None:
        socket = self.socket
        if socket is None:
            self.dial()
            return
        while self._outbox and socket.is_open and socket.connection.up.buffered < ROOM:
            request, progress = self._outbox.popleft()
            socket.send(json.dumps(self._message(request, progress)).encode())
            socket.connection.up.when_received(partial(self._is_heard, request))
            if len(self.requests) > 1:
                self._world.saw("client: several in flight")

    def _is_heard(self, request: Request) -> None:
        request.heard_on = self._world.now

    def _message(self, request: Request, progress: bool) -> dict[str, Any]:
        if not request.attempts:
            request.sent_at, request.asked_on = self._world.tick, self._world.now
        req_id = f"{request.number}.{request.attempts}" if request.attempts else str(request.number)
        request.attempts += 1
        # Should it not have been carried out yet, it may be now.
        request.settled_by = None
        self.requests[req_id] = request
        method, _, resource = request.command.partition(" ")
        message = {"command": f"{method} {_PREFIX}{resource}", "req_id": req_id, "params": request.params}
        keyed = {} if request.key is None else {"idempotency_key": request.key}
        return {**message, **keyed, **({"progress": True} if progress else {})}

    # -- coming and going

    def dial(self) -> None:
        """Connect, unless it is connected or connecting."""
        if self.socket is None and self._dialling is None:
            socket = self._dialling = Socket(self, f"client-{self.name}", self.random)
            socket.begin(self._world.dial(socket))
            self._world.after(10, self._too_long, socket)

    def _too_long(self, socket: Socket) -> None:
        if self._dialling is socket:
            socket.connection.close()
            socket.lost()

    def opened(self, socket: Socket) -> None:
        """See ``IOwner``."""
        self._dialling, self.socket, self._failures = None, socket, 0
        self.bare, self.bare_lost = 0, False
        self._send_waiting()

    def closed(self, socket: Socket) -> None:
        """See ``IOwner``."""
        if socket is self._dialling:
            self._dialling = None
        elif socket is self.socket:
            self.socket = None
            self.bare_lost = True
            lost = dict.fromkeys(self.requests.values())
            self.requests.clear()
            for request in lost:
                if not request.answers:
                    request.lost_at = self._world.tick
                    if request.key is not None:
                        self._world.saw("client: asks again what it lost")
                        self._outbox.append((request, False))
        if self._outbox:
            self._failures += 1
            self._world.after(self.random.uniform(0.1, min(20.0, 1.5**self._failures)), self._send_waiting)

    def go_away(self, *, politely: bool) -> None:
        """Close the connection, whatever is under way."""
        if self.socket is not None:
            if self.requests:
                self._world.saw("client: away in the middle")
            if politely:
                self.socket.close()
            else:
                self.socket.connection.close()
                self.socket.lost()

    def look_after(self) -> None:
        """Give up a connection that has been silent for too long; send what could not be sent."""
        if self.socket is not None and self._world.now - self.socket.received_at > GIVES_UP_AFTER:
            self.socket.connection.close()
            self.socket.lost()
        if self._outbox:
            self._send_waiting()

    @property
    def waiting(self) -> bool:
        """Whether it has something to send, or to hear."""
        return bool(self._outbox or self.requests or self._later)

    # -- hearing

    def heard(self, socket: Socket, payload: bytes, written: Mark) -> None:
        """See ``IOwner``."""
        if socket is not self.socket:
            return
        message = json.loads(payload)
        self._world.saw("events: heard by a client")
        if "event" in message:
            self.events += 1
        elif "req_id" not in message:
            self.bare -= 1
            if self.bare < 0:
                self.strays.append(message)
        elif "progress" in message:
            self._progress(message)
        else:
            self._answer(message, written)

    def _progress(self, message: dict[str, Any]) -> None:
        request = self.requests.get(message["req_id"]) or self.done.get(message["req_id"])
        if request is None or request.answers:
            self.strays.append(message)
        else:
            request.progress.append((message["progress"]["done"], message["progress"]["total"]))

    def _answer(self, message: dict[str, Any], written: Mark) -> None:
        request = self.requests.pop(message["req_id"], None)
        if request is None:
            again = self.done.get(message["req_id"])
            if again is None:
                self.strays.append(message)
            else:
                again.answers.append(message)
            return
        self.done[message["req_id"]] = request
        if message["ecode"] == KEY_USED:
            self._world.saw("server: has seen the key with something else")
        if request.answers:
            request.repeats.append(message)
        elif request.key is None or self._final(request, message):
            request.answers.append(message)
            request.answered_at, request.written_at = self._world.tick, written.tick
            request.told_on = written.now
            self._world.answered(request)
        self._send_waiting()

    def _final(self, request: Request, message: dict[str, Any]) -> bool:
        """Whether ``message`` tells what became of ``request``, of which others may be under way or were lost."""
        if message["ecode"] in DONE:
            return True
        if request in self.requests.values():
            return False
        if request.lost_at is not None and message["ecode"] in LATER:
            self._world.saw("client: asks again later")
            self._later += 1
            self._world.after(self.random.uniform(0.5, 3), self._ask_later, request)
            return False
        return True

    def _ask_later(self, request: Request) -> None:
        self._later -= 1
        self.ask(request)
