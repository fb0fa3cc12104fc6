"""Lists in pages, in the order of creation (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, Row, Select, func

from devconf import wire
from devconf.errors import CommandFailed, Ecode

#: A page ends once what is in it passes so many bytes: else one list could fill the memory.
PAGE_BYTES = 4 * 1024 * 1024


def page(
    connection: Connection,
    statement: Select[Any],
    seq: Column[int],
    limit: int,
    after: str | None,
    *,
    newest_first: bool = False,
    room: int = PAGE_BYTES,
) -> tuple[list[Row[Any]], str | None]:
    """Return a page of ``statement``, and the ``after`` of the next one. It ends early once it is large.

    ``after`` is the place of the last item in the order of creation, so it works when that item is gone.

    :param room: bytes after which it is large.
    :raises CommandFailed: ``BAD_FIELD``: ``after`` is not what a page's ``next`` said.
    """
    if after is not None:
        place = position(after)
        statement = statement.where(seq < place if newest_first else seq > place)
    statement = statement.order_by(seq.desc() if newest_first else seq).limit(limit + 1)
    rows: list[Row[Any]] = []
    size = 0
    result = connection.execute(statement)
    while (row := result.fetchone()) is not None:
        if len(rows) == limit or size > room:
            result.close()
            return rows, str(rows[-1].seq)
        rows.append(row)
        size += sum(_size(value) for value in row)
    return rows, None


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return len(wire.encode(value)) if isinstance(value, list | dict) else 0


def position(after: str) -> int:
    """Return the place that ``after`` names.

    :raises CommandFailed: ``BAD_FIELD``.
    """
    if not (after.isascii() and after.isdigit() and len(after) < 19):
        raise CommandFailed(Ecode.BAD_FIELD, "$.params.after must be the `next` of the page before")
    return int(after)


def containing(column: Column[str], text: str) -> Any:
    """Return the condition that ``column`` contains ``text``, whatever the case."""
    return func.lower(column).contains(text.lower(), autoescape=True)
