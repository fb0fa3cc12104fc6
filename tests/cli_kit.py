"""What the tests of the command line share: a server process, the command as its users run it, and devices."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from devconf.client import Client, connect
from devconf.device import Device, Order, Refuse
from tests.cli_loaded import Loaded

BIN = Path(sys.executable).parent
#: Seconds: the upper limit of anything that should happen.
PATIENCE = 60.0


@frozen
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def environ(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the user who runs the tests is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DEVCONF_", "_DEVCONF"))}
    return {**kept, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "COLUMNS": "200", **more}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Place:
    """A folder that ``devconf init`` has made, and the server process in it.

    :ivar credentials: what the environment of a command says who logs in: the administrator.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.credentials: dict[str, str] = {}
        self._loaded = Loaded()
        made = self.run("init", str(folder), "--port", str(self.port), "--json")
        assert (made.status, made.err) == (0, "")
        self.password = made.json["password"]
        config = folder / "devconf.toml"
        config.write_text(config.read_text("utf-8").replace("device_timeout = 10.0", "device_timeout = 1.0"), "utf-8")
        self.credentials = {"DEVCONF_URL": self.url, "DEVCONF_USER": "admin", "DEVCONF_PASSWORD": self.password}
        self._process: subprocess.Popen[bytes] | None = None

    def popen(self, *args: str | Path, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """The program, begun."""
        return subprocess.Popen(
            [BIN / "devconf", *args],
            cwd=self.folder,
            env=environ(self.folder, **(self.credentials if env is None else env)),
            stdin=subprocess.PIPE,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            text=True,
            encoding="utf-8",
            **options,
        )

    def run(self, *args: str | Path, text: str = "", env: dict[str, str] | None = None) -> Done:
        """The command, once it has ended."""
        known = environ(self.folder, **(self.credentials if env is None else env))
        status, out, err = self._loaded.run([str(arg) for arg in args], text, known, self.folder, PATIENCE)
        assert "Traceback" not in err, err
        return Done(status, out, err)

    async def devconf(self, *args: str | Path, text: str = "", env: dict[str, str] | None = None) -> Done:
        """The command, once it has ended; devices on the reactor of the tests answer meanwhile."""
        done: Done = await deferToThread(self.run, *args, text=text, env=env)
        return done

    def log_in(self, account: dict[str, str]) -> Any:
        """The answer to a login."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request("POST", "/webapi/v1/login", json.dumps(account))
            return json.load(connection.getresponse())

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        command: list[str | Path] = [BIN / "twistd", "--nodaemon", "--pidfile=", "devconf", "--config", "devconf.toml"]
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + PATIENCE
        while not self._ready():
            assert self._process.poll() is None, (self.folder / "server.log").read_text("utf-8")
            assert time.monotonic() < deadline, "the server is not ready"
            time.sleep(0.05)

    def _ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop the server; stopped already is fine."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(PATIENCE)

    def close(self) -> None:
        """Stop all of it."""
        self.stop()
        self._loaded.close()


async def both(one: Awaitable[Done], other: Awaitable[Done]) -> list[Done]:
    """Two commands at the same time."""
    done: list[Done] = await gatherResults([ensureDeferred(one), ensureDeferred(other)])  # type: ignore[arg-type]
    return done


@contextmanager
def serving(folder: Path) -> Iterator[Place]:
    """A place with a server that runs."""
    place = Place(folder)
    try:
        place.start()
        yield place
    finally:
        place.close()


class Box:
    """What a device does: takes orders, refuses them, or says nothing."""

    def __init__(self) -> None:
        self.refuses = False
        self.silent = False

    def add(self, order: Order) -> Any:
        return self._take(order)

    def modify(self, order: Order) -> Any:
        return self._take(order)

    def delete(self, order: Order) -> Any:
        return self._take(order)

    def _take(self, _order: Order) -> Any:
        if self.refuses:
            raise Refuse(7, "no room \x1b[31mhere")
        return Deferred() if self.silent else None

    def call(self, command: str, params: dict[str, Any]) -> Any:
        if self.refuses:
            raise Refuse(31, "slot 2 is empty")
        return {"heard": [command, params]}


@asynccontextmanager
async def operator(place: Place) -> AsyncIterator[Client]:
    """A connection of the administrator, without the command line."""
    from twisted.internet import reactor

    client = await connect(reactor, place.url, "admin", place.password)
    try:
        yield client
    finally:
        await client.log_out()


@asynccontextmanager
async def online(place: Place, dev_refid: str) -> AsyncIterator[tuple[Box, str]]:
    """A device that is enrolled and connected; its ``dev_unid``."""
    from twisted.internet import reactor

    async with operator(place) as client:
        enrolled = await client.request("post devices", {"dev_refid": dev_refid})
        box = Box()
        device = Device(reactor, place.url, dev_refid, enrolled["dev_key"], box, report=lambda _: None)
        device.start()
        try:
            while not (await client.request("get devices", {"text": dev_refid, "online": True}))["devices"]:
                await deferLater(reactor, 0.05)
            yield box, enrolled["dev_unid"]
        finally:
            await device.stop()
