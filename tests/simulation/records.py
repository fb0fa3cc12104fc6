"""What is known of a run from outside the server: what was asked and answered, and what devices heard, did and said."""

from __future__ import annotations

from collections import Counter
from typing import Any

from attrs import define, field, frozen

from tests.simulation.pipe import Mark

Key = tuple[str, str]
"""A task, and a subtask of it or nothing."""

#: What a device says that lacks a task, or a subtask.
LACKS = (1004040001, 1004040003)
#: What the server says of an order that has cost its device too many connections in a row: it rests.
LOST = 1005020002
STALE = 1004090008
#: The server follows a device that claims a higher rev up to this one.
MAX_REV = 2**52

#: What says nothing of what was asked before with the same key: too many requests, stopping, full disks, failures.
LATER = (1004290001, 1005030002, 1005070001, 1005000001)
#: The key was used for something else.
KEY_USED = 1004090006
#: What says that something was done: ok, refused by a device, not answered by one.
DONE = (0, 1005020001, 1005040001)
_STORED = ("tasks", "tasks/pic_task_config", "subtasks", "store_confs", "devices")


@define(eq=False)
class Request:
    """A request of a client, and what became of it.

    :ivar number: which one of the run; what it writes has this in it, so that no two requests write the same.
    :ivar command: ``<method> <resource>``.
    :ivar sent_at: and :ivar answered_at: in ticks; :ivar written_at: when the server wrote the answer.
    :ivar lost_at: when its connection ended before there was an answer; only then may there be none.
    :ivar settled_by: a tick by which the server has certainly done with it, whatever it did: a restart.
    :ivar answers: all there were: there must be at most one.
    :ivar wrong: it cannot succeed.
    :ivar key: its ``idempotency_key``, with which it is asked again when its connection is lost, or None.
    :ivar attempts: how often it was sent; :ivar repeats: what it was answered after it had been answered.
    :ivar asked_on: and :ivar told_on: seconds: when it was first sent, and when the answer was written.
    :ivar heard_on: seconds: when the server had it, as it was sent last.
    """

    number: int
    client: str
    command: str
    params: dict[str, Any]
    sent_at: int
    wrong: bool = False
    answers: list[dict[str, Any]] = field(factory=list)
    progress: list[tuple[int, int]] = field(factory=list)
    answered_at: int | None = None
    written_at: int | None = None
    lost_at: int | None = None
    settled_by: int | None = None
    key: str | None = None
    attempts: int = 0
    repeats: list[dict[str, Any]] = field(factory=list)
    asked_on: float = 0.0
    told_on: float = 0.0
    heard_on: float | None = None

    @property
    def kept(self) -> bool:
        """Whether its answer is certainly kept with its key: something was done, if only to be undone."""
        answer = self.answer or {}
        # A call that was not sent to its device names none.
        unsent = self.command == "post devices/call" and answer.get("ecode") != 0 and "devices" not in answer
        return answer.get("ecode") in DONE and not unsent

    @property
    def answer(self) -> dict[str, Any] | None:
        """What it was answered."""
        return self.answers[0] if self.answers else None

    @property
    def ok(self) -> bool:
        """Whether it was told that it has been done."""
        return self.answer is not None and self.answer.get("ecode") == 0

    @property
    def failed(self) -> bool:
        """Whether it was told that it has not been done: ``put store_confs`` stores even when it cannot deliver."""
        stored = self.command == "put store_confs" and "rev" in (self.answer or {})
        return self.answer is not None and not (self.ok or stored or self.doubtful)

    @property
    def changes(self) -> bool:
        """Whether it is one that stores something."""
        method, _, resource = self.command.partition(" ")
        return method != "get" and resource in _STORED

    @property
    def doubtful(self) -> bool:
        """Whether an attempt was lost and a later one refused: what was lost may come after that, and be done."""
        return self.lost_at is not None and self.answer is not None and self.answer.get("ecode") not in DONE

    @property
    def unknown(self) -> bool:
        """Whether nobody was told what became of it."""
        return self.answer is None or self.doubtful


@frozen
class Heard:
    """An order that a device heard.

    :ivar socket: which of its connections it came on, counted over its life.
    :ivar written: when the server wrote it.
    """

    socket: int
    key: Key
    rev: int
    kind: str
    params: dict[str, Any]
    written: Mark


@frozen
class Said:
    """What a device answered to an order.

    :ivar device_rev: which rev it claimed to have; :ivar counts: False: on a connection that it had replaced already.
    """

    socket: int
    key: Key
    rev: int
    kind: str
    ecode: Any
    tick: int
    counts: bool = True
    device_rev: Any = None

    @property
    def written_as(self) -> int | None:
        """The ``ecode`` that the store is to have of it; None: none, it acknowledges nothing."""
        if isinstance(self.ecode, bool) or not isinstance(self.ecode, int) or abs(self.ecode) > 2**53:
            return 1004000002
        if self.kind == "delete" and self.ecode in LACKS:
            return 0
        if self.kind == "put" and self.ecode in LACKS:
            return None
        return self.ecode


@frozen
class Effect:
    """An order that changed what a device holds; :ivar same: it held exactly that already."""

    key: Key
    rev: int
    kind: str
    at: Mark
    same: bool


@define(eq=False)
class Journal:
    """What one device has heard, done and said.

    :ivar conflicts: orders with the rev of another, but other content: one that keeps its revs would not do them.
    :ivar called: how often it heard each call, by the number of its request.
    :ivar deaths: how often it died of each key, and :ivar otherwise_lost: how often its connection ended otherwise.
    :ivar connected: from when to when it had a connection.
    :ivar excuses: when there was a reason to send a key, or everything, again with a new rev though it had been done.
    """

    heard: list[Heard] = field(factory=list)
    said: list[Said] = field(factory=list)
    effects: list[Effect] = field(factory=list)
    conflicts: list[tuple[Key, int, dict[str, Any]]] = field(factory=list)
    repeats: int = 0
    excuses: list[tuple[Key | None, float]] = field(factory=list)
    called: Counter[int] = field(factory=Counter)
    deaths: Counter[Key] = field(factory=Counter)
    otherwise_lost: int = 0
    connected: list[tuple[float, float]] = field(factory=list)
