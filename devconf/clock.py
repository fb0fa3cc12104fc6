"""The seams for time and randomness: what tests and the simulation replace.

Waits and retries run on an ``IReactorTime`` that is monotonic; stamps and expiries use :class:`Now`; ids, tickets
and jitter come from :class:`Random`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random as SeededRandom

from attrs import frozen

#: Returns the wall clock as seconds since the epoch.
Now = Callable[[], float]


def stamp(seconds: float) -> str:
    """Return ``seconds`` since the epoch as the wire writes times: RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@frozen
class Random:
    """A source of ids, secrets and jitter.

    :ivar _bytes: returns that many random bytes, fit for secrets.
    :ivar _fraction: returns a float in [0, 1), for jitter only.
    """

    _bytes: Callable[[int], bytes] = secrets.token_bytes
    _fraction: Callable[[], float] = SeededRandom().random

    @classmethod
    def seeded(cls, seed: int) -> Random:
        """Return a source that is the same for the same ``seed``: for tests and simulations only."""
        source = SeededRandom(seed)
        return cls(source.randbytes, source.random)

    def identifier(self) -> str:
        """Return an id that is never used again: 128 random bits in hexadecimal (§ head of the protocol)."""
        return self._bytes(16).hex()

    def secret(self) -> str:
        """Return a key or token of 256 random bits in hexadecimal."""
        return self._bytes(32).hex()

    def jitter(self, seconds: float) -> float:
        """Return ``seconds`` made shorter by up to a half, so that peers do not act in step."""
        return seconds * (1.0 - 0.5 * self._fraction())
