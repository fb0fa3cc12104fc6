"""Runs of the simulation; README.md beside this file tells more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS = 200


def simulate(*arguments: str) -> tuple[int, str]:
    """Status and output of ``python -m tests.simulation``."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(1200)
def test_nothing_is_wrong_in_any_run() -> None:
    status, told = simulate("--seeds", str(SEEDS))
    assert status == 0, told
    assert f"{SEEDS} runs" in told


@pytest.mark.timeout(600)
def test_a_fault_is_found() -> None:
    status, told = simulate("--seed", "0", "--fault", "lock not released", "--no-shrink")
    assert status == 1
    assert "seed 0 breaks I4" in told
