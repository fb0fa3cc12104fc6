"""``docs/embedding.md``: its programs and snippets, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from websockets.sync.client import connect

from devconf.config import Config
from devconf.service import DevconfService
from devconf.store.writer import InlineRunner
from devconf.testing import MemoryServer
from tests.howto import BIN, ROOT, Server, blocks, free_port

from kit_wire import eventually  # isort: skip  (tests.howto has it found)

DOCUMENT = ROOT / "docs" / "embedding.md"
PROGRAMS = {block.info.partition(" ")[2]: block.text for block in blocks(DOCUMENT) if block.info.startswith("python ")}

pytestmark = pytest.mark.timeout(120, method="signal")


def test_every_block_is_a_program_that_is_run() -> None:
    assert [block.info for block in blocks(DOCUMENT)] == [f"python {name}" for name in PROGRAMS]
    tested = Path(__file__).read_text("utf-8")
    assert [name for name in PROGRAMS if f'"{name}"' not in tested] == []


# -- programs


def written(name: str, folder: Path, port: int | None = None) -> Path:
    """A program of the document in a file; only port and folder are others."""
    code = PROGRAMS[name]
    if port is not None:
        assert code.count("tcp:8080:") == 1
        assert code.count("/var/lib/host/") == 1
        code = code.replace("tcp:8080:", f"tcp:{port}:").replace("/var/lib/host/", f"{folder}/")
    path = folder / name
    path.write_text(code, "utf-8")
    return path


@contextmanager
def twistd(name: str, folder: Path) -> Iterator[Server]:
    """A real ``twistd`` that runs a ``.tac`` of the document, and ends well."""
    assert "    twistd --nodaemon --python host.tac\n" in DOCUMENT.read_text("utf-8")
    server = Server(folder)  # for its folder, port and accounts; it is not started
    server.add_user("alice", "admin", "secret")
    command: list[str | Path] = [
        BIN / "twistd",
        "--nodaemon",
        "--pidfile=",
        "--python",
        written(name, folder, server.port),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield server
        process.terminate()
        # twistd stops everything, and then ends by the same signal.
        assert process.wait(40) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        told = (folder / "log").read_text("utf-8")
    assert "devconf.service.DevconfService#info] ready" in told
    assert "Server Shut Down." in told
    assert "Traceback" not in told


def is_up(server: Server, path: str) -> bool:
    with suppress(OSError):
        return server.http.request("GET", path).status == 200
    return False


def use(server: Server, where: str) -> Any:
    """Log in below ``where``, and ask for something on a socket."""
    account = {"user_type": "user", "user_name": "alice", "password": "secret"}
    tokens = server.http.request("POST", f"{where}/webapi/v1/login", account).json
    path = f"{where}/webapi/v1/devconf_fx/users/{tokens['user_unid']}/ws_url?type=devconf_fx"
    url = server.http.request("GET", path, atoken=tokens["atoken"]).json["ws_url"]
    with connect(url, proxy=None) as channel:
        channel.send('{"command": "post /wsapi/v1/devconf_fx/tasks", "params": {"name": "a", "task_type": "pic"}}')
        return json.loads(channel.recv(timeout=20))["ecode"]


def test_a_child_of_your_services(tmp_path: Path) -> None:
    with twistd("host.tac", tmp_path) as server:
        eventually(lambda: is_up(server, "/readyz"), "the service is ready")
        assert use(server, "") == 0


def test_in_a_site_that_you_have(tmp_path: Path) -> None:
    with twistd("site.tac", tmp_path) as server:
        eventually(lambda: is_up(server, "/devconf/readyz"), "the service is ready")
        assert server.http.request("GET", "/").body == b"the page of the host\n"
        assert use(server, "/devconf") == 0


def test_in_an_asyncio_program(tmp_path: Path) -> None:
    program = written("loop.py", tmp_path, free_port())
    command: list[str | Path] = [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    # On a busy machine asyncio says of each step how long it took.
    said = re.sub(r"^Executing <.*> took [0-9.]+ seconds\n", "", done.stderr, flags=re.MULTILINE)
    assert (done.returncode, done.stdout, said) == (0, "[]\n", "")


@pytest.mark.parametrize("name", ["test_gate.py", "test_program.py"])
def test_testing_your_program(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        tmp_path,
    ]
    done = subprocess.run([*command, path], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "1 passed" in done.stdout


# -- snippets


def snippet(name: str) -> Any:
    """The one function that a snippet defines."""
    defined: dict[str, Any] = {}
    exec(compile(PROGRAMS[name], name, "exec"), defined)
    [function] = [value for key, value in defined.items() if key != "__builtins__"]
    return function


def test_commands_in_your_own_code(server: MemoryServer) -> None:
    enrolled = Deferred.fromCoroutine(snippet("enrol.py")(server.service, ["one", "two"]))
    server.finish()
    keys = server.result(enrolled)
    assert [device["dev_refid"] for device in server.ask("get devices")["devices"]] == ["one", "two"]
    assert sorted(keys) == ["one", "two"]
    login = Deferred.fromCoroutine(server.service.auth.login_device("two", keys["two"], "127.0.0.1"))
    server.finish()
    assert "atoken" in server.result(login)
    failures: list[Failure] = []
    Deferred.fromCoroutine(snippet("enrol.py")(server.service, ["two"])).addErrback(failures.append)
    server.finish()
    with pytest.raises(RuntimeError, match="two: "):
        failures[0].raiseException()


def test_events(server: MemoryServer) -> None:
    told: list[str] = []
    snippet("watch.py")(server.service, told.append)
    device = server.enrol("gate-7")
    device.connect()
    device.lose()
    assert told == ["gate-7 enrolled", "gate-7 connected", "gate-7 disconnected"]


def test_starting_and_failing(server: MemoryServer) -> None:
    told: list[str] = []
    parent = MultiService()
    parent.startService()
    config = Config(listen=(), database=f"sqlite:///{server.path.with_name('other.sqlite')}")
    seams = evolve(server.service._seams, runner=InlineRunner(server.clock))
    service = DevconfService(server.clock, config, seams)
    snippet("start.py")(service, parent, told.append)
    server.finish()
    assert told == ["devconf is ready"]
    rival = DevconfService(server.clock, config, evolve(seams, runner=InlineRunner(server.clock)))
    snippet("start.py")(rival, parent, told.append)
    server.finish()
    assert len(told) == 2
    assert told[1].startswith("devconf failed: the database is in use by process ")
    parent.stopService()
    server.advance(60)
