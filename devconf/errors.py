"""The error codes of the wire (``docs/protocol.md`` §3) and the one exception that carries them.

The table stands here and nowhere else: documentation and tests are made from :class:`Ecode`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

#: Seconds after which a server that stops, or has too much to do, is hoped to be back: what it tells its peers.
RETRY_AFTER = 5


class Ecode(IntEnum):
    """An ``ecode``: ``100``, an HTTP status, a serial. ``meaning`` is the line of the table."""

    meaning: str

    def __new__(cls, code: int, meaning: str = "") -> Ecode:
        """Make a member from its number and the text of the table."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "ok"
    NOT_AN_OBJECT = 1004000001, "not a JSON object"
    BAD_FIELD = 1004000002, "a field is missing, unknown or wrong (enote has its JSON path)"
    UNKNOWN_COMMAND = 1004000003, "unknown command"
    BAD_CONTENT = 1004000004, "file content is not what it claims (base64, XML, JSON, empty, too large)"
    BAD_TOKEN = 1004010001, "token missing or invalid"
    TOKEN_EXPIRED = 1004010002, "token expired"
    BAD_CREDENTIALS = 1004010003, "wrong name, password or key"
    FORBIDDEN = 1004030001, "this role may not do that"
    NO_SUCH_TASK = 1004040001, "no such task"
    NO_SUCH_STORE_CONF = 1004040002, "no such storage configuration"
    NO_SUCH_SUBTASK = 1004040003, "no such subtask"
    NO_SUCH_DEVICE = 1004040004, "no such device"
    NO_SUCH_USER = 1004040005, "no such user"
    HAS_SUBTASKS = 1004090001, "the task still has subtasks"
    WRONG_KIND = 1004090002, "wrong kind of task"
    ALREADY_EXISTS = 1004090003, "already exists"
    IN_USE = 1004090004, "still in use"
    CANNOT_RUN = 1004090005, "a device cannot run one of the algorithms"
    KEY_USED = 1004090006, "this idempotency_key was used for something else"
    STALE_REV = 1004090008, "(from a device) that rev is older than mine"
    TOO_LARGE = 1004130001, "message too large"
    TOO_MANY = 1004290001, "too many requests (rate, in flight, or waiting)"
    INTERNAL = 1005000001, "internal error (a reference to the log line, never a traceback)"
    REFUSED = 1005020001, "a device refused; its own ecode and enote are in devices"
    LOST = 1005020002, "(of a device) it lost its connection each time it was sent this"
    OFFLINE = 1005030001, "a device is offline"
    STOPPING = 1005030002, "the server is stopping or overloaded"
    SILENT = 1005040001, "a device did not answer in time"
    DISK_FULL = 1005070001, "the disk of the server is full; nothing was changed"

    @property
    def http_status(self) -> int:
        """The status of the HTTP mirror (§5): 200, or the three digits in the middle."""
        return 200 if self is Ecode.OK else int(str(int(self))[3:6])

    @property
    def retry_after(self) -> int | None:
        """Seconds after which it makes sense to ask again what was not even looked at; None: it is not about that."""
        return RETRY_AFTER if self in (Ecode.STOPPING, Ecode.TOO_MANY) else None


class CommandFailed(Exception):
    """A request that is answered with an error.

    :ivar ecode: which one.
    :ivar enote: for people: what is wrong, where, and what to do.
    :ivar payload: further fields of the answer, such as ``devices``.
    """

    def __init__(self, ecode: Ecode, enote: str, **payload: Any) -> None:
        super().__init__(ecode, enote)
        self.ecode = ecode
        self.enote = enote
        self.payload = payload

    def __str__(self) -> str:
        return f"{int(self.ecode)}: {self.enote}"


class StoreFailed(CommandFailed):
    """The store could not do it: there is no room (``DISK_FULL``), or it is broken or closed (``STOPPING``).

    It has said so in the log itself, where there is anything to say.
    """

    def __str__(self) -> str:
        return self.enote


class StartupError(Exception):
    """The server cannot start; the text is one line that says why and what to do."""
