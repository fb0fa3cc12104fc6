"""The device side: connections, requests to devices, and the delivery of what they should have."""
