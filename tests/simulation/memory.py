"""What a device keeps, as on a disk, and how orders change it (``docs/protocol.md`` §6)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.pipe import Mark
from tests.simulation.records import LACKS, MAX_REV, STALE, Effect, Journal, Key

#: What a device holds of a task or subtask.
PARTS = ("task_type", "name", "algo_comb", "store_conf", "vchan")


class Memory:
    """What a device has been told to hold, and the revs that it has acted on.

    :ivar held: by task and subtask; :ivar revs: the last rev it acted on of each, also of what it holds no longer.
    :ivar refused: the last rev that it refused, if it keeps that, and what it said.
    :ivar kept: what it holds because it would not delete it.
    """

    def __init__(self, random: Random, mark: Callable[[], Mark]) -> None:
        self.random = random
        self.held: dict[Key, dict[str, Any]] = {}
        self.revs: dict[Key, int] = {}
        self.refused: dict[Key, tuple[int, dict[str, Any]]] = {}
        self.kept: set[Key] = set()
        self.journal = Journal()
        self._mark = mark

    def has(self) -> dict[Key, int]:
        """Return what it tells when it registers."""
        return {key: self.revs[key] for key in self.held}

    def excuse(self, key: Key | None) -> None:
        """Note that from now on ``key``, or everything, may be sent once more with a new rev."""
        self.journal.excuses.append((key, self._mark().now))

    def wipe(self) -> None:
        """Lose all of it."""
        self.held.clear()
        self.revs.clear()
        self.refused.clear()
        self.kept.clear()

    def act(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what ``message`` says, all of it or nothing, and return the answer."""
        kind, params = message["command"].partition(" ")[0], message["params"]
        key, rev = key_of(params), params["rev"]
        known = self.revs.get(key, 0)
        if self.refused.get(key, (0, {}))[0] == rev:
            return self.refused[key][1]
        if rev == known:
            self.journal.repeats += 1
            if self._after(kind, key, params) != self.held.get(key):
                self.journal.conflicts.append((key, rev, params))
            return {"ecode": 0, "enote": "ok"}
        if rev < known:
            self.excuse(key)
            if kind == "delete" and known > MAX_REV:
                self.kept.add(key)  # the server does not follow it that far: it is a refusal
            return {"ecode": STALE, "enote": "mine is newer", "rev": known}
        if kind == "put" and key not in self.held:
            return {"ecode": LACKS[bool(key[1])], "enote": "I do not have that"}
        lacking = key not in self.held
        self._take(kind, key, rev, params)
        if kind == "delete" and lacking and self.random.random() < 0.5:
            return {"ecode": LACKS[bool(key[1])], "enote": "I do not have that either"}
        return {"ecode": 0, "enote": "ok"}

    def _take(self, kind: str, key: Key, rev: int, params: dict[str, Any]) -> None:
        after = self._after(kind, key, params)
        same = after == self.held.get(key)
        self.journal.effects.append(Effect(key, rev, kind, self._mark(), same))
        self.revs[key] = rev
        self.refused.pop(key, None)
        self.kept.discard(key)
        if after is None:
            self.held.pop(key, None)
        else:
            self.held[key] = after

    def _after(self, kind: str, key: Key, params: dict[str, Any]) -> dict[str, Any] | None:
        """Return what it holds of ``key`` after an order; None: nothing."""
        if kind == "delete":
            return None
        before = self.held.get(key, {}) if kind == "put" else {}
        return {part: params.get(part, before.get(part)) for part in PARTS}


def key_of(params: dict[str, Any]) -> Key:
    """Return which task or subtask an order is about."""
    return params["task_id"], params.get("subtask_id", "")
