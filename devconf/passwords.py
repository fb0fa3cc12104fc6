"""Passwords: argon2id, in threads of their own (``docs/protocol.md`` §1)."""

from __future__ import annotations

from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from zope.interface import Interface, implementer

from devconf.errors import CommandFailed, Ecode
from devconf.threads import Threads

#: OWASP's least for argon2id: 19 MiB, two passes. More would make logging in a way to fill memory.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

THREADS = 2
#: Logins that may wait for a thread.
WAITING = 64


def hash_password(password: str) -> str:
    """Return what is stored of ``password``. Takes long."""
    return _hasher.hash(password)


def verify_password(stored: str, password: str) -> bool:
    """Tell whether ``password`` is the one that ``stored`` was made from. Takes long."""
    try:
        return _hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


#: Compared with where there is no account, so that it takes as long.
NOBODY = hash_password("")


class IPasswords(Interface):
    """How passwords are hashed: a seam, since it takes long on purpose."""

    def hash(password: str) -> Deferred[str]:
        """Fire with what is to be stored."""

    def verify(stored: str, password: str) -> Deferred[bool]:
        """Fire with whether it is the right one; fail with ``CommandFailed`` (``TOO_MANY`` wait).

        To cancel it ends the waiting, and not the work.
        """

    def stop() -> Deferred[None]:
        """Take no more, and fire when what waits is done."""


@implementer(IPasswords)
@define
class ThreadedPasswords:
    """Hashes in at most two threads, which are started when first needed."""

    _reactor: IReactorFromThreads
    _threads: Threads = field(init=False)
    _waiting: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._threads = Threads(self._reactor, "devconf passwords", THREADS)

    def hash(self, password: str) -> Deferred[str]:
        """See :class:`IPasswords`."""
        return self._run(hash_password, password)

    def verify(self, stored: str, password: str) -> Deferred[bool]:
        """See :class:`IPasswords`."""
        return self._run(verify_password, stored, password)

    def _run(self, function: Any, *args: str) -> Deferred[Any]:
        if self._waiting >= WAITING:
            return fail(CommandFailed(Ecode.TOO_MANY, "too many are logging in; try again later"))
        self._waiting += 1
        # Who goes away cancels this one. The work stays in the line, and counts until a thread has done it.
        outcome: Deferred[Any] = Deferred()
        done = self._threads.run(function, *args).addBoth(self._done)
        done.addCallbacks(outcome.callback, outcome.errback)
        return outcome

    def _done(self, result: Any) -> Any:
        self._waiting -= 1
        return result

    def stop(self) -> Deferred[None]:
        """See :class:`IPasswords`."""
        return self._threads.stop()


@implementer(IPasswords)
class PlainPasswords:
    """Hashes nothing. For tests and simulations, in which time stands still."""

    def hash(self, password: str) -> Deferred[str]:
        """See :class:`IPasswords`."""
        return succeed(f"plain {password}")

    def verify(self, stored: str, password: str) -> Deferred[bool]:
        """See :class:`IPasswords`."""
        return succeed(stored == f"plain {password}")

    def stop(self) -> Deferred[None]:
        """See :class:`IPasswords`."""
        return succeed(None)
