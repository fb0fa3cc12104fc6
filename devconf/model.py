"""The things the service knows of, as plain values.

What devices should have is in :mod:`devconf.store.orders`; here is who asks, and what an order and its answer are.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple

from attrs import frozen

from devconf.errors import Ecode


class Role(IntEnum):
    """What an account may do (``docs/protocol.md`` §4); a higher one may do all that a lower one may.

    ``DEVICE`` is the lowest: it opens its own socket, ``register`` and ``ws_url``, nothing else.
    """

    DEVICE = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @classmethod
    def named(cls, name: str) -> Role:
        """Return the role of an operator's account by its name on the wire.

        :raises KeyError: there is none of that name.
        """
        role = cls[name.upper()]
        if role is cls.DEVICE or name != name.lower():
            raise KeyError(name)
        return role

    @property
    def title(self) -> str:
        """The role's name on the wire."""
        return self.name.lower()


@frozen
class Identity:
    """Who a connection or a request belongs to.

    :ivar unid: the ``user_unid``; of a device its ``dev_unid``.
    :ivar name: the ``user_name``, or the ``dev_refid`` of a device.
    :ivar family: the family of tokens it came with; logging out ends it.
    """

    unid: str
    name: str
    role: Role
    family: str = ""

    @property
    def user_type(self) -> str:
        """The ``user_type`` of §1: ``user`` or ``dev``."""
        return "dev" if self.role is Role.DEVICE else "user"


class OrderKey(NamedTuple):
    """One thing that one device should have: a task, or a subtask of it (``subtask_id`` empty: the task itself)."""

    dev_unid: str
    task_id: str
    subtask_id: str


class State(StrEnum):
    """How far a device is with a task or subtask (§4)."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    PENDING = "pending"


@frozen
class Answer:
    """How one order of a command ended, as its response and the history show it.

    :ivar ecode: confirmed 0, refused the device's own, pending ``OFFLINE`` or ``SILENT``.
    """

    state: State
    ecode: int
    enote: str


CONFIRMED = Answer(State.CONFIRMED, 0, "ok")
OFFLINE = Answer(State.PENDING, Ecode.OFFLINE, "the device is offline")
LOST = Answer(State.REFUSED, Ecode.LOST, "connection lost each time")
SILENT = Answer(State.PENDING, Ecode.SILENT, "the device did not answer in time")
