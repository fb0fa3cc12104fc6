"""The programs of ``docs/clients.md``, as they stand there, and the tools that they need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import field, frozen

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "clients.md"

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: What a program is run with besides what it needs itself.
ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}

HEADERS = {"boost/beast.hpp": "libboost-dev", "nlohmann/json.hpp": "nlohmann-json3-dev"}


def blocks() -> list[tuple[str, str]]:
    """What stands after each fence, and the text of its block."""
    return FENCE.findall(DOCUMENT.read_text(encoding="utf-8"))


def programs() -> dict[str, str]:
    """The files of the document by their names: those whose fence has one."""
    return {info.split()[1]: text for info, text in blocks() if len(info.split()) == 2}


def commands() -> list[list[str]]:
    """The commands of the document, those of its consoles, word by word."""
    lines = [line for info, text in blocks() if info == "console" for line in text.splitlines()]
    return [line[2:].split() for line in lines if line.startswith("$ ")]


def node() -> list[str]:
    """How node is run; nothing if there is none that has a ``WebSocket``."""
    path = shutil.which("node")
    if path is None:
        return []
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(version.strip().removeprefix("v").partition(".")[0])
    # As the document says.
    return [] if major < 20 else [path] if major >= 22 else [path, "--experimental-websocket"]


needs_node = pytest.mark.skipif(not node(), reason="node 20 or later is missing: install nodejs")
needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is missing: apt-get install chromium"
)


def _compiler_lacks() -> str:
    """The packages that are missing to compile C++."""
    if shutil.which("g++") is None:
        return f"g++ {' '.join(HEADERS.values())}"
    return " ".join(package for header, package in HEADERS.items() if not Path("/usr/include", header).exists())


needs_compiler = pytest.mark.skipif(
    bool(_compiler_lacks()), reason=f"no C++ with Boost and JSON: apt-get install {_compiler_lacks()}"
)


@frozen
class Language:
    """How the programs of a language are run.

    :ivar client: the command that runs the client; its arguments follow, and so with :ivar device:.
    """

    name: str
    folder: Path
    client: list[str] = field()
    device: list[str] = field()


def python(folder: Path) -> Language:
    return Language("python", folder, [sys.executable, "client.py"], [sys.executable, "device.py"])


def javascript(folder: Path) -> Language:
    return Language("node", folder, [*node(), "client.mjs"], [*node(), "device.mjs"])


def cpp(folder: Path) -> Language:
    """Compile, with the commands of the document, but faster, and with every warning an error."""
    compile_, *links = [command for command in commands() if command[0] == "g++"]
    flags = [word for word in compile_ if not word.endswith(".cpp") and word != "-O2"]
    sources = [word for word in compile_ if word.endswith(".cpp")]
    running = [
        subprocess.Popen(
            [*flags, "-O0", "-Wall", "-Wextra", "-Werror", source],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for source in sources
    ]
    said = [
        (source, compiler.communicate()[0], compiler.returncode)
        for source, compiler in zip(sources, running, strict=True)
    ]
    assert said == [(source, "", 0) for source in sources]
    for link in links:
        subprocess.run(link, cwd=folder, check=True)
    return Language("cpp", folder, ["./client"], ["./device"])
