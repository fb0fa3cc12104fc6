"""Things by what people call them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from devconf.cli.session import Session
from devconf.cli.status import Failed

if TYPE_CHECKING:
    from devconf.client import Message

_ID = re.compile(r"[0-9a-f]{32}\Z")


async def device(session: Session, name: str) -> Message:
    """Return the device whose ``dev_unid`` or ``dev_refid`` is ``name``.

    :raises Failed: there is none.
    """
    if _ID.match(name):
        for found in await session.all("devices", {"dev_unid": name}):
            return found
    for found in await session.all("devices", {"text": name[:256]}):
        if found["dev_refid"] == name:
            return found
    raise Failed(f"there is no device {name!r}; 'devconf devices list' shows all that there are")


async def dev_unids(session: Session, names: Iterable[str]) -> list[str]:
    """Return the ``dev_unid`` of each device.

    :raises Failed: one is not there.
    """
    return [(await device(session, name))["dev_unid"] for name in names]


async def only(session: Session, resource: str, key: str, value: str, what: str) -> Message:
    """Return the one item of a list whose ``key`` is ``value``.

    :param what: what it is, for people.
    :raises Failed: there is none.
    """
    for found in await session.all(resource, {key: value}):
        return found
    raise Failed(f"there is no {what} {value!r}")
