"""Writes what devices answer, as it comes and in batches, whatever the cause of the order was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from sqlalchemy import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf import failpoints
from devconf.clock import Now
from devconf.events import Events
from devconf.model import OrderKey, State
from devconf.store import Store, answers, awaited, complain, journal
from devconf.store.answers import Acknowledgement, Outcome
from devconf.store.outbox import Order

_STATES = {Outcome.APPLIED: State.CONFIRMED, Outcome.REFUSED: State.REFUSED, Outcome.LOST: State.REFUSED}

#: Answers, each with the order it answers.
Batch = list[tuple[Acknowledgement, Order]]


@define
class AnswerBook:
    """One batch is being written at a time; what comes meanwhile is the next.

    :ivar _written: told the rows as they are then, and the batch.
    :ivar _not_written: told the batch, if the store failed.
    """

    _log = Logger()

    _store: Store
    _now: Now
    _events: Events
    _written: Callable[[dict[OrderKey, Any], Batch], None]
    _not_written: Callable[[Batch], None]
    _waiting: Batch = field(factory=list, init=False)
    _writing: bool = field(default=False, init=False)

    def add(self, acknowledgement: Acknowledgement, order: Order) -> None:
        """Write ``acknowledgement``, which answers ``order``."""
        self._waiting.append((acknowledgement, order))
        if not self._writing:
            self._flush()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        self._writing = bool(batch)
        if batch:
            self._store.run(_write, [(answer, order.kind) for answer, order in batch], self._now()).addCallbacks(
                self._done, self._failed, callbackArgs=(batch,), errbackArgs=(batch,)
            )

    def _done(self, written: tuple[dict[OrderKey, Any], list[dict[str, Any]]], batch: Batch) -> None:
        rows, completed = written
        failpoints.reach("answer written")
        try:
            self._written(rows, batch)
        except Exception:
            # Else nothing would be written any more, and these orders be taken to be under way for ever.
            self._log.failure("answers that were written could not be acted on; their orders will be sent again")
            self._not_written(batch)
        for answer, _ in batch:
            self._tell(answer, rows.get(answer.key))
        for command in completed:
            self._events.publish("commands", journal.event(command), owner=command["user_unid"])
        self._flush()

    def _tell(self, answer: Acknowledgement, row: Any) -> None:
        # Of an older connection it was not written, and what is sent again has not been answered yet.
        if answer.outcome in _STATES and (row is None or row.acked_rev >= answer.rev):
            more_to_come = row is not None and row.wanted_rev > row.acked_rev
            subtask = {"subtask_id": answer.key.subtask_id} if answer.key.subtask_id else {}
            self._events.publish(
                "deliveries",
                {
                    "dev_unid": answer.key.dev_unid,
                    "task_id": answer.key.task_id,
                    **subtask,
                    "rev": answer.rev,
                    "state": State.PENDING if more_to_come else _STATES[answer.outcome],
                    "ecode": answer.ecode,
                    "enote": answer.enote,
                    "late": answer.late,
                },
            )

    def _failed(self, failure: Failure, batch: Batch) -> None:
        complain(self._log, failure, "answers of devices could not be written; their orders will be sent again")
        self._not_written(batch)
        self._flush()


def _write(
    connection: Connection, batch: list[tuple[Acknowledgement, str]], now: float
) -> tuple[dict[OrderKey, Any], list[dict[str, Any]]]:
    """Write answers; return their rows, and the commands that they complete."""
    rows = answers.acknowledge(connection, batch, now)
    return rows, awaited.acknowledged(connection, rows.values(), now)
