"""A server process that can be killed, and started again on the same port with the same database."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from devconf.sandbox import USER, Folder, ServerProcess


class Process:
    """The process, once it is started.

    :ivar url: its address, and :ivar user: the name of its administrator, and :ivar password: the password of that.
    """

    user = USER

    def __init__(self, reactor: Any, folder: Path) -> None:
        self.reactor = reactor
        self._folder = Folder(folder)
        self._folder.prepare()
        self.password = self._folder.password
        # The port of a sandbox is one that others may be waiting for while this is stopped.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        settings = self._folder.config.read_text("utf-8")
        old, new = (url.rpartition(":")[2] for url in (self._folder.url, self.url))
        assert settings.count(f"tcp:{old}:") == 1
        self._folder.config.write_text(settings.replace(f"tcp:{old}:", f"tcp:{new}:"), "utf-8")
        self._folder.url = self.url

    async def start(self) -> None:
        self._server = ServerProcess(self.reactor, self._folder)
        await self._server.ready()

    async def kill(self) -> None:
        """End it as a power cut would."""
        self._server._process.signalProcess("KILL")
        await self._server.when_ended()

    async def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        await self._server.stop()

    async def end(self) -> None:
        """Stop it for good."""
        await self.stop()
        self._folder.close()
