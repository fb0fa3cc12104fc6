"""Settling: what becomes of a planned command, decided from what devices answered (``docs/protocol.md`` §4).

One transaction. The same function serves the end of a command's wait and the start after a crash; then all that is
not written as answered counts as silent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field, frozen
from sqlalchemy import Connection, Row

from devconf.devices.watch import Seen
from devconf.errors import Ecode
from devconf.model import CONFIRMED, SILENT, Answer, OrderKey, State
from devconf.store import awaited, confs, journal, keys, orders, tasks
from devconf.store.answers import UNDELIVERED

#: Devices that a response to ``put store_confs`` lists.
LISTED = 100
#: Devices that the history keeps of one command.
KEPT = 1000


@frozen
class Settled:
    """The outcome of a command.

    :ivar payload: of the response, besides what its plan has told.
    :ivar changed: orders that there is something to send of now.
    :ivar completed: items of the history that are completed by it.
    """

    ecode: Ecode
    enote: str
    payload: dict[str, Any]
    changed: list[OrderKey]
    completed: list[dict[str, Any]] = field(factory=list)


@define
class _Case:
    """A command that is being settled."""

    connection: Connection
    now: float
    row: Row[Any]
    seen: dict[OrderKey, Seen]
    revs: dict[OrderKey, int]
    rows_before: dict[OrderKey, dict[str, Any] | None]
    before: dict[str, Any]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The orders as ``devices`` in a response."""
        return [entry(key, seen.answer) for key, seen in self.seen.items()]

    def worst(self) -> Ecode:
        """Which error it is: refused before silent before offline."""
        answers = [seen.answer for seen in self.seen.values()]
        if any(answer.state is State.REFUSED for answer in answers):
            return Ecode.REFUSED
        if any(answer.ecode == Ecode.SILENT for answer in answers):
            return Ecode.SILENT
        return Ecode.OFFLINE if any(answer.state is State.PENDING for answer in answers) else Ecode.OK

    def undo_orders(self) -> list[OrderKey]:
        """Put the orders back as they were; devices that took the change, or may have, are brought back."""
        task_id = self.row.task_id
        new = orders.raise_task(self.connection, task_id)
        return [
            key
            for key, seen in self.seen.items()
            if orders.put_back(
                self.connection,
                key,
                self.rows_before[key],
                self.revs[key],
                seen.may_have,
                new,
            )
        ]

    def summary(self) -> str:
        """Say for people how it went."""
        counts = Counter(_word(seen.answer) for seen in self.seen.values())
        told = ", ".join(
            f"{counts[word]} {word}" for word in ("confirmed", "refused", "silent", "offline") if counts[word]
        )
        refused = next(((k, s.answer) for k, s in self.seen.items() if s.answer.state is State.REFUSED), None)
        if refused is not None:
            key, answer = refused
            lost = answer.ecode == Ecode.LOST
            what = "lost its connection each time" if lost else f"says {answer.ecode} {answer.enote!r}"
            told += f"; the device {key.dev_unid} {what}"
        return told


def entry(key: OrderKey, answer: Answer) -> dict[str, Any]:
    """Return an item of ``devices`` in a response."""
    named = {"dev_unid": key.dev_unid}
    if key.subtask_id:
        named["subtask_id"] = key.subtask_id
    return {**named, "state": answer.state, "ecode": answer.ecode, "enote": answer.enote}


def _word(answer: Answer) -> str:
    if answer.state is State.PENDING:
        return "silent" if answer.ecode == Ecode.SILENT else "offline"
    return str(answer.state)


def settle(connection: Connection, command_id: str, now: float, watched: dict[OrderKey, Seen] | None) -> Settled | None:
    """Settle a command.

    :param watched: what became of its orders; None after a crash.
    :returns: None if it has been settled already.
    """
    row = journal.get_planned(connection, command_id)
    if row is None:
        return None
    revs: dict[OrderKey, int] = {}
    rows_before: dict[OrderKey, dict[str, Any] | None] = {}
    for dev_unid, task_id, subtask_id, rev, before in row.plan["targets"]:
        key = OrderKey(dev_unid, task_id, subtask_id)
        revs[key] = rev
        rows_before[key] = before
    seen = _written(connection, revs) if watched is None else watched
    settled = _RULES[row.rule](_Case(connection, now, row, seen, revs, rows_before, row.plan["before"]))
    kept = [entry(key, each.answer) for key, each in list(seen.items())[:KEPT]]
    journal.settle(connection, command_id, now, settled.ecode, settled.enote, kept)
    asked = row.plan.get("asked")
    if asked is not None:
        outcome = {"ecode": int(settled.ecode), "enote": settled.enote, **asked["named"]}
        payload = payload_of(command_id, row.rule, asked["payload"], settled)
        keys.answer(connection, row.user_unid, asked["digest"], {**outcome, **payload})
    if row.task_id is not None:
        orders.sweep_deleted(connection, row.task_id)
    return evolve(settled, completed=awaited.settled(connection, row.task_id, list(revs), now))


def payload_of(command_id: str, rule: str, planned: dict[str, Any], settled: Settled) -> dict[str, Any]:
    """Return the payload of the response to a command.

    :param planned: what its plan has told; of a plan that was undone, nothing of this is so.
    """
    told = {} if settled.ecode and rule != "put_store_conf" else planned
    return {"command_id": command_id, **told, **settled.payload}


