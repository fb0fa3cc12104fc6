"""SIGKILL at the failpoints, each several times, while everything is being changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit import World
from kit_killing import Killing

from devconf.failpoints import NAMES

SERVER: dict[str, Any] = {"device_timeout": 1.0, "limits": {"connections_per_address_before_login": 200}}
#: Together with those of `test_killed_under_load` more than fifty.
TIMES = 4


@pytest.mark.timeout(600, method="signal")
def test_killed_at_failpoints_under_load(world: World, tmp_path: Path) -> None:
    with Killing(world, tmp_path, "failpoints") as killing:
        failpoints = [name for name in NAMES for _ in range(TIMES)]
        killing.random.shuffle(failpoints)
        for failpoint in failpoints:
            killing.kill_at(failpoint)
        problems = killing.judge()
        print(killing.report())
    assert {f"server killed {name}": TIMES for name in NAMES}.items() <= killing.counts.items()
    assert not problems, "\n".join(problems)
