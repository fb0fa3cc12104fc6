"""The HTTP side: the ways in (``docs/protocol.md`` §1), the upgrade to WebSocket, and the probes."""
