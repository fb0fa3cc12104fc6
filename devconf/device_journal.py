"""What a device remembers: the last ``rev`` acted on for each task and subtask (``docs/protocol.md`` §6)."""

from __future__ import annotations

import os
from typing import Any

import msgspec

#: ``task_id`` and ``subtask_id`` (None: the task itself).
Key = tuple[str, str | None]

#: Deleted tasks and subtasks that a journal remembers, the newest: only what is still on its way can name them.
DELETED_KEPT = 1000


class _Item(msgspec.Struct, omit_defaults=True):
    task_id: str
    rev: int
    subtask_id: str | None = None


class _File(msgspec.Struct):
    tasks: list[_Item]
    deleted: list[_Item]


class Journal:
    """The last ``rev`` acted on for each task and subtask, in a file or, without one, in memory.

    The file is written with each order, through to the disk, in the thread of the caller; a crash leaves it as it was
    before or after that. One that is damaged all the same, or no journal, is moved aside (``.damaged``), and the
    journal begins empty: the device registers with nothing, and the server sends all again.

    :param path: the file; what is missing is made.
    :ivar trouble: what was wrong with the file, and where it is now, for people; empty if nothing was.
    :raises OSError: the file cannot be read, or not moved aside.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._present: dict[Key, int] = {}
        self._deleted: dict[Key, int] = {}
        self.trouble = ""
        if path is not None and os.path.exists(path):
            self._read(path)

    def _read(self, path: str) -> None:
        with open(path, "rb") as file:
            content = file.read()
        try:
            found = msgspec.json.decode(content, type=_File)
        except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: it is not UTF-8
            aside = f"{path}.damaged"
            os.replace(path, aside)
            self.trouble = f"{path} is no journal of a device; it is {aside} now, and the server sends all again"
        else:
            self._present, self._deleted = _table(found.tasks), _table(found.deleted)

    def rev(self, key: Key) -> int | None:
        """Return the last rev acted on, also of what has been deleted since; None: nothing is known of it."""
        return self._present.get(key, self._deleted.get(key))

    def has(self, key: Key) -> bool:
        """Tell whether the device has it."""
        return key in self._present

    def tasks(self) -> list[dict[str, Any]]:
        """Return what the device has, as the ``tasks`` of ``register`` (§1)."""
        tasks: list[dict[str, Any]] = msgspec.to_builtins(_items(self._present))
        return tasks

    def note(self, key: Key, rev: int, *, present: bool) -> None:
        """Note that an order has been carried out.

        :param present: the device has it now; else it has been deleted.
        :raises OSError: this could not be written; then it is not noted.
        """
        tasks, deleted = ({k: r for k, r in table.items() if k != key} for table in (self._present, self._deleted))
        (tasks if present else deleted)[key] = rev
        if len(deleted) > DELETED_KEPT:
            del deleted[next(iter(deleted))]
        if self._path is not None:
            _write(self._path, msgspec.json.encode(_File(_items(tasks), _items(deleted))))
        self._present, self._deleted = tasks, deleted


def _items(table: dict[Key, int]) -> list[_Item]:
    return [_Item(task_id, rev, subtask_id) for (task_id, subtask_id), rev in table.items()]


def _table(items: list[_Item]) -> dict[Key, int]:
    return {(item.task_id, item.subtask_id): item.rev for item in items}


def _write(path: str, content: bytes) -> None:
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    # The new name is on the disk only when the folder is.
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
