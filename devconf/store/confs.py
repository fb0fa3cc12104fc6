"""Storage configurations: files for devices, kept byte for byte and replaced without a copy (§20.3)."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from devconf.clock import stamp
from devconf.errors import CommandFailed, Ecode
from devconf.store.paging import page
from devconf.store.tables import store_confs, tasks

_LIGHT = [column for column in store_confs.c if column.name != "content"]
_conf = select(*_LIGHT).where(store_confs.c.unid == bindparam("unid"))


def get_conf(connection: Connection, unid: str, path: str = "$.params.unid") -> Row[Any]:
    """Return the storage configuration, without its content.

    :param path: the JSON path of ``unid``.
    :raises CommandFailed: ``NO_SUCH_STORE_CONF``.
    """
    row = connection.execute(_conf, {"unid": unid}).one_or_none()
    if row is None:
        raise CommandFailed(Ecode.NO_SUCH_STORE_CONF, f"there is no storage configuration {unid!r} ({path})")
    return row


def digest(content: bytes) -> str:
    """Return the ``sha256`` of a content, as items show it."""
    return hashlib.sha256(content).hexdigest()


def insert_conf(connection: Connection, now: float, unid: str, name: str, file_ext: str, content: bytes) -> int:
    """Store a new storage configuration and return its rev, 1."""
    connection.execute(
        insert(store_confs).values(unid=unid, rev=1, **_values(now, name, file_ext, content)),
    )
    return 1


def replace_conf(
    connection: Connection, now: float, unid: str, name: str, file_ext: str, content: bytes
) -> tuple[int, bool]:
    """Replace a storage configuration.

    :returns: its rev, and whether it changed: bytes, name and extension as stored already do not raise it.
    :raises CommandFailed: ``NO_SUCH_STORE_CONF``.
    """
    row = get_conf(connection, unid)
    if (row.name, row.file_ext, row.sha256) == (name, file_ext, digest(content)):
        return row.rev, False
    connection.execute(
        update(store_confs)
        .where(store_confs.c.unid == unid)
        .values(rev=row.rev + 1, **_values(now, name, file_ext, content))
    )
    return row.rev + 1, True


def _values(now: float, name: str, file_ext: str, content: bytes) -> dict[str, Any]:
    return {
        "name": name,
        "file_ext": file_ext,
        "content": content,
        "size": len(content),
        "sha256": digest(content),
        "updated_at": now,
    }


def delete_conf(connection: Connection, unid: str) -> None:
    """Delete a storage configuration.

    :raises CommandFailed: ``NO_SUCH_STORE_CONF``, or ``IN_USE`` by a task.
    """
    get_conf(connection, unid)
    user = connection.execute(select(tasks.c.task_id).where(tasks.c.store_conf_unid == unid).limit(1)).scalar()
    if user is not None:
        raise CommandFailed(Ecode.IN_USE, f"the task {user!r} uses it; give it another one first ($.params.unid)")
    connection.execute(delete(store_confs).where(store_confs.c.unid == unid))


def list_confs(
    connection: Connection, *, limit: int, after: str | None, unid: str | None, content: bool
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of storage configurations as items of §4, and the ``after`` of the next one."""
    statement = select(*(store_confs.c if content else _LIGHT))
    if unid is not None:
        statement = statement.where(store_confs.c.unid == unid)
    rows, following = page(connection, statement, store_confs.c.seq, limit, after)
    using: dict[str, list[str]] = {}
    for user in connection.execute(
        select(tasks.c.store_conf_unid, tasks.c.task_id)
        .where(tasks.c.store_conf_unid.in_([row.unid for row in rows]))
        .order_by(tasks.c.seq)
    ):
        using.setdefault(user.store_conf_unid, []).append(user.task_id)
    items = []
    for row in rows:
        item = {
            "unid": row.unid,
            "name": row.name,
            "file_ext": row.file_ext,
            "size": row.size,
            "sha256": row.sha256,
            "rev": row.rev,
            "task_ids": using.get(row.unid, []),
            "updated_at": stamp(row.updated_at),
        }
        if content:
            item["file_b64"] = b64encode(row.content).decode()
        items.append(item)
    return items, following
