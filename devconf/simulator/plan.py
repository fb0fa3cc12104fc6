"""Who misbehaves, in which way and when: it follows from the seed and the device's name, and from nothing else.

Neither time nor the order of events nor the other devices have a part in it: the same device of the same seed does the
same again, in a fleet of any size.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import Enum

from attrs import field, frozen


class Kind(Enum):
    """A way to behave; ``meaning`` says what such a device does while it misbehaves."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> Kind:
        """Make a member from its name on the command line and what it does."""
        member = object.__new__(cls)
        member._value_ = name
        member.meaning = meaning
        return member

    WELL = "well-behaved", "carries out what it is told"
    REFUSING = "refusing", "refuses every order"
    SILENT = "silent", "takes orders, or not, and answers none; then it starts anew"
    LATE = "late", "answers when nobody waits any longer"
    DOUBLE = "double", "answers twice"
    DROPPING = "dropping", "cuts the connection at once, and at every order"
    HALF_OPEN = "half-open", "neither reads nor sends; then it is back, and its old connection still stands"
    SLOW_READING = "slow-reading", "reads what it is sent very slowly"
    FORGETTING = "forgetting", "is re-imaged: it comes back with nothing"


#: All but the good one.
MISBEHAVING = tuple(kind for kind in Kind if kind is not Kind.WELL)

#: What a device may say when it refuses: codes of its own, one that the server knows, and one that looks like a crash.
_ECODES = (31, 77, 1004090005, 1005000001)
#: Bytes a second that a device reads that reads slowly.
_RATES = (512.0, 8192.0)


class WrongShares(ValueError):
    """The shares are not possible; the text is one line that says why."""


@frozen
class Manners:
    """How a fleet behaves.

    :ivar shares: how many of the devices are of each kind of :data:`MISBEHAVING`, from 0 to 1; together at most 1.
    :ivar latency: seconds that an order takes, on average over the devices.
    :ivar every: seconds from one misbehaviour of a device to its next, on average over the devices.
    :ivar late_by: seconds after which a late answer comes at the earliest; at the latest after twice as many.
    :raises WrongShares: there are more shares than devices.
    """

    shares: Mapping[Kind, float] = field(factory=dict)
    latency: float = 0.0
    every: float = 60.0
    late_by: float = 12.0

    def __attrs_post_init__(self) -> None:
        total = sum(self.shares.values())
        if total > 1 + 1e-9:
            raise WrongShares(f"the shares make {total:.0%} of the devices; they may make 100 % at most")


@frozen
class Plan:
    """What one device does. All times are in seconds, since the simulation began where nothing else is said.

    :ivar latency: that an order takes.
    :ivar first: when it misbehaves for the first time.
    :ivar period: from one misbehaviour to the next, and :ivar lasting: how long each lasts.
    :ivar takes: whether it carries out the orders that it does not answer (silent, dropping), or carries them out
        before it waits (late).
    :ivar ecode: with which it refuses.
    :ivar delay: by which its answers are late.
    :ivar linger: for which its old connection stays after it has come back (half-open).
    :ivar rate: bytes a second that it reads (slow-reading).
    :ivar seed: for whatever else is drawn in its life.
    """

    kind: Kind
    latency: float
    first: float
    period: float
    lasting: float
    takes: bool
    ecode: int
    delay: float
    linger: float
    rate: float
    seed: str

    def window(self, number: int) -> tuple[float, float]:
        """Return when its misbehaviour ``number``, from 0, begins and when it ends."""
        begin = self.first + number * self.period
        return begin, begin + self.lasting


def plan(seed: int, name: str, manners: Manners) -> Plan:
    """Return what the device ``name`` does.

    The draws are always the same, and in the same order: other shares change who misbehaves, but not when and how.
    """
    own = f"{seed}/{name}"
    draw = random.Random(own)  # of a text: the same in every process and version
    kind = _kind(draw.random(), manners.shares)
    latency = manners.latency * draw.uniform(0.5, 1.5)
    period = manners.every * draw.uniform(0.75, 1.25)
    return Plan(
        kind=kind,
        latency=latency,
        first=period * draw.random(),
        period=period,
        lasting=period * draw.uniform(0.25, 0.5),
        takes=draw.random() < 0.5,
        ecode=draw.choice(_ECODES),
        delay=manners.late_by * draw.uniform(1.0, 2.0),
        linger=period * draw.uniform(0.0, 0.2),
        rate=draw.uniform(*_RATES),
        seed=own,
    )


def _kind(place: float, shares: Mapping[Kind, float]) -> Kind:
    """Return the kind whose part of [0, 1) has ``place`` in it."""
    end = 0.0
    for kind in MISBEHAVING:
        end += shares.get(kind, 0.0)
        if place < end:
            return kind
    return Kind.WELL


def spread(share: float, shares: Mapping[Kind, float], among: tuple[Kind, ...] = MISBEHAVING) -> dict[Kind, float]:
    """Return ``shares`` with ``share`` of all devices added, evenly to all kinds ``among`` those that misbehave."""
    return {
        kind: shares.get(kind, 0.0) + (share / len(among) if kind in among else 0.0)
        for kind in MISBEHAVING
        if kind in among or kind in shares
    }
