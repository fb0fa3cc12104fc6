"""SIGKILL at random moments, while everything is being changed: what was told is there, and devices hold it.

`KILLS=500 pytest -s tests/blackbox/test_killed_under_load.py` kills more often, with `SEED=...` otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from kit import World
from kit_killing import Killing

SERVER: dict[str, Any] = {"device_timeout": 1.0, "limits": {"connections_per_address_before_login": 200}}
KILLS = int(os.environ.get("KILLS", "24"))
SEED = os.environ.get("SEED", "random")


@pytest.mark.timeout(120 + 20 * KILLS, method="signal")
def test_killed_at_random(world: World, tmp_path: Path) -> None:
    with Killing(world, tmp_path, SEED) as killing:
        for _ in range(KILLS):
            killing.kill_at_random()
        problems = killing.judge()
        print(killing.report())
        assert killing.counts["done"] > KILLS
    assert not problems, "\n".join(problems)
