"""All requests of a run, and what clients know from their answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import define, field

from tests.simulation.records import Request


@define
class Ledger:
    """The requests in the order in which they were made."""

    requests: list[Request] = field(factory=list)

    def new(
        self, client: str, command: str, params: dict[str, Any], wrong: bool, tick: int, key: str | None = None
    ) -> Request:
        """Note a request."""
        request = Request(len(self.requests), client, command, params, tick, wrong, key=key)
        self.requests.append(request)
        return request

    def of(self, *commands: str) -> Iterator[Request]:
        """Return the requests of ``commands`` that may have done something: those without a mistake in them."""
        return (request for request in self.requests if request.command in commands and not request.wrong)

    def restarted(self, tick: int) -> None:
        """Note that the server has started anew: whatever nobody was told of is decided by now."""
        for request in self.requests:
            if request.lost_at is not None and request.settled_by is None:
                request.settled_by = tick

    # -- what clients know

    def posted(self, command: str, name: str) -> dict[str, Request]:
        """Return what was made by ``command`` and told in the field ``name``, by that."""
        return {
            request.answer[name]: request
            for request in self.of(command)
            if request.ok and request.answer is not None and name in request.answer
        }

    def content_of(self, unid: str) -> dict[str, Any] | None:
        """Return the content that a storage configuration has, as far as clients know: what was stored last."""
        written = [*self.of("post store_confs"), *self.of("put store_confs")]
        stored = [
            each
            for each in written
            if each.answer is not None and each.answer.get("unid") == unid and "rev" in each.answer
        ]
        last = max(stored, key=lambda each: each.answer["rev"], default=None)  # type: ignore[index]
        return None if last is None else {name: last.params[name] for name in ("name", "file_ext", "file_b64")}

    def _left(self, made: str, gone: str, name: str) -> dict[str, Request]:
        deleted = {request.params.get(name) for request in self.of(gone) if request.ok}
        return {key: request for key, request in self.posted(made, name).items() if key not in deleted}

    def task_ids(self, kind: str = "") -> list[str]:
        """Return the tasks that clients take to be there; of one ``task_type``, or of any."""
        left = self._left("post tasks", "delete tasks", "task_id")
        return [key for key, request in left.items() if kind in ("", request.params.get("task_type"))]

    def kind_of(self, task_id: str) -> str:
        """Return the ``task_type`` of a task; empty if nobody knows of it."""
        request = self.posted("post tasks", "task_id").get(task_id)
        return "" if request is None else str(request.params["task_type"])

    def subtask_ids(self) -> list[str]:
        """Return the subtasks that clients take to be there."""
        return list(self._left("post subtasks", "delete subtasks", "subtask_id"))

    def conf_unids(self) -> list[str]:
        """Return the storage configurations that clients take to be there."""
        return list(self._left("post store_confs", "delete store_confs", "unid"))
