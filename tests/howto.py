"""What the tests of ``docs`` and ``etc`` share: blocks of a document, placeholders, tools that it takes, a server."""

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
pytest.register_assert_rewrite(*({"kit_faults", "kit_server", "kit_wire"} - sys.modules.keys()))

from kit_server import BIN, Server, free_port  # noqa: E402

__all__ = [
    "BIN",
    "HOWTO",
    "ROOT",
    "Block",
    "Command",
    "Placeholders",
    "Server",
    "blocks",
    "commands",
    "free_port",
    "needs",
    "tool",
]

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


PLACEHOLDER = re.compile(r"<[a-z0-9 _-]+>")
VARIABLE = re.compile(rf"{PLACEHOLDER.pattern}|^\.\.\.$", re.MULTILINE)


class Placeholders:
    """What stands for a text that is another each time: ``<name>``, bound where it comes first, the same from then on.

    :ivar bound: what they stand for.
    :ivar elsewhere: texts of the document, such as addresses, and what is there instead in the test.
    :ivar compared: how often something was compared.
    """

    #: These are another each time that they stand in the same document: patterns of what they stand for.
    VARIES = {
        "<time>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
        "<log time>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}",
        "<date and time>": r"\d{8}T\d{6}Z",
        "<seconds>": r"\d+(\.\d+)?(e-\d+)?",
        "<size>": r"\d+",
        "...": r"(?s:.*)",
    }

    def __init__(self, bound: dict[str, str], elsewhere: dict[str, str]) -> None:
        self.bound = bound
        self.elsewhere = elsewhere
        self.compared = 0

    def filled(self, text: str) -> str:
        """``text`` with what its placeholders stand for."""
        text = PLACEHOLDER.sub(lambda match: self.bound[match.group()], text)
        for there, here in self.elsewhere.items():
            text = text.replace(there, here)
        return text

    def compare(self, expected: str, actual: str) -> None:
        """Compare, and bind the placeholders that are seen for the first time.

        Columns may be as wide as they like, and a line ``...`` stands for any number of lines.
        """
        expected, actual = _narrow(expected), _narrow(actual)
        for there, here in self.elsewhere.items():
            actual = actual.replace(here, there)
        new: list[str] = []
        pattern, at = "", 0
        for match in VARIABLE.finditer(expected):
            pattern += re.escape(expected[at : match.start()])
            at, name = match.end(), match.group()
            if name in self.VARIES:
                pattern += self.VARIES[name]
            elif name in self.bound:
                pattern += re.escape(self.bound[name])
            elif name in new:
                pattern += f"(?P=p{new.index(name)})"
            else:
                pattern += rf"(?P<p{len(new)}>[0-9a-f-]+)"
                new.append(name)
        found = re.fullmatch(pattern + re.escape(expected[at:]), actual)
        assert found, f"the document says\n{expected}\nbut it is\n{self.named(actual)}"
        for number, name in enumerate(new):
            assert found[f"p{number}"] not in self.bound.values(), f"{name} is the same as another one"
            self.bound[name] = found[f"p{number}"]
        self.compared += 1

    def named(self, text: str) -> str:
        """The opposite of :meth:`filled`, for messages of failure."""
        for name, actual in sorted(self.bound.items(), key=lambda item: -len(item[1])):
            text = text.replace(actual, name)
        return text


def _narrow(text: str) -> str:
    """``text`` without spaces at its lines' ends, and with two where there are more."""
    return re.sub(r" {2,}", "  ", re.sub(r" +$", "", text.strip(), flags=re.MULTILINE))
