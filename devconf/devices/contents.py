"""Encoded storage configurations, kept for the next message that carries them: what is common is encoded once."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field

from devconf.store.outbox import ConfKey

#: Bytes that are kept; what was added first goes first.
KEPT = 16 * 1024 * 1024


@define
class Contents:
    """The contents by configuration and its rev."""

    _encoded: dict[ConfKey, bytes] = field(factory=dict, init=False)
    _size: int = field(default=0, init=False)

    def __contains__(self, conf: object) -> bool:
        return conf in self._encoded

    def __iter__(self) -> Iterator[ConfKey]:
        return iter(self._encoded)

    def __getitem__(self, conf: ConfKey) -> bytes:
        return self._encoded[conf]

    def add(self, conf: ConfKey, encoded: bytes) -> None:
        """Keep ``encoded``; at least what was added last stays, whatever its size."""
        self._size += len(encoded) - len(self._encoded.pop(conf, b""))
        self._encoded[conf] = encoded
        while self._size > KEPT and len(self._encoded) > 1:
            self._size -= len(self._encoded.pop(next(iter(self._encoded))))