def _written(connection: Connection, revs: dict[OrderKey, int]) -> dict[OrderKey, Seen]:
    rows = orders.rows_of(connection, list(revs))
    # How often each was sent is not known any longer: more than once, to be safe.
    return {key: Seen(_answer(rows.get(key), rev), sent=2) for key, rev in revs.items()}


def _answer(row: Row[Any] | None, rev: int) -> Answer:
    if row is None:  # its delete was confirmed, or its device is gone
        return CONFIRMED
    if row.acked_rev < rev:
        return SILENT
    return CONFIRMED if row.ecode == 0 else Answer(State.REFUSED, row.ecode, row.enote)


# -- the rules ----------------------------------------------------------------------------------------------------


def _all_or_undo(case: _Case, commit: Callable[[_Case], None], undo: Callable[[_Case], None], what: str) -> Settled:
    """Done if all devices confirmed; else as it was."""
    ecode = case.worst()
    if ecode is Ecode.OK:
        commit(case)
        return Settled(Ecode.OK, "ok", {"devices": case.entries}, [])
    changed = case.undo_orders()
    undo(case)
    return Settled(ecode, f"{case.summary()}; {what}", {"devices": case.entries}, changed)


def _pic_task_config(case: _Case) -> Settled:
    def commit(case: _Case) -> None:
        tasks.update_task(case.connection, case.row.task_id, case.now, algo_comb=case.row.algo_comb)

    return _all_or_undo(
        case, commit, _nothing, "the task keeps its algo_comb, and devices that took the new one are brought back"
    )


def _delete_task(case: _Case) -> Settled:
    def commit(case: _Case) -> None:
        tasks.delete_task(case.connection, case.row.task_id)

    return _standard(_all_or_undo(case, commit, _nothing, "the task stays, and devices that deleted it get it back"))


def _delete_subtask(case: _Case) -> Settled:
    def commit(case: _Case) -> None:
        tasks.delete_subtask(case.connection, case.row.subtask_id)

    return _standard(_all_or_undo(case, commit, _nothing, "the subtask stays, and devices that deleted it get it back"))


def _standard(settled: Settled) -> Settled:
    """A standard response has ``devices`` only when something failed."""
    return settled if settled.ecode else Settled(settled.ecode, settled.enote, {}, settled.changed)


def _nothing(_case: _Case) -> None:
    """There is nothing else to undo."""


def _unless_refused(case: _Case, undo: Callable[[_Case], None]) -> Settled:
    """Kept, pending where need be, unless a device refused; then as it was."""
    if case.worst() is not Ecode.REFUSED:
        return Settled(Ecode.OK, "ok", {"devices": case.entries}, [])
    changed = case.undo_orders()
    undo(case)
    enote = f"{case.summary()}; it is undone, and devices that took it are brought back"
    return Settled(Ecode.REFUSED, enote, {"devices": case.entries}, changed)


def _post_task(case: _Case) -> Settled:
    return _unless_refused(case, lambda case: tasks.delete_task(case.connection, case.row.task_id))


def _post_subtask(case: _Case) -> Settled:
    return _unless_refused(case, lambda case: tasks.delete_subtask(case.connection, case.row.subtask_id))


def _put_task(case: _Case) -> Settled:
    def undo(case: _Case) -> None:
        before = dict(case.before)
        dev_unids = before.pop("dev_unids", None)
        conf_rev = before.pop("store_conf_rev", None)
        if dev_unids is not None:
            tasks.bind(case.connection, case.row.task_id, dev_unids)
        tasks.update_task(case.connection, case.row.task_id, case.now, **before)
        if "store_conf_unid" in before and case.revs:
            unid = before["store_conf_unid"]
            replaced = unid is not None and confs.get_conf(case.connection, unid).rev != conf_rev
            orders.want_old_store_conf(case.connection, case.row.task_id, max(case.revs.values()), replaced)

    return _unless_refused(case, undo)


def _keep(case: _Case) -> Settled:
    """Stored whatever happens (``force``)."""
    return Settled(Ecode.OK, "ok", {"devices": case.entries}, [])


def _put_store_conf(case: _Case) -> Settled:
    """Any answer but "I lack that" is a delivery (§20.3); one that lost its connection each time gave none."""
    total = len(case.seen)
    missing = {
        key: seen.answer
        for key, seen in case.seen.items()
        if seen.answer.state is State.PENDING or seen.answer.ecode in UNDELIVERED
    }
    unconfirmed = [
        entry(key, seen.answer) for key, seen in case.seen.items() if seen.answer.state is not State.CONFIRMED
    ]
    payload = {"total": total, "delivered": total - len(missing), "devices": unconfirmed[:LISTED]}
    if len(unconfirmed) > LISTED:
        payload["devices_omitted"] = len(unconfirmed) - LISTED
    if not missing:
        return Settled(Ecode.OK, "ok", payload, [])
    awaited.begin(case.connection, case.row, list(missing))
    ecode = Ecode.OFFLINE if all(answer.ecode == Ecode.OFFLINE for answer in missing.values()) else Ecode.SILENT
    return Settled(ecode, f"stored; {len(missing)} of {total} will get it when they return", payload, [])


_RULES: dict[str, Callable[[_Case], Settled]] = {
    "pic_task_config": _pic_task_config,
    "delete_task": _delete_task,
    "delete_subtask": _delete_subtask,
    "post_task": _post_task,
    "put_task": _put_task,
    "post_subtask": _post_subtask,
    "put_store_conf": _put_store_conf,
    "keep": _keep,
}
