"""A process that has loaded the command line already, and runs each command in a fresh child of it.

Loading takes longer than most commands. What runs is the program all the same, in a process where nothing ran before;
how it is loaded is seen by the tests that start it as a program.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO


class Loaded:
    """The process; it ends with :meth:`close`."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.cli_loaded", str(theirs.fileno())]
            folder = Path(__file__).parent.parent
            self._process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )

    def run(
        self, args: list[str], text: str, env: dict[str, str], folder: Path, patience: float
    ) -> tuple[int, str, str]:
        """Run ``devconf`` with these arguments; its status, and what it wrote on its two outputs.

        :param patience: seconds.
        """
        asked = json.dumps({"args": args, "env": env, "folder": str(folder)}).encode()
        ended, tell = socket.socketpair()
        given, out, err = (tempfile.TemporaryFile() for _ in range(3))  # noqa: SIM115 (closed in the next line)
        with ended, tell, given, out, err:
            given.write(text.encode())
            given.seek(0)
            socket.send_fds(self._ours, [asked], [given.fileno(), out.fileno(), err.fileno(), tell.fileno()])
            tell.close()
            ended.settimeout(patience)
            status = ended.recv(16)
            assert status, f"devconf {args} was never run"
            return int(status), _content(out), _content(err)

    def close(self) -> None:
        """End it."""
        self._ours.close()
        self._process.wait()


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _serve(control: socket.socket) -> None:
    """Run what is asked for, each in a child, until nobody asks any more. Returns in that child, too."""
    import devconf.client
    import devconf.config
    import devconf.store.accounts
    import devconf.store.migrations  # noqa: F401
    from devconf.cli import main

    assert "twisted.internet.reactor" not in sys.modules, "each command has to have a reactor of its own"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for a command
    while True:
        message, files, _, _ = socket.recv_fds(control, 2**20, 4)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            asked = json.loads(message)
            if (child := os.fork()) == 0:
                for number, file in enumerate(files[:3]):
                    os.dup2(file, number)
                for file in files:
                    os.close(file)
                os.environ.clear()
                os.environ.update(asked["env"])
                os.chdir(asked["folder"])
                main(asked["args"])
            _, status = os.waitpid(child, 0)
            os.write(files[3], str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        for file in files:
            os.close(file)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _serve(socket.socket(fileno=int(sys.argv[1])))
