"""``docs/howto/systemd.md`` and ``etc/devconf.service``: the unit is sound, and the steps lead to a running server.

The steps run in folders of their own. What installs, makes users, or asks systemd and the journal is left out, except
that ``systemctl`` starts and stops what the unit says.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from devconf.service import DRAIN_WITHIN, STOP_WITHIN
from tests.howto import BIN, HOWTO, ROOT, Command, blocks, commands, free_port, needs, tool

UNIT = ROOT / "etc" / "devconf.service"
DOCUMENT = HOWTO / "systemd.md"
PATIENCE = 60

# These wait for processes in the main thread, where only a signal ends them.
pytestmark = pytest.mark.timeout(180, method="signal")


def settings(text: str) -> dict[str, str]:
    """The settings of a unit; of one that is repeated, all."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found[name] = f"{found[name]} {value}" if name in found else value
    return found


# -- the unit


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the ``twistd`` that is installed here."""
    path = tmp_path / "devconf.service"
    path.write_text(UNIT.read_text("utf-8").replace("/opt/devconf/venv/bin", str(BIN)), "utf-8")
    return path


def analyze(*arguments: str | Path) -> tuple[int, str]:
    """The status of ``systemd-analyze``, and its complaints: it tells of an unknown key and yet ends with 0."""
    done = subprocess.run(
        [tool("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return done.returncode, done.stderr


@needs("systemd-analyze")
def test_systemd_takes_the_unit(unit: Path) -> None:
    assert analyze("verify", "--man=no", unit) == (0, "")


@needs("systemd-analyze")
def test_a_unit_that_is_wrong_is_told(unit: Path) -> None:
    unit.write_text(unit.read_text("utf-8").replace("ProtectSystem=", "ProtectSystems="), "utf-8")
    assert "Unknown key 'ProtectSystems'" in analyze("verify", "--man=no", unit)[1]


@needs("systemd-analyze")
@pytest.mark.parametrize("change", [block.text for block in blocks(DOCUMENT) if block.info == "ini"])
def test_systemd_takes_the_changes_of_the_document(unit: Path, change: str) -> None:
    folder = unit.with_name("devconf.service.d")
    folder.mkdir()
    (folder / "override.conf").write_text(change, "utf-8")
    assert analyze("verify", "--man=no", unit) == (0, "")


@needs("systemd-analyze")
def test_the_unit_is_hardened(unit: Path) -> None:
    """Systemd's own count of what is left open, 0 to 100."""
    status, complaint = analyze("security", "--offline=true", "--threshold=20", "--no-pager", unit)
    assert (status, complaint) == (0, "")


def test_the_unit_gives_the_server_what_it_needs() -> None:
    unit = settings(UNIT.read_text("utf-8"))
    assert int(unit["LimitNOFILE"]) > 100_000
    # It waits for commands, for those that were told to end, and for connections.
    assert float(unit["TimeoutStopSec"]) > 2 * (DRAIN_WITHIN + 2 * STOP_WITHIN)
    assert unit["StateDirectory"] == "devconf"


# -- the steps of the document

#: Not done here: it takes a network, other users, or a running systemd.
LEFT_OUT = ("python3 -m venv ", "/opt/devconf/venv/bin/pip ", "useradd ", "journalctl ", "systemctl daemon-reload")

# What systemd does for MemoryDenyWriteExecute=yes, where the kernel can (PR_SET_MDWE, from 6.3 on).
DENIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"

PASSWORD = "correct horse"


