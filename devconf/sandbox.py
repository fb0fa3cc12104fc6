"""A server of one's own in a folder: configuration, account, and ``twistd devconf`` as a child process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import Agent

from devconf.cli.call import read_credentials
from devconf.client import Message
from devconf.clock import Random

#: The first of these that is free is listened on, on 127.0.0.1.
PORTS = range(8080, 8180)
USER = "admin"

#: Seconds until the server is ready.
READY_WITHIN = 60.0


class SandboxFailed(Exception):
    """It does not work; the text is one line that says why."""


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read; it is there whole, or as it was."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def take_port() -> tuple[int, socket.socket]:
    """Return a free port of :data:`PORTS`, and what keeps other sandboxes away from it as long as it is open.

    :raises SandboxFailed: there is none.
    """
    for port in PORTS:
        mine = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe, contextlib.suppress(OSError):
            mine.bind(f"\0devconf sandbox {port}")
            # As Twisted does: a port whose last connections are still fading counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port, mine
        mine.close()
    raise SandboxFailed(f"no port from {PORTS[0]} to {PORTS[-1]} is free on 127.0.0.1")


class Folder:
    """What is kept from one run to the next.

    :ivar config: the server's configuration, :ivar database: its database, and :ivar log: what it logs.
    :ivar credentials: address, name and password, for ``devconf call --credentials``.
    :ivar url: the server's address, and :ivar password: the administrator's, once it is prepared.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self.config = self._path / "devconf.toml"
        self.database = self._path / "devconf.sqlite"
        self.log = self._path / "twistd.log"
        self.credentials = self._path / "credentials"
        self._devices = self._path / "devices.json"
        self.url = ""
        self.password = ""
        self._lock: TextIO | None = None
        self._port_taken: socket.socket | None = None

    def prepare(self) -> None:
        """Make configuration, account and credentials, or find those of an earlier run.

        Until :meth:`close`, nobody else can do this in the same folder.

        :raises SandboxFailed: that is not possible.
        :raises OSError: a file cannot be written.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = open(self._path / "lock", "a", encoding="utf-8")  # noqa: SIM115 (held until it is closed)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SandboxFailed(
                f"{self._path} is in use by another process; stop that, or name another folder"
            ) from None
        port, self._port_taken = take_port()
        self.url = f"http://127.0.0.1:{port}"
        # TOML writes these as JSON does.
        settings = {"listen": [f"tcp:{port}:interface=127.0.0.1"], "database": f"sqlite:///{self.database}"}
        write_private(self.config, "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        if not self.database.exists():
            # To have removed it is to begin anew here; a server would refuse to.
            for name in (".lock", "-wal", "-shm"):
                Path(f"{self.database}{name}").unlink(missing_ok=True)
        if self.credentials.exists() and self.database.exists():
            self.password = read_credentials(self.credentials).get("DEVCONF_PASSWORD", "")
        else:
            self._make_account()
        lines = {"DEVCONF_URL": self.url, "DEVCONF_USER": USER, "DEVCONF_PASSWORD": self.password}
        write_private(self.credentials, "".join(f"{name}={value}\n" for name, value in lines.items()))

    def close(self) -> None:
        """Let others have the folder and its port."""
        for held in (self._lock, self._port_taken):
            if held is not None:
                held.close()

    def _make_account(self) -> None:
        self.password = Random().secret()[:20]
        done = self._devconf("user", "add", USER, "--role", "admin")
        if done.returncode != 0 and self._devconf("user", "passwd", USER).returncode != 0:
            raise SandboxFailed(f"the account {USER} cannot be made: {last_line(done.stderr) or done.returncode}")

    def _devconf(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from devconf.cli import main; main()", "--config", str(self.config), *args]
        return subprocess.run(
            [*command, "--password-stdin"], input=self.password + "\n", capture_output=True, text=True, check=False
        )

    def keys(self) -> dict[str, Message]:
        """Return the ``dev_unid`` and ``dev_key`` of the devices of earlier runs, by ``dev_refid``."""
        if not self._devices.exists():
            return {}
        found: dict[str, Message] = json.loads(self._devices.read_text("utf-8"))
        return found

    def keep_keys(self, keys: dict[str, Message]) -> None:
        """Keep what :meth:`keys` returns."""
        write_private(self._devices, json.dumps(keys, indent=2) + "\n")


def last_line(text: str) -> str:
    """Return the last line of ``text``, or nothing."""
    return "".join(text.strip().splitlines()[-1:])


class ServerProcess(ProcessProtocol):
    """``twistd devconf`` as a child process, started at once.

    :ivar running: it has not ended.
    """

    def __init__(self, reactor: Any, folder: Folder) -> None:
        self._reactor = reactor
        self._folder = folder
        self.running = True
        self._why = ""
        self._observers: list[Deferred[str]] = []
        # A process group of its own: Ctrl-C is for us, who then stop it.
        script = "import os; os.setpgrp(); from twisted.scripts.twistd import run; run()"
        options = ["--nodaemon", "--pidfile=", "devconf", "--config", str(folder.config)]
        with folder.log.open("ab") as log, open(os.devnull, "rb") as nothing:
            self._process = reactor.spawnProcess(
                self,
                sys.executable,
                [sys.executable, "-c", script, *options],
                env=None,
                childFDs={0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()},
            )

    def processEnded(self, reason: Failure) -> None:
        """See ``IProcessProtocol``."""
        self.running = False
        ending: Any = reason.value
        # By us, or by somebody who wanted it so: no failure.
        if not isinstance(ending, ProcessTerminated) or ending.signal not in (signal.SIGINT, signal.SIGTERM):
            said = last_line(self._folder.log.read_text("utf-8", "replace"))
            self._why = f"the server has ended; see {self._folder.log}: {said}"
        while self._observers:
            self._observers.pop().callback(self._why)

    def when_ended(self) -> Deferred[str]:
        """Wait for its end.

        :returns: fires with why it ended by itself, as one line; empty if it was stopped.
        """
        if not self.running:
            return succeed(self._why)
        observer: Deferred[str] = Deferred()
        self._observers.append(observer)
        return observer

    async def ready(self) -> None:
        """Wait until it takes commands.

        :raises SandboxFailed: it does not.
        """
        agent = Agent(self._reactor, connectTimeout=1.0)
        until = self._reactor.seconds() + READY_WITHIN
        while self._reactor.seconds() < until:
            if not self.running:
                raise SandboxFailed(self._why or "the server was stopped")
            # It does not listen yet. All else fails: above all what comes of being cancelled.
            with contextlib.suppress(ConnectError):
                response: Any = await agent.request(b"GET", f"{self._folder.url}/readyz".encode())
                if response.code == 200:
                    return
            await deferLater(self._reactor, 0.1)
        raise SandboxFailed(f"the server was not ready within {READY_WITHIN:g} s; see {self._folder.log}")

    async def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        if self.running:
            self._process.signalProcess("TERM")
            await self.when_ended()
