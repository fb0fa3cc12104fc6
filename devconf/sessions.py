"""Who is connected, and ending it (``docs/protocol.md`` §1: a socket outlives its token, not its account)."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from devconf.model import Identity

#: Closes one connection, with a close code and a reason for people.
Closer = Callable[[int, str], None]

GOING_AWAY = 1001
UNSUPPORTED = 1003
NOT_AUTHORISED = 1008
TOO_LARGE = 1009
OVERLOADED = 1013
REPLACED = 4001
DUPLICATE = 4002
UNANSWERED = 4003


#: Seconds for which a peer is asked to stay away that could not be taken.
OVERLOADED_RETRY = 30.0


def retry_after(why: str, seconds: float) -> str:
    """Return the reason of a close frame that tells when to come back (§6)."""
    return f"{why}; retry after {seconds:.0f} s"


@define
class Sessions:
    """The open sockets by account."""

    _open: dict[str, dict[Closer, Identity]] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def __len__(self) -> int:
        return self._count

    def add(self, identity: Identity, close: Closer) -> None:
        """Note a socket that belongs to ``identity``."""
        sockets = self._open.setdefault(identity.unid, {})
        self._count += close not in sockets
        sockets[close] = identity

    def remove(self, identity: Identity, close: Closer) -> None:
        """Forget a socket; one that is not there is fine."""
        sockets = self._open.get(identity.unid, {})
        self._count -= sockets.pop(close, None) is not None
        if not sockets:
            self._open.pop(identity.unid, None)

    def end(self, unid: str, reason: str, family: str | None = None) -> None:
        """Close the sockets of the account ``unid`` (1008); with ``family``, only those that came with its tokens."""
        for close, identity in list(self._open.get(unid, {}).items()):
            if family is None or identity.family == family:
                close(NOT_AUTHORISED, reason)

    def end_all(self, code: int, reason: str) -> None:
        """Close every socket."""
        for sockets in list(self._open.values()):
            for close in list(sockets):
                close(code, reason)
