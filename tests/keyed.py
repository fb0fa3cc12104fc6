"""What the tests of idempotency keys share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from devconf.store.tables import idempotency
from devconf.testing import MemoryDevice, MemoryServer


def kept(server: MemoryServer) -> int:
    """How many keys are stored."""
    count = server.service.store.run(
        lambda connection: connection.execute(select(func.count()).select_from(idempotency)).scalar()
    )
    server.finish()
    assert isinstance(count.result, int)
    return count.result


def gate(device: MemoryDevice, name: str = "gate") -> dict[str, Any]:
    return {"name": name, "task_type": "pic", "dev_unids": [device.dev_unid]}
