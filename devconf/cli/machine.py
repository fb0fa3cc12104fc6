"""What ``devconf check`` looks at, on the machine that a server runs on."""

from __future__ import annotations

import platform
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from devconf.cli.database import Unsound, inspect, locked, path_of, settings_of
from devconf.cli.private import others_may_read
from devconf.cli.status import Failed

OK, WARNING, ERROR = "ok", "warning", "error"

#: Open files that a server needs besides its connections.
OTHER_FILES = 100
#: Connections that a large fleet lets wait to be accepted at once.
BACKLOG = 1024
#: Bytes that should be free, and that must be.
ROOM, LEAST_ROOM = 2**30, 2**26
#: The first SQLite that has all that is used (`RETURNING`).
SQLITE = (3, 35, 0)
PACKAGES = ("devconf-server", "twisted", "autobahn", "sqlalchemy", "alembic", "msgspec", "klein", "treq", "argon2-cffi")

_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


@frozen
class Line:
    """What was found.

    :ivar check: of what, :ivar state: ok, warning or error, :ivar text: and what is to be done, if anything.
    """

    check: str
    state: str
    text: str


def look(config_path: str | None) -> Iterator[Line]:
    """Check everything that can be, with the configuration in a file; None: the defaults."""
    try:
        settings = settings_of(config_path)
    except Failed as failure:
        yield Line("configuration", ERROR, failure.message)
    else:
        yield Line("configuration", OK, f"{config_path} can be used" if config_path else "none: the defaults are used")
        path = path_of(settings)
        yield database(path)
        yield disk(path)
        yield open_files(settings.limits.connections, resource.getrlimit(resource.RLIMIT_NOFILE))
    yield backlog(_SOMAXCONN)
    yield sqlite(sqlite3.sqlite_version_info)
    yield Line("python", OK, platform.python_version())
    for package in PACKAGES:
        yield version(package)


def database(path: Path) -> Line:
    """Check the database, unless a server holds it."""
    if not path.parent.is_dir():
        return Line("database", ERROR, f"there is no folder {path.parent}; make it, or name another in `database`")
    if not path.exists():
        return Line("database", WARNING, f"{path} is not there yet; the server makes it when it starts")
    try:
        with locked(path):
            found = inspect(path)
    except Failed as failure:
        if "is in use by" in failure.message:
            return Line("database", OK, f"{path} is not looked into: {failure.message.partition(';')[0]}")
        return Line("database", ERROR, failure.message)
    except Unsound as error:
        return Line("database", ERROR, f"{path}: {error}; restore a backup, or name another file in `database`")
    if others_may_read(path):
        return Line("database", WARNING, f"{path}: others may read it; run: chmod 600 {path}")
    if found.revision != found.newest:
        return Line(
            "database", OK, f"{path} is sound; schema {found.revision} becomes {found.newest} at the next start"
        )
    return Line("database", OK, f"{path} is sound; schema {found.revision}")


def disk(path: Path) -> Line:
    """Check the room for the database, and for a backup of it."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    size = path.stat().st_size if path.exists() else 0
    text = f"{free // 2**20} MiB are free in {folder}"
    if free < LEAST_ROOM:
        return Line("disk", ERROR, f"{text}; the server refuses changes when it is full")
    if free < ROOM or free < 2 * size:
        return Line("disk", WARNING, f"{text}, and the database has {size // 2**20} MiB, which a backup takes again")
    return Line("disk", OK, text)


def open_files(connections: int, limits: tuple[int, int]) -> Line:
    """Check how many files a process of this user may open, which connections are too."""
    soft, hard = limits
    needed = connections + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Line("open files", OK, f"{'any number' if soft == resource.RLIM_INFINITY else soft} may be open")
    how = "ulimit -n, or LimitNOFILE of systemd" if hard == resource.RLIM_INFINITY or hard >= needed else "LimitNOFILE"
    return Line(
        "open files",
        WARNING,
        f"{soft} may be open, and `connections` allows {connections}: set {needed} by {how}, or lower `connections`",
    )


def backlog(source: Path) -> Line:
    """Check how many connections may wait to be accepted, when a whole fleet comes back at once."""
    try:
        allowed = int(source.read_text("ascii"))
    except (OSError, ValueError):
        return Line("backlog", WARNING, f"{source} cannot be read: how many connections may wait is not known")
    if allowed < BACKLOG:
        how = f"for large fleets set net.core.somaxconn to {BACKLOG} or more"
        return Line("backlog", WARNING, f"{allowed} connections may wait to be accepted; {how}")
    return Line("backlog", OK, f"{allowed} connections may wait to be accepted")


def sqlite(found: tuple[int, ...]) -> Line:
    """Check the version of SQLite."""
    text = ".".join(map(str, found))
    if found < SQLITE:
        return Line("sqlite", ERROR, f"{text} is too old; install {'.'.join(map(str, SQLITE))} or later")
    return Line("sqlite", OK, text)


def version(package: str) -> Line:
    """Tell which version of a package is installed."""
    from importlib import metadata

    try:
        return Line(package, OK, metadata.version(package))
    except metadata.PackageNotFoundError:
        return Line(package, ERROR, f"it is not installed; run: pip install {package}")
