"""The WebSocket protocol of devices: bytes to messages and back, nothing else (``docs/protocol.md`` §6)."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from devconf import sessions
from devconf.config import Limits
from devconf.devices.hub import Hub
from devconf.devices.link import IDeviceTransport, Link
from devconf.model import Identity
from devconf.sessions import Sessions
from devconf.websocket import Peer, PeerFactory


@implementer(IDeviceTransport)
class DeviceProtocol(Peer):
    """One connection of a device, whose identity its ticket has told."""

    factory: DeviceFactory
    link: Link

    def __init__(self, identity: Identity, address: str) -> None:
        super().__init__()
        self.identity = identity
        self.address = address
        self.ended_here = False

    def close(self, code: int, reason: str) -> None:
        """See :class:`IDeviceTransport`."""
        # What it answers with may be its own fault, as a frame that breaks the protocol is.
        self.ended_here = self.ended_here or code != sessions.UNSUPPORTED
        super().close(code, reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``."""
        # It does not read, or was silent for too long.
        self.ended_here = self.ended_here or reason.check(ConnectionAborted) is not None
        super().connectionLost(reason)

    def opened(self) -> None:
        """See :class:`Peer`."""
        self.factory.sessions.add(self.identity, self.close)
        self.link = self.factory.hub.opened(self.identity, self.address, self)

    def received(self, payload: bytes) -> None:
        """See :class:`Peer`."""
        if not self.link.received(payload):
            self.useless()

    def drained(self) -> None:
        """See :class:`Peer`."""
        self.link.drained()

    def lost(self) -> None:
        """See :class:`Peer`."""
        self.factory.sessions.remove(self.identity, self.close)
        self.factory.hub.closed(self.link)


class DeviceFactory(PeerFactory):
    """Builds :class:`DeviceProtocol` for devices whose ticket has been redeemed."""

    def __init__(self, clock: IReactorTime, limits: Limits, hub: Hub, sessions: Sessions) -> None:
        super().__init__(clock, limits, limits.device_message_max)
        self.hub = hub
        self.sessions = sessions

    def build(self, identity: Identity, address: str) -> Any:
        """Return a protocol for a connection of ``identity`` from ``address``."""
        protocol = DeviceProtocol(identity, address)
        protocol.factory = self
        return protocol
