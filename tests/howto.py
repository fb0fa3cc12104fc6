"""What the tests of ``docs/howto`` and ``etc`` share: blocks of a document, tools that have to be there, a server."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parent.parent
HOWTO = ROOT / "docs" / "howto"

# The kit of the black-box tests, which may or may not have been loaded for those.
sys.path.append(str(Path(__file__).parent / "blackbox"))
pytest.register_assert_rewrite(*({"kit_clock", "kit_server", "kit_wire"} - sys.modules.keys()))

from kit_server import BIN, Server, free_port  # noqa: E402

__all__ = ["BIN", "HOWTO", "ROOT", "Block", "Command", "Server", "blocks", "commands", "free_port", "needs", "tool"]

# Some are where only an administrator's shell looks.
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"

PACKAGES = {"nginx": "nginx", "curl": "curl", "systemd-analyze": "systemd"}


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip the test if one of ``tools`` is not installed."""
    missing = [tool for tool in tools if shutil.which(tool, path=PATH) is None]
    packages = " ".join(PACKAGES[tool] for tool in missing)
    return pytest.mark.skipif(bool(missing), reason=f"{' '.join(missing)} missing: apt-get install {packages}")


def tool(name: str) -> str:
    """The path of a tool that :func:`needs` has found."""
    path = shutil.which(name, path=PATH)
    assert path is not None
    return path


@frozen
class Block:
    """A fenced block of a document.

    :ivar info: what stands after its fence.
    """

    info: str
    text: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document."""
    found = re.findall(r"^```([^\n`]*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(info, text) for info, text in found]


@frozen
class Command:
    """A command of a ``console`` block, and what it prints.

    :ivar line: without the prompt; lines that a backslash continues are one.
    """

    line: str
    output: str


def commands(block: Block) -> list[Command]:
    """The commands of a ``console`` block: each begins with ``$`` or ``#``."""
    assert block.info.split()[0] == "console"
    text = block.text.replace("\\\n", " ")
    parts = re.split(r"^[$#] ", text, flags=re.MULTILINE)
    assert parts[0] == "", f"output before the first command: {parts[0]!r}"
    pairs = (part.partition("\n") for part in parts[1:])
    return [Command(re.sub(r" +", " ", line).strip(), output) for line, _, output in pairs]
