"""Simulated devices: a model of its own of what a device does (``docs/protocol.md`` §6), and of how it may go wrong.

What a box keeps is in :mod:`tests.simulation.memory`. How it reacts to an order is its *mood*; when it
has none, it obeys.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from tests.simulation.frames import BINARY, Socket
from tests.simulation.memory import Memory, key_of
from tests.simulation.network import Connection
from tests.simulation.pipe import Mark
from tests.simulation.records import LACKS, STALE, Heard, Said

_TASKS = "/wsapi/v1/devconf_fx/tasks"

#: Seconds without a byte after which a box takes its connection for dead.
GIVES_UP_AFTER = 75.0
DIAL_WITHIN = 20.0

#: All that a mood can be; those that make sense only where answers carry a ``req_id``.
MOODS = (
    "refuse",
    "silent",
    "unconfirmed",
    "late",
    "dawdle",
    "twice",
    "garbage",
    "stranger",
    "odd",
    "lie",
    "ahead",
    "lacks",
    "vanish",
)
NEEDS_ECHO = {"twice", "dawdle"}
NOT_AGAIN = {"refuse", "odd", "lie", "ahead", "lacks"}


class IWorld(Protocol):
    """What a box needs of the world."""

    def dial(self, end: Any) -> Connection:
        """Connect to the server."""

    def register(self, box: Box, answer: Callable[[str | None], None]) -> None:
        """Register with the server, which answers with the ``dev_unid``, or None."""

    def after(self, seconds: float, function: Callable[..., Any], *args: Any) -> None:
        """Let something happen later."""

    def saw(self, what: str) -> None:
        """Count that something has happened."""

    @property
    def tick(self) -> int:
        """How many events there have been."""

    @property
    def now(self) -> float:
        """Seconds."""


class Box(Memory):
    """A device.

    :ivar echo: what of a request it sends back: ``req_id``, ``src_page``, or ``nothing`` (an old device).
    :ivar registers: it says what it has before it connects.
    :ivar keeps_refusals: it answers a rev that it has refused in the same way again.
    :ivar away: it is switched off.
    :ivar trusted: the server can know what it holds: not after it has forgotten and not said so.
    :ivar life: how often it has forgotten everything.
    """

    def __init__(self, world: IWorld, name: str, random: Random) -> None:
        super().__init__(random, lambda: world.tick)
        self.dev_refid = name
        self.dev_unid = ""
        self.echo = random.choices(("req_id", "src_page", "nothing"), (8, 1, 2))[0]
        self.registers = random.random() < 0.7
        self.keeps_refusals = random.random() < 0.5
        self.away = False
        self.trusted = True
        self.life = 0
        self.moods: deque[str] = deque()
        self.sockets: list[Socket] = []
        self.told: dict[str, Any] | None = None
        self.numbers: dict[Socket, int] = {}
        self._world = world
        self._unanswered: dict[Socket, list[dict[str, Any]]] = {}
        self._attempt = 0
        self._dialling = False
        self._failures = 0

    # -- coming and going

    def dial(self, *, second: bool = False) -> None:
        """Connect, unless it is connected, connecting or away; ``second``: besides the connection it has."""
        if self.away or self._dialling or (self.sockets and not second):
            return
        self._dialling = True
        self._attempt += 1
        attempt = self._attempt
        self._world.after(DIAL_WITHIN, self._give_up, attempt)
        if self.registers:
            # Of what it has and has not confirmed the server cannot know how it was meant: it sends it again.
            self.journal.excuse(None)
            self._world.register(self, lambda dev_unid: self._registered(attempt, dev_unid))
        else:
            self._open()

    def _registered(self, attempt: int, dev_unid: str | None) -> None:
        if attempt != self._attempt or not self._dialling:
            return
        if dev_unid is None or self.away:
            self._again()
        else:
            self._open()

    def _open(self) -> None:
        socket = Socket(self, f"device-{self.dev_refid}", self.random)
        self.numbers[socket] = len(self.numbers)
        socket.begin(self._world.dial(socket))

    def _give_up(self, attempt: int) -> None:
        if attempt == self._attempt and self._dialling:
            self._attempt += 1
            self._again()

    def _again(self) -> None:
        """Connect anew after a while: full jitter, and longer each time."""
        self._dialling = False
        self._failures += 1
        self._world.after(self.random.uniform(0.1, min(20.0, 1.5**self._failures)), self.dial)

    def opened(self, socket: Socket) -> None:
        """See ``IOwner``."""
        self._dialling = False
        self._failures = 0
        self.sockets.append(socket)
        self._unanswered[socket] = []
        if self.away:
            socket.close()
            return
        # Which of them the server takes for the newest is its matter: the one it agreed to last.
        newest = max(self.sockets, key=lambda each: each.agreed.tick)
        for old in self.sockets:
            if old is not newest:
                self._speak_on(old)

    def _speak_on(self, old: Socket) -> None:
        """Say on a connection that has been replaced that everything was done; it was not."""
        for message in self._unanswered.get(old, [])[-2:]:
            if old.is_open and self.echo != "nothing":
                self._world.saw("device: on the old connection")
                self._say(old, message, {"ecode": 0, "enote": "ok"}, counts=False)

    def closed(self, socket: Socket) -> None:
        """See ``IOwner``."""
        if socket in self.sockets:
            self.sockets.remove(socket)
        self._unanswered.pop(socket, None)
        if not self.sockets:
            self._again()

    def leave(self) -> None:
        """Be switched off, or lose all connections without a word."""
        for socket in list(self.sockets):
            socket.connection.close()
            socket.lost()

    def look_after(self) -> None:
        """Give up connections that have been silent for too long, and connect if there is none."""
        for socket in list(self.sockets):
            if self._world.now - socket.received_at > GIVES_UP_AFTER:
                socket.connection.close()
                socket.lost()
        if not self.sockets:
            self.dial()

    def forget(self) -> None:
        """Be re-imaged: everything is gone, the revs too."""
        self.trusted = False
        self.life += 1
        self.journal.excuse(None)
        # What it was about to say of itself holds no longer.
        self._attempt += 1
        self._dialling = False
        self.leave()
        self.wipe()

    # -- hearing

    def heard(self, socket: Socket, payload: bytes, written: Mark) -> None:
        """See ``IOwner``."""
        self._world.saw("events: heard by a device")
        if self.echo == "nothing":
            self._world.saw("device: never sends a req_id back")
        message = json.loads(payload)
        if "params" not in message:
            if message.get("req_id") == "mine":
                self.told = message
            return
        if message["command"].partition(" ")[2] != _TASKS:
            self._called(socket, message)
            return
        params = message["params"]
        self.journal.heard.append(
            Heard(
                self.numbers[socket],
                key_of(params),
                params["rev"],
                message["command"].partition(" ")[0],
                params,
                written,
            )
        )
        mood = self.moods.popleft() if self.moods else "obey"
        # What it has done already it answers again, whatever its mood; and where answers carry no req_id, a second
        # one would be taken for the answer to what comes next.
        done = params["rev"] <= self.revs.get(key_of(params), 0)
        if (done and mood in NOT_AGAIN) or (self.echo == "nothing" and mood in NEEDS_ECHO):
            mood = "obey"
        if mood != "obey":
            self._world.saw(f"device: {mood}")
        getattr(self, f"_{mood}")(socket, message)

    def _called(self, socket: Socket, message: dict[str, Any]) -> None:
        if self.random.random() < 0.15:
            self._world.saw("device: silent to a call")
            return
        answer = {"ecode": self.random.choice((0, 31)), "enote": "called", "echo": message["params"]}
        self._later(socket, message, answer, self.random.uniform(0, 2))

    # -- moods

    def _obey(self, socket: Socket, message: dict[str, Any]) -> None:
        self._later(socket, message, self.act(message), self.random.choice((0.0, 0.0, 0.05, 0.5)))

    def _refuse(self, socket: Socket, message: dict[str, Any]) -> None:
        add = message["command"].startswith("post ")
        answer = {"ecode": self.random.choice((7, 31, *(LACKS if add else ()))), "enote": "I will not"}
        self._say_no(socket, message, answer)

    def _odd(self, socket: Socket, message: dict[str, Any]) -> None:
        self._say_no(socket, message, {"ecode": self.random.choice(("0", None, 1.5, True, 2**60)), "enote": 7})

    def _say_no(self, socket: Socket, message: dict[str, Any], answer: dict[str, Any]) -> None:
        key = key_of(message["params"])
        if message["command"].startswith("delete ") and key in self.held:
            self.kept.add(key)
        if self.keeps_refusals:
            self.refused[key] = (message["params"]["rev"], answer)
        self.journal.excuse(key)
        self._later(socket, message, answer, self.random.choice((0.0, 0.3)))

    def _lie(self, socket: Socket, message: dict[str, Any]) -> None:
        rev = message["params"]["rev"]
        choices = (rev - 1, rev, rev + 1, rev + self.random.randrange(1000), 2**52, 2**52 + 1, 2**60, -3, "7", None)
        self.journal.excuse(key_of(message["params"]))
        if message["command"].startswith("delete "):
            self.kept.add(key_of(message["params"]))  # it may count as a refusal, and then it holds on to it
        self._later(socket, message, {"ecode": STALE, "enote": "mine is newer", "rev": self.random.choice(choices)}, 0)

    def _ahead(self, socket: Socket, message: dict[str, Any]) -> None:
        """It has acted on a higher rev already: another server's, or one of this server before a backup came back."""
        key = key_of(message["params"])
        self.revs[key] = message["params"]["rev"] + self.random.randrange(1000, 2000)
        if message["command"].startswith("delete "):
            self.kept.add(key)  # said too often in a row, it counts as a refusal
        self._obey(socket, message)

    def _lacks(self, socket: Socket, message: dict[str, Any]) -> None:
        key = key_of(message["params"])
        if message["command"].startswith("post "):
            self._obey(socket, message)
            return
        self.journal.excuse(key)
        self.held.pop(key, None)
        self.kept.discard(key)
        if message["command"].startswith("delete "):
            self.revs[key] = message["params"]["rev"]
        self._later(socket, message, {"ecode": LACKS[bool(key[1])], "enote": "I lack that"}, 0)

    def _silent(self, socket: Socket, message: dict[str, Any]) -> None:
        self._unanswered.setdefault(socket, []).append(message)

    def _unconfirmed(self, _socket: Socket, message: dict[str, Any]) -> None:
        self.act(message)

    def _late(self, socket: Socket, message: dict[str, Any]) -> None:
        self._later(socket, message, self.act(message), self.random.uniform(9, 28))

    def _dawdle(self, socket: Socket, message: dict[str, Any]) -> None:
        self._world.after(self.random.uniform(0.5, 30), self._come_to, socket, message)

    def _come_to(self, socket: Socket, message: dict[str, Any]) -> None:
        """Do what was put off, perhaps after what came later; unless its connection, or its memory, is gone."""
        if socket in self.sockets:
            self._obey(socket, message)

    def _twice(self, socket: Socket, message: dict[str, Any]) -> None:
        answer = self.act(message)
        self._later(socket, message, answer, 0)
        self._later(socket, message, answer, self.random.choice((0.0, 1.0, 12.0)))

    def _garbage(self, socket: Socket, message: dict[str, Any]) -> None:
        payload, opcode = self.random.choice(
            ((b"\xff{", 1), (b"[1]", 1), (b"{}", 1), (b'{"req_id": 5}', 1), (b"\0", BINARY))
        )
        socket.send(payload, opcode)
        self._obey(socket, message)

    def _stranger(self, socket: Socket, message: dict[str, Any]) -> None:
        socket.send(json.dumps({"req_id": f"{message['req_id']}0", "ecode": 0, "enote": "ok"}).encode())
        self._obey(socket, message)

    def _vanish(self, socket: Socket, message: dict[str, Any]) -> None:
        if self.random.random() < 0.7:
            self.act(message)
        socket.connection.break_off(self.random.choice((0.0, 1.0, 20.0)), 0.0)

    # -- answering

    def _later(self, socket: Socket, message: dict[str, Any], answer: dict[str, Any], seconds: float) -> None:
        if seconds:
            self._world.after(seconds, self._say, socket, message, answer)
        else:
            self._say(socket, message, answer)

    def _say(self, socket: Socket, message: dict[str, Any], answer: dict[str, Any], counts: bool = True) -> None:
        if not socket.is_open:
            return
        if message["command"].partition(" ")[2] == _TASKS:
            params = message["params"]
            self.journal.said.append(
                Said(
                    self.numbers[socket],
                    key_of(params),
                    params["rev"],
                    message["command"].partition(" ")[0],
                    answer["ecode"],
                    self._world.tick,
                    counts,
                )
            )
        echoed = {} if self.echo == "nothing" else {self.echo: message["req_id"]}
        socket.send(json.dumps({**echoed, **answer}).encode())

    def ask(self) -> None:
        """Ask the server what it should have."""
        self.told = None
        for socket in self.sockets[-1:]:
            socket.send(json.dumps({"command": f"get {_TASKS}", "req_id": "mine", "params": {"limit": 1000}}).encode())
