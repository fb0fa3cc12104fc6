"""Simulated devices: a model of its own of what a device does (``docs/protocol.md`` §6), and of how it may go wrong.

What a box keeps is in :mod:`tests.simulation.memory`, and how it reacts to an order in :mod:`tests.simulation.moods`.
"""

from __future__ import annotations

import json
from collections import deque
from random import Random
from typing import Any

from tests.simulation.frames import Socket
from tests.simulation.memory import key_of
from tests.simulation.moods import NEEDS_ECHO, NOT_AGAIN, TASKS, IWorld, Moody, same
from tests.simulation.pipe import Mark
from tests.simulation.records import Heard

#: Seconds without a byte after which a box takes its connection for dead.
GIVES_UP_AFTER = 75.0
DIAL_WITHIN = 20.0


class Box(Moody):
    """A device.

    :ivar registers: it says what it has before it connects.
    :ivar away: it is switched off.
    :ivar trusted: the server can know what it holds: not after it has forgotten and not said so.
    :ivar life: how often it has forgotten everything.
    """

    def __init__(self, world: IWorld, name: str, random: Random) -> None:
        super().__init__(world, random)
        self.dev_refid = name
        self.dev_unid = ""
        self.registers = random.random() < 0.7
        self.keeps_refusals = random.random() < 0.5
        self.away = False
        self.trusted = True
        self.came_back = False
        self.life = 0
        self.moods: deque[str] = deque()
        self.told: dict[str, Any] | None = None
        self._since: dict[Socket, float] = {}
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
            self.excuse(None)
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
        self._since[socket] = self._world.now
        self._unanswered[socket] = []
        if self.away:
            socket.close()
            return
        # Which of them the server takes for the newest is its matter: the one it agreed to last.
        newest = max(self.sockets, key=lambda each: each.agreed.tick)
        if len(self.sockets) > 1:
            self._world.saw("device: connected twice at once")
        for old in self.sockets:
            if old is not newest:
                self._speak_on(old)

    def _speak_on(self, old: Socket) -> None:
        """Say on a connection that has been replaced that everything was done; it was not."""
        for message in self._unanswered.get(old, [])[-2:]:
            if old.is_open and self.echo != "nothing":
                self._world.saw("device: on the old connection")
                self._say(old, message, {"ecode": 0, "enote": "ok"}, counts=False)
                old.connection.up.when_received(lambda: self._world.saw("server: hears from a replaced connection"))

    def closed(self, socket: Socket) -> None:
        """See ``IOwner``."""
        if socket in self.sockets:
            self.sockets.remove(socket)
            self.journal.otherwise_lost += socket not in self.died
            self.journal.connected.append((self._since.pop(socket), self._world.now))
        self._unanswered.pop(socket, None)
        if not self.sockets:
            self._again()

    def was_connected(self, since: float, until: float) -> bool:
        """Whether it had a connection in between."""
        spans = [*self.journal.connected, *((began, until) for began in self._since.values())]
        return any(began <= until and ended >= since for began, ended in spans)

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
        self.excuse(None)
        # What it was about to say of itself holds no longer.
        self._attempt += 1
        self._dialling = False
        self.leave()
        self.wipe()
        self.kills.clear()

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
        if message["command"].partition(" ")[2] != TASKS:
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
        self._heard_at[(self.numbers[socket], message["req_id"])] = self._world.now
        mood = self.moods.popleft() if self.moods else "obey"
        # What it has done already it answers again, whatever its mood; and where answers carry no req_id, a second
        # one would be taken for the answer to what comes next.
        done = params["rev"] <= self.revs.get(key_of(params), 0)
        if same(message) in self.kills:
            self._world.saw("device: dies of a message again")
            mood = "dies"
        if (done and mood in NOT_AGAIN) or (self.echo == "nothing" and mood in NEEDS_ECHO):
            mood = "obey"
        if mood != "obey":
            self._world.saw(f"device: {mood}")
        getattr(self, f"_{mood}")(socket, message)

    def _called(self, socket: Socket, message: dict[str, Any]) -> None:
        self.journal.called[message["params"].get("n")] += 1
        if self.random.random() < 0.15:
            self._world.saw("device: silent to a call")
            return
        answer = {"ecode": self.random.choice((0, 31)), "enote": "called", "echo": message["params"]}
        self._later(socket, message, answer, self.random.uniform(0, 2))

    def ask(self) -> None:
        """Ask the server what it should have."""
        self.told = None
        for socket in self.sockets[-1:]:
            socket.send(json.dumps({"command": f"get {TASKS}", "req_id": "mine", "params": {"limit": 1000}}).encode())
