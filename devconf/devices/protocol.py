"""The WebSocket protocol of devices: bytes to messages and back, nothing else (``docs/protocol.md`` §6)."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

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
