"""The programs of the document in a folder, compiled once, and the servers that they are run against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred

from tests.clients.document import Language, cpp, javascript, needs_compiler, needs_node, programs, python
from tests.clients.host import Host
from tests.server_process import Process


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, as files."""
    folder = tmp_path_factory.mktemp("programs")
    for name, text in programs().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def compiled(folder: Path) -> Language:
    return cpp(folder)


@pytest.fixture(params=["python", pytest.param("node", marks=needs_node), pytest.param("cpp", marks=needs_compiler)])
def language(request: Any, folder: Path) -> Language:
    """Each of the languages that the document has a client and a device in."""
    if request.param == "cpp":
        compiled: Language = request.getfixturevalue("compiled")
        return compiled
    return {"python": python, "node": javascript}[request.param](folder)


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server process."""
    from twisted.internet import reactor

    process = Process(reactor, tmp_path_factory.mktemp("server"))
    pytest_twisted.blockon(Deferred.fromCoroutine(process.start()))
    yield process
    pytest_twisted.blockon(Deferred.fromCoroutine(process.end()))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A site of ours with devconf in it."""
    from twisted.internet import reactor

    host = Host(reactor, tmp_path)
    pytest_twisted.blockon(Deferred.fromCoroutine(host.start()))
    yield host
    pytest_twisted.blockon(Deferred.fromCoroutine(host.stop()))
