"""Contents as messages carry them, kept for the next that does: what is common to many is one object, made once."""

from __future__ import annotations

from attrs import define, field

from devconf.store.outbox import ContentKey, Known

#: Bytes that are kept; what was added first goes first.
KEPT = 16 * 1024 * 1024


@define
class Contents:
    """Storage configurations and large ``algo_comb``, each at its newest revision that is known."""

    _encoded: dict[str, tuple[int, bytes]] = field(factory=dict, init=False)
    _size: int = field(default=0, init=False)

    def __getitem__(self, content: ContentKey) -> bytes:
        rev, encoded = self._encoded[content[0]]
        if rev != content[1]:
            raise KeyError(content)
        return encoded

    def known(self) -> Known:
        """Return a copy of all that is kept, for another thread."""
        return dict(self._encoded)

    def add(self, content: ContentKey, encoded: bytes) -> None:
        """Keep ``encoded``, until :meth:`trim` at least."""
        self._remove(content[0])
        self._encoded[content[0]] = content[1], encoded
        self._size += len(encoded)

    def trim(self) -> None:
        """Keep no more than :data:`KEPT` bytes."""
        while self._size > KEPT:
            self._remove(next(iter(self._encoded)))

    def _remove(self, key: str) -> None:
        _, encoded = self._encoded.pop(key, (0, b""))
        self._size -= len(encoded)