class Machine:
    """The folders that the document names, in a folder of our own, and the service that runs there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.service: subprocess.Popen[bytes] | None = None
        self.log = root / "log"
        self.status = 0
        for folder in ("etc/systemd/system", "var/lib"):
            (root / folder).mkdir(parents=True)

    def here(self, text: str) -> str:
        """``text`` with what is elsewhere here."""
        text = text.replace("/opt/devconf/venv/bin", str(BIN))
        text = re.sub(r"/(etc/devconf|etc/systemd|var/lib)\b", rf"{self.root}/\1", text)
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}").replace("tcp:8080", f"tcp:{self.port}")
        return text.replace("-o devconf -g devconf ", "").replace("runuser -u devconf -- ", "")

    def follow(self, command: Command) -> None:
        """Do what a line of the document says; what it prints is what stands there."""
        if command.line.startswith(LEFT_OUT):
            return
        match shlex.split(command.line):
            case ["systemctl", "enable", "--now", "devconf"] | ["systemctl", "start", "devconf"]:
                self.start()
            case ["systemctl", "stop", "devconf"]:
                self.stop()
            case _:
                assert self.run(command.line) == command.output

    def run(self, line: str) -> str:
        if " user add " in line:  # the password is asked for, which takes a terminal
            line += " --password-stdin"
        done = subprocess.run(
            ["bash", "-c", self.here(line)],
            input=PASSWORD + "\n",
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), line
        return done.stdout

    def configure(self, text: str) -> None:
        """Put the keys of ``text`` into the configuration."""
        path = self.root / "etc/devconf/devconf.toml"
        lines = path.read_text("utf-8")
        for line in self.here(text).splitlines():
            key = line.partition(" = ")[0]
            lines, count = re.subn(rf"^{key} = .*$", line.replace("\\", r"\\"), lines, flags=re.MULTILINE)
            assert count == 1
        path.write_text(lines, "utf-8")

    def start(self) -> None:
        unit = settings(self.here((self.root / "etc/systemd/system/devconf.service").read_text("utf-8")))
        command = shlex.split(unit["ExecStart"])
        if unit["MemoryDenyWriteExecute"] == "yes":
            command = [sys.executable, "-c", DENIED, *command]
        folder = unit["WorkingDirectory"].replace("%S", str(self.root / "var/lib"))
        with self.log.open("ab") as log:
            self.service = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.run("curl --silent --fail --retry 60 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/readyz")

    def stop(self) -> None:
        assert self.service is not None
        unit = settings(UNIT.read_text("utf-8"))
        self.service.send_signal(signal.Signals[unit["KillSignal"]])
        self.status = self.service.wait(float(unit["TimeoutStopSec"]))
        self.service = None


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    if machine.service is not None:
        with suppress(OSError):
            machine.service.kill()
        machine.service.wait()


@needs("curl")
def test_the_steps_lead_to_a_server_that_runs(machine: Machine) -> None:
    for block in blocks(DOCUMENT):
        if block.info == "toml":
            machine.configure(block.text)
        elif block.info == "console":
            for command in commands(block):
                machine.follow(command)

    body = json.dumps({"user_type": "user", "user_name": "alice", "password": PASSWORD})
    answer = json.loads(machine.run(f"curl --silent --data '{body}' http://127.0.0.1:8080/webapi/v1/login"))
    assert (answer["ecode"], answer["enote"]) == (0, "ok")
    assert [path.name for path in (machine.root / "var/lib").iterdir()] == ["devconf"]
    machine.stop()
    # Ended by the signal, which systemd takes for a success.
    assert machine.status == -signal.SIGTERM
    log = machine.log.read_text("utf-8")
    assert "[devconf.service.DevconfService#info] ready" in log
    assert not re.search(r"#(warn|error|critical)|Traceback", log), log


def told(machine: Machine, wrong: str) -> str:
    """What a server says that is started with ``wrong`` in its configuration, and cannot start."""
    folder = machine.root / "etc/devconf"
    folder.mkdir()
    path = folder / "devconf.toml"
    path.write_text(f"{wrong}\ndatabase = 'sqlite:///{machine.root}/x.sqlite'\n", "utf-8")
    command = shlex.split(machine.here(settings(UNIT.read_text("utf-8"))["ExecStart"]))
    done = subprocess.run(command, cwd=machine.root, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1  # a failure, after which systemd tries again
    return (done.stdout + done.stderr).replace(f"{machine.root}/etc", "/etc").replace(str(machine.port), "8080")


def test_the_log_says_why_a_server_cannot_start(machine: Machine) -> None:
    (taken, wrong) = [block.text.strip() for block in blocks(DOCUMENT) if block.info == "text"]
    with socket.socket() as other:
        other.bind(("", machine.port))
        other.listen()
        assert f"{taken}\n" in told(machine, f"listen = ['tcp:{machine.port}']")
    (machine.root / "etc/devconf/devconf.toml").unlink()
    (machine.root / "etc/devconf").rmdir()
    assert told(machine, "device_timout = 5") == f"{wrong}\n"
