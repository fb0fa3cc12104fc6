"""Part of I3: a command that was answered with an error and stays is completed once all devices have what it wanted."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.model.stored import Query

_STAYS = "command LIKE 'put %/store_confs' AND ecode <> 0"


def not_completed(query: Query) -> Iterator[str]:
    """Return what is awaited though it was acknowledged, completed though it was not answered with an error, or lost.

    To be asked when devices have had the time to take what they should have.
    """
    for row in query(
        "SELECT dev_unid, task_id, subtask_id, awaited_by FROM orders"
        " WHERE awaited_by IS NOT NULL AND life = 'present' AND wanted_rev <= acked_rev AND ecode = 0"
    ):
        yield f"the order {row} is awaited, and is confirmed"
    for (command_id,) in query(
        "SELECT command_id FROM commands WHERE awaits IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM orders WHERE awaited_by = awaits)"
    ):
        yield f"the command {command_id} waits to be completed, and nothing of it is awaited"
    for (command_id,) in query(f"SELECT command_id FROM commands WHERE completed_at IS NOT NULL AND NOT ({_STAYS})"):
        yield f"the command {command_id} was completed, and there was nothing to complete"
    for (command_id,) in query(
        f"SELECT command_id FROM commands WHERE {_STAYS} AND completed_at IS NULL AND awaits IS NULL"
    ):
        yield f"the command {command_id} ended with an error and stays, and nothing will complete it"
