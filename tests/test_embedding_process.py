"""A guest in the process of a host: any reactor, nothing touched, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "devconf"

#: Modules in which a process of our own begins.
OWN_PROCESS = ("tap", "cli", "demo", "simulator")

pytestmark = pytest.mark.timeout(150, method="signal")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.embedded", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> Any:
    """What a process that ends says."""
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, ""), (process.returncode, out, err)
    return json.loads(out.splitlines()[-1])


def use(name: str, folder: Path) -> Any:
    """Let a host with the reactor ``name`` hold a service, and use it; what is different in the host's process."""
    host = start("host", name, folder)
    try:
        assert host.stdout is not None
        # A host that says nothing is ended, and then has said nothing.
        watchdog = threading.Timer(100, host.kill)
        watchdog.start()
        line = host.stdout.readline()
        watchdog.cancel()
        assert line, host.communicate()
        address = json.loads(line)
        used = told(start("peer", address["url"], address["key"]))
        assert used == {"states": ["confirmed"], "rev": 1}
        (folder / "stop").touch()
        return told(host)
    finally:
        host.kill()
        host.communicate()


@pytest.mark.parametrize("reactor", ["default", "epoll", "select", "poll", "asyncio", "second"])
def test_a_host_with_any_reactor_is_left_as_it_was(reactor: str, tmp_path: Path) -> None:
    assert use(reactor, tmp_path) == {}


def test_no_module_chooses_the_reactor() -> None:
    """Each is imported in turn, and none but those of our own processes may have one installed."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in OWN_PROCESS
        and path.parent.name != "migrations"  # Alembic's, run where there is a database
    ]
    assert "devconf.service" in modules
    assert len(modules) > 50
    program = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    assert "twisted.internet.reactor" not in sys.modules, module
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
