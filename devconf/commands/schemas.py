"""Types that the params of several commands share (``docs/protocol.md`` §4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from devconf.errors import CommandFailed, Ecode

#: An id of ours; anything longer cannot be one.
Id = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=256)]
Limit = Annotated[int, Meta(ge=1, le=1000)]
#: Seconds that a command waits for devices that are offline when it comes.
ConnectWait = Annotated[float, Meta(ge=0, le=300)]
StateName = Literal["confirmed", "pending", "refused"]

T = TypeVar("T")


class Params(Struct, forbid_unknown_fields=True):
    """The params of a command. ``UNSET`` is absent; ``null`` is a wrong type unless a field says otherwise."""


class Page(Params):
    """The params of every list."""

    limit: Limit = 100
    after: str | UnsetType = UNSET


class Algo(Struct, forbid_unknown_fields=True):
    """An algorithm of an ``algo_comb``."""

    algo_id: Name
    enabled: bool = True
    params: dict[str, Any] = {}


AlgoComb = Annotated[list[Algo], Meta(min_length=1, max_length=1000)]


def optional(value: T | UnsetType) -> T | None:
    """Return ``value``, or None if it is absent."""
    return None if isinstance(value, UnsetType) else value


def plain_algos(algo_comb: list[Algo] | UnsetType) -> list[dict[str, Any]] | None:
    """Return an ``algo_comb`` as it is stored and sent, with its defaults written out.

    :raises CommandFailed: ``BAD_FIELD``: an ``algo_id`` occurs twice.
    """
    if isinstance(algo_comb, UnsetType):
        return None
    seen = set()
    for number, algo in enumerate(algo_comb):
        if algo.algo_id in seen:
            raise CommandFailed(
                Ecode.BAD_FIELD, f"$.params.algo_comb[{number}].algo_id {algo.algo_id!r} occurs a second time"
            )
        seen.add(algo.algo_id)
    plain: list[dict[str, Any]] = msgspec.to_builtins(algo_comb)
    return plain


def unique(values: list[str], path: str) -> list[str]:
    """Return ``values``.

    :raises CommandFailed: ``BAD_FIELD``: one occurs twice.
    """
    seen = set()
    for number, value in enumerate(values):
        if value in seen:
            raise CommandFailed(Ecode.BAD_FIELD, f"{path}[{number}] {value!r} occurs a second time")
        seen.add(value)
    return values
