"""How a device reacts to an order: its *mood*. When it has none, it obeys."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from tests.simulation.frames import BINARY, Socket
from tests.simulation.memory import Memory, key_of
from tests.simulation.network import Connection
from tests.simulation.pipe import Mark
from tests.simulation.records import LACKS, STALE, Said

TASKS = "/wsapi/v1/devconf_fx/tasks"
#: Seconds in which the server expects an answer.
ANSWERS_WITHIN = 10.0

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
NOT_AGAIN = {"refuse", "odd", "lie", "ahead", "lacks", "dies"}


class IWorld(Protocol):
    """What a box needs of the world."""

    def dial(self, end: Any) -> Connection:
        """Connect to the server."""

    def register(self, box: Any, answer: Callable[[str | None], None]) -> None:
        """Register with the server, which answers with the ``dev_unid``, or None."""

    def after(self, seconds: float, function: Callable[..., Any], *args: Any) -> None:
        """Let something happen later."""

    def saw(self, what: str) -> None:
        """Count that something has happened."""

    def said(self, box: Any, socket: Socket, said: Said) -> None:
        """A device has answered an order."""

    @property
    def tick(self) -> int:
        """How many events there have been."""

    @property
    def now(self) -> float:
        """Seconds."""


class Moody(Memory):
    """A device, as far as it answers orders.

    :ivar echo: what of a request it sends back: ``req_id``, ``src_page``, or ``nothing`` (an old device).
    :ivar keeps_refusals: it answers a rev that it has refused in the same way again.
    :ivar kills: the messages that it dies of, whenever it is sent them.
    :ivar sockets: its connections; :ivar numbers: which of all that it ever had each is.
    """

    def __init__(self, world: IWorld, random: Random) -> None:
        super().__init__(random, lambda: Mark(world.tick, world.now))
        self.echo = random.choices(("req_id", "src_page", "nothing"), (8, 1, 2))[0]
        self.keeps_refusals = False
        self.sockets: list[Socket] = []
        self.numbers: dict[Socket, int] = {}
        self._world = world
        self.kills: set[str] = set()
        self.died: set[Socket] = set()
        self._unanswered: dict[Socket, list[dict[str, Any]]] = {}
        # When it heard of an order, by connection and ``req_id``; None: it has answered.
        self._heard_at: dict[tuple[int, Any], float | None] = {}

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
        self.excuse(key)
        self._later(socket, message, answer, self.random.choice((0.0, 0.3)))

    def _lie(self, socket: Socket, message: dict[str, Any]) -> None:
        rev = message["params"]["rev"]
        choices = (rev - 1, rev, rev + 1, rev + self.random.randrange(1000), 2**52, 2**52 + 1, 2**60, -3, "7", None)
        self.excuse(key_of(message["params"]))
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
        self.excuse(key)
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
        # Once it has cost too many connections it rests, and is sent with a new rev when it is woken.
        self.excuse(key_of(message["params"]))
        socket.connection.break_off(self.random.choice((0.0, 1.0, 20.0)), 0.0)

    def _dies(self, socket: Socket, message: dict[str, Any]) -> None:
        if message["command"].startswith("delete "):
            self._obey(socket, message)
            return
        self.kills.add(same(message))
        self.excuse(key_of(message["params"]))
        self.journal.deaths[key_of(message["params"])] += 1
        self.died.add(socket)
        socket.connection.break_off(0.0, 0.0)

    # -- answering

    def _later(self, socket: Socket, message: dict[str, Any], answer: dict[str, Any], seconds: float) -> None:
        if seconds:
            self._world.after(seconds, self._say, socket, message, answer)
        else:
            self._say(socket, message, answer)

    def _say(self, socket: Socket, message: dict[str, Any], answer: dict[str, Any], counts: bool = True) -> None:
        if not socket.is_open:
            return
        if message["command"].partition(" ")[2] == TASKS:
            params = message["params"]
            self._count(socket, message)
            self.journal.said.append(
                Said(
                    self.numbers[socket],
                    key_of(params),
                    params["rev"],
                    message["command"].partition(" ")[0],
                    answer["ecode"],
                    self._world.tick,
                    counts,
                    answer.get("rev"),
                )
            )
        echoed = {} if self.echo == "nothing" else {self.echo: message["req_id"]}
        socket.send(json.dumps({**echoed, **answer}).encode())
        if message["command"].partition(" ")[2] == TASKS and counts and self.echo != "nothing":
            self._world.said(self, socket, self.journal.said[-1])

    def _count(self, socket: Socket, message: dict[str, Any]) -> None:
        order = (self.numbers[socket], message["req_id"])
        heard_at = self._heard_at.get(order)
        if heard_at is None:
            self._world.saw("device: has answered twice")
        elif self._world.now - heard_at >= ANSWERS_WITHIN:
            self._world.saw("device: has answered late")
        self._heard_at[order] = None


def same(message: dict[str, Any]) -> str:
    """Return what is the same in a message each time that it is sent: all but its ``rev`` and ``req_id``."""
    return json.dumps([message["command"], {**message["params"], "rev": 0}])
