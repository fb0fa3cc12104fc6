"""The order of the house (``docs/design.md``): who may import whom, and what only a process of our own may do.

Read from the source, so that an import within a function counts as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "devconf"

#: Lowest first. A module may import from its own floor and from those below it.
FLOORS = (
    {"errors", "model", "wire", "config", "clock", "failpoints", "threads"},
    {"events"},
    {"store"},
    {"auth", "passwords", "sessions"},
    {"sparing", "pacing", "pages", "websocket"},
    {"devices"},
    {"commands"},
    {"operators"},
    {"web"},
    {"service", "tap"},
)
#: What a client or a device in the field uses, of these and nothing else.
APART = {"client", "connection", "device", "device_journal", "dial", "hints", "lasting", "staying", "ways_in"}
FOUNDATION = {"errors", "wire", "clock"}
#: Programs, and what is for tests: they may import anything, and nothing of the server imports them.
PROGRAMS = {"cli", "simulator", "demo", "testing", "sandbox"}
#: Where a process of our own begins. The others are guests in someone's process.
OWN_PROCESS = {"tap", "cli", "demo"}

MAX_LINES = 400


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports(name: str) -> Iterator[tuple[str, str]]:
    """Each module or thing that ``name`` imports: where from, and what of it (nothing for ``import x``)."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def ours(name: str) -> set[str]:
    """The modules of devconf that ``name`` imports."""
    found = set()
    for module, thing in imports(name):
        if module == "devconf" or module.startswith("devconf."):
            whole = f"{module}.{thing}"
            found.add(whole if whole in MODULES else module)
    return found


def part(module: str) -> str:
    """The part of the house that ``module`` belongs to: ``store`` for ``devconf.store.tables``."""
    return module.partition(".")[2].partition(".")[0]


def test_every_module_has_its_place() -> None:
    placed = set().union(*FLOORS, APART, PROGRAMS)
    assert {part(name) for name in MODULES} - placed == {""}  # the package itself


def test_imports_point_downwards() -> None:
    height = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    wrong = []
    for name in MODULES:
        for imported in ours(name) - {"devconf"}:
            here, there = part(name), part(imported)
            if here in PROGRAMS:
                continue
            if here in APART:
                allowed = there in APART | FOUNDATION
            else:
                allowed = there in height and height[there] <= height.get(here, -1)
            if not allowed:
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_no_module_imports_itself_in_a_circle() -> None:
    circle: list[str] = []
    try:
        TopologicalSorter({name: ours(name) - {"devconf"} for name in MODULES}).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert circle == []


def test_no_module_is_long() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_the_reactor_is_passed_in() -> None:
    at_module_level, anywhere = [], []
    for name in MODULES:
        top = {alias for node in TREES[name].body if isinstance(node, ast.ImportFrom) for alias in node.names}
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet":
                for alias in node.names:
                    if alias.name == "reactor":
                        anywhere.append(name)
                        if alias in top:
                            at_module_level.append(name)
            elif isinstance(node, ast.Import):
                anywhere += [name for alias in node.names if alias.name == "twisted.internet.reactor"]
    assert at_module_level == []
    assert [name for name in anywhere if part(name) not in OWN_PROCESS] == []


def test_the_wall_clock_is_passed_in() -> None:
    """``datetime.now`` and its kin count as the wall clock too."""
    users = []
    for name in MODULES:
        reads = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(TREES[name])
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        reads |= {f"{module}.{thing}" for module, thing in imports(name)}
        wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
        if reads & wall:
            users.append(name)
    assert [name for name in users if part(name) not in OWN_PROCESS] == ["devconf.service"]


def test_the_service_has_the_wall_clock_as_a_default_and_nothing_else() -> None:
    """So that ``DevconfService(reactor, config)`` is all a host writes; tests and simulations pass another."""
    tree = TREES["devconf.service"]
    defaults = [node for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) for node in each.args.kw_defaults]
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.time"]
    assert len(reads) == 1
    assert reads[0] in defaults
    assert ("time", "time") not in imports("devconf.service")


GUEST = """
import gc, logging, signal, sys, threading
import twisted.logger, txaio
from twisted.logger import globalLogPublisher

def state():
    return {
        "reactor": sys.modules.get("twisted.internet.reactor"),
        "observers": list(globalLogPublisher._observers),
        "handlers": list(logging.getLogger().handlers),
        "level": logging.getLogger().level,
        "logger class": logging.getLoggerClass(),
        "txaio": (txaio.using_twisted, txaio.using_asyncio, txaio.get_global_log_level(), txaio.config.loop),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "streams": (sys.stdout, sys.stderr),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "threads": threading.enumerate(),
    }

# What a host that uses Autobahn itself has loaded already.
import txaio
txaio.use_twisted()
before = state()
assert before["reactor"] is None
import {module}
after = state()
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
"""


@pytest.mark.parametrize("module", ["service", "testing", "device", "tap"])
def test_importing_changes_nothing_of_the_host(module: str) -> None:
    program = GUEST.replace("{module}", f"devconf.{module}")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "")
