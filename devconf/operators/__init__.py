"""The operators' side: the WebSocket protocol of clients."""
