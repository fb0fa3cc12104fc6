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
    """The open sockets by account, and requests that came without one."""

    _open: dict[str, dict[Closer, Identity]] = field(factory=dict, init=False)
    _requests: dict[str, dict[Callable[[], None], Identity]] = field(factory=dict, init=False)
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

    def observe(self, identity: Identity, ended: Callable[[], None]) -> None:
        """Let ``ended`` be called when the account or the tokens of ``identity`` end, until :meth:`ignore`."""
        self._requests.setdefault(identity.unid, {})[ended] = identity

    def ignore(self, identity: Identity, ended: Callable[[], None]) -> None:
        """Let ``ended`` be called no longer."""
        requests = self._requests[identity.unid]
        del requests[ended]
        if not requests:
            del self._requests[identity.unid]

    def end(self, unid: str, reason: str, family: str | None = None) -> None:
        """End what the account ``unid`` has: close its sockets (1008), and tell who observes its requests.

        :param family: only what came with tokens of this family.
        """
        for close, identity in list(self._open.get(unid, {}).items()):
            if family is None or identity.family == family:
                close(NOT_AUTHORISED, reason)
        for ended, identity in list(self._requests.get(unid, {}).items()):
            if family is None or identity.family == family:
                ended()

    def end_all(self, code: int, reason: str) -> None:
        """Close every socket."""
        for sockets in list(self._open.values()):
            for close in list(sockets):
                close(code, reason)
