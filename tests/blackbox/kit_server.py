"""The server as its users run it: `twistd devconf` in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kit_faults import Faults
from kit_wire import PATIENCE, Http, eventually

BIN = Path(sys.executable).parent
PASSWORDS = {"admin": "adm-3c1f77Qe", "operator": "opr-91bb0aZx", "viewer": "vwr-d2e84bTy"}

# Tables that a request may change without changing what is configured: who is logged in, what was asked.
PASSING = ("*token*", "*ticket*", "*credential*", "*session*", "*login*", "*command*", "*history*")

Dump = dict[str, list[str]]

_with_users: list[bytes] = []  # a database with the standing users, once it was made


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server process; stopped, killed and started again it keeps its port and its database."""

    def __init__(
        self,
        folder: Path,
        *,
        device_timeout: float = 1.5,
        limits: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        listen: Sequence[str] = (),
        faults: bool = False,
    ) -> None:
        self.folder = folder
        self.database = folder / "devconf.sqlite"
        self.config = folder / "devconf.toml"
        self.log_file = folder / "server.log"
        self.port = free_port()
        self.returncode: int | None = None
        self.environment: dict[str, str] = {}  # what it is started with besides ours
        self.prefix: list[str] = []  # a program that starts it
        self._listen = listen  # further endpoints
        self._settings = {"device_timeout": device_timeout, **(options or {})}
        self._limits = dict(limits or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._faults = Faults(folder, self.database) if faults else None
        self._write_config()

    @property
    def faults(self) -> Faults:
        """Of a server that was made with `faults`: what its disk and its clocks do."""
        assert self._faults is not None
        return self._faults

    def _write_config(self) -> None:
        settings = {
            "listen": [f"tcp:{self.port}:interface=127.0.0.1", *self._listen],
            "database": f"sqlite:///{self.database}",
            **self._settings,
        }
        # For text, numbers, booleans and lists of them TOML is written like JSON.
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        if self._limits:
            lines += ["[limits]", *(f"{key} = {json.dumps(value)}" for key, value in self._limits.items())]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def further_ports(self) -> list[int]:
        """Those of the further endpoints, which the system may have chosen."""
        ports = re.findall(r" starting on (\d+)$", self.log(), re.MULTILINE)
        return [int(port) for port in ports[-len(self._listen) :]]

    @property
    def http(self) -> Http:
        return Http(self.port)

    def add_user(self, name: str, role: str, password: str) -> None:
        """Make an account with the command line tool; before the server runs."""
        assert (BIN / "devconf").exists(), f"devconf is not installed in {BIN}: pip install -e ."
        command: list[str | Path] = [BIN / "devconf", "--config", self.config, "user", "add", name, "--role", role]
        done = subprocess.run(
            [*command, "--password-stdin"],
            input=password + "\n",
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"

    def add_standing_users(self) -> None:
        """Make the accounts of `PASSWORDS`: by the command line tool once, and then as a copy of what that made."""
        if not _with_users:
            for role, password in PASSWORDS.items():
                self.add_user(role, role, password)
            _with_users.append(self.database.read_bytes())
        self.database.touch(0o600)
        self.database.write_bytes(_with_users[0])

    def start(self, *, may_move: bool = False) -> None:
        """Start and wait until it is ready; with `may_move` once more on another port if it does not."""
        try:
            self._start()
        except AssertionError:
            if not may_move:
                raise
            self.port = free_port()
            self._write_config()
            self._start()

    def _start(self) -> None:
        command: list[str | Path] = [
            *self.prefix,
            BIN / "twistd",
            "--nodaemon",
            "--pidfile=",
            "devconf",
            "--config",
            self.config,
        ]
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **self.environment}
        env |= self._faults.environment if self._faults else {}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            eventually(self._ready, "the server is ready", 60)
        except AssertionError as late:
            self.kill()
            raise AssertionError(f"{late}\n{self.log()}") from late

    def _ready(self) -> bool:
        assert self.alive, f"the server ended with {self.returncode}"
        with suppress(OSError):
            return self.http.request("GET", "/readyz").status == 200
        return False

    @property
    def alive(self) -> bool:
        if self._process is None:
            return False
        self.returncode = self._process.poll()
        return self.returncode is None

    def stop(self) -> int | None:
        """Ask it to stop and wait until it has; its exit status."""
        return self._end(kill=False)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(kill=True)

    def _end(self, *, kill: bool) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return self.returncode
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            self.returncode = process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired as late:
            process.kill()
            process.wait()
            raise AssertionError(f"the server does not stop\n{self.log()}") from late
        return self.returncode

    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def dump(self, leave_out: tuple[str, ...] = PASSING) -> Dump:
        """Every row of every table, for comparing; without the tables whose names fit a pattern."""
        uri = f"{self.database.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)) as database:
            database.execute("BEGIN")  # one snapshot of all tables
            listed = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            names = [name for (name,) in listed if not any(fnmatch(name, out) for out in leave_out)]
            assert names, "nothing is compared: every table is left out"
            return {name: sorted(repr(row) for row in database.execute(f'SELECT * FROM "{name}"')) for name in names}

    @contextmanager
    def unchanged(self, leave_out: tuple[str, ...] = PASSING) -> Iterator[None]:
        """What is stored is the same after the block as before it."""
        before = self.steady(leave_out)
        yield
        assert self.dump(leave_out) == before

    def steady(self, leave_out: tuple[str, ...] = PASSING) -> Dump:
        """A dump, once two of them in a row are the same: no acknowledgement is still being written."""
        last = self.dump(leave_out)
        deadline = time.monotonic() + PATIENCE
        while True:
            # What has begun is written before a later question is answered; what follows from that, before the next.
            for _ in range(3):
                self.http.request("POST", "/webapi/v1/token", {"rtoken": "nobody's"})
            this = self.dump(leave_out)
            if this == last:
                return this
            assert time.monotonic() < deadline, "the database never comes to rest"
            last = this
