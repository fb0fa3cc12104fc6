"""The exit statuses of ``devconf``: all of them, and what ends with which."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import click

from devconf.errors import Ecode


class Status(IntEnum):
    """An exit status. ``meaning`` is its line in ``devconf --help``."""

    meaning: str

    def __new__(cls, number: int, meaning: str = "") -> Status:
        """Make a member from its number and the text of the table."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    DONE = 0, "done"
    FAILED = 1, "the server answered an error that is none of those below, or what was to be done here failed"
    USAGE = 2, "the command line, or a file that it names, is wrong; the server was not asked"
    NOT_CONNECTED = 3, "the server cannot be reached, refused the login, or the connection was lost"
    FORBIDDEN = 4, "the role of this account may not do that"
    REFUSED = 5, "a device refused"
    NOT_REACHED = 6, "a device is offline, or did not answer in time; what was asked is undone, or was not begun"
    PARTLY = 7, "done in part: stored, but some devices get it later; or imported, but for some lines"
    INTERRUPTED = 130, "interrupted by Ctrl-C"


_OF_ECODE = {
    Ecode.FORBIDDEN: Status.FORBIDDEN,
    Ecode.REFUSED: Status.REFUSED,
    Ecode.OFFLINE: Status.NOT_REACHED,
    Ecode.SILENT: Status.NOT_REACHED,
}


def status_of(response: dict[str, Any]) -> Status:
    """Return the exit status for a ``response`` of the server (``docs/protocol.md`` §3)."""
    ecode = response["ecode"]
    if ecode == Ecode.OK:
        return Status.DONE
    if ecode in (Ecode.OFFLINE, Ecode.SILENT) and "delivered" in response:
        # Only `put store_confs` says how many it reached, and then the content is stored.
        return Status.PARTLY
    return _OF_ECODE.get(ecode, Status.FAILED)


class Failed(click.ClickException):
    """What ends the program with one line on the standard error, and a status that is not 0."""

    def __init__(self, message: object, status: Status = Status.FAILED) -> None:
        super().__init__(" ".join(str(message).split()))
        self.status = status
