"""Follows documents that are read at terminals: ``docs/tutorial.md``, ``docs/howto/backup.md``.

In such a document a ``console`` block has commands with what they print, on either output. ``console boxes`` is another
terminal, called boxes, where its command goes on; ``text boxes>`` is what that prints later, in any order of lines.
After ``> Ctrl-C in boxes.`` its program has ended, and ``text boxes`` is all that it printed then. ``csv boxes.csv``,
or another word before the name of a file, is what the reader writes into that file.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

from tests.cli_kit import BIN, environ, free_port
from tests.cli_loaded import Loaded
from tests.howto import PLACEHOLDER, Block, Command, Placeholders, commands

#: Seconds: the upper limit of anything that should happen.
PATIENCE = 60.0

STEP = re.compile(
    r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$|^> (?P<event>[^\n]+)$",
    re.MULTILINE | re.DOTALL,
)
#: What only a shell understands.
SHELL = re.compile(r"[$|&;<>*\\]")


class Terminal:
    """A terminal in which one program goes on."""

    def __init__(self, line: str, folder: Path, env: dict[str, str], log: Path) -> None:
        self._log = log
        self._told = 0
        with open(log, "wb") as out:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def told(self, last: str) -> str:
        """What the program has printed since this was asked, once a line with ``last`` is there.

        :param last: a pattern.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            over = self.over
            text = self._rest()
            if text.endswith("\n") and re.search(last, text):
                self._told += len(text)
                return text
            assert not over, f"it ended, and printed {text}"
            assert time.monotonic() < deadline, f"it printed only {text}"
            time.sleep(0.02)

    @property
    def over(self) -> bool:
        """Whether the program has ended."""
        return self._process.poll() is not None

    def end(self, number: signal.Signals) -> str:
        """End the program; what it has printed since it was asked last."""
        self._process.send_signal(number)
        self._process.wait(PATIENCE)
        return self._rest()

    def kill(self) -> None:
        """End the program, whatever it does."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _rest(self) -> str:
        return self._log.read_text("utf-8")[self._told :]


class Desk(Placeholders):
    """Does what a document says, in a folder of its own, and compares.

    What the document calls ``/home/you/devconf`` is that folder, and port 8080 another.
    """

    #: Commands that are not run, for what they do is done.
    LEFT_OUT = ("python3 -m venv ", "venv/bin/pip ", ". venv/bin/activate")

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder / "devconf"
        self.folder.mkdir()
        super().__init__({}, {"127.0.0.1:8080": f"127.0.0.1:{self.port}", "/home/you/devconf": str(self.folder)})
        self.env = environ(folder, PATH=f"{BIN}:{os.environ['PATH']}")
        self.terminals: dict[str, Terminal] = {}
        self.ran: list[str] = []
        self.last_words: dict[str, str] = {}
        self._loaded = Loaded()

    def follow(self, document: str) -> None:
        """Do all of it."""
        for step in STEP.finditer(document):
            block = Block(step["info"] or "", step["text"] or "")
            kind, _, name = block.info.partition(" ")
            if step["event"]:
                self._happen(step["event"])
            elif kind == "console" and name:
                (command,) = commands(block)
                self.begin(name, command)
            elif kind == "console":
                for command in commands(block):
                    self.enter(command)
            elif kind == "text" and name in self.last_words:
                self.compare(block.text, self.last_words.pop(name))
            elif kind == "text" and name.endswith(">"):
                self._compare_lines(block.text, self.terminals[name[:-1]])
            elif name:
                (self.folder / name).write_text(block.text, "utf-8")

    def enter(self, command: Command) -> None:
        """Run a command to its end: 0, unless the document says that it complains."""
        if command.line.startswith(self.LEFT_OUT):
            assert not command.output
            return
        line = self.filled(command.line)
        status, told = self._devconf(line) if self._is_simple(line) else self._shell(line)
        assert (status != 0) == command.output.startswith("devconf: "), f"{command.line}: {status}, {told}"
        self.compare(command.output, told)
        self.ran.append(command.line)
        if line.startswith("devconf init "):
            self._move(self.folder / line.split()[2])

    def _is_simple(self, line: str) -> bool:
        return line.startswith("devconf ") and not SHELL.search(line)

    def _devconf(self, line: str) -> tuple[int, str]:
        args = shlex.split(line)[1:]
        status, out, err = self._loaded.run(args, "", self.env, self.folder, PATIENCE)
        return status, out + err

    def _shell(self, line: str) -> tuple[int, str]:
        """Run a line in a shell, and keep what it leaves in the environment."""
        left = self.folder.with_name("environment")
        script = f"{line}\nstatus=$?\nenv -0 >{shlex.quote(str(left))}\nexit $status"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.env = dict(item.split("=", 1) for item in left.read_text("utf-8").split("\0") if item)
        return done.returncode, done.stdout

    def _move(self, made: Path) -> None:
        """Have the server listen where nobody else does."""
        for name, number in (("devconf.toml", "tcp:8080:"), ("credentials", "127.0.0.1:8080")):
            text = (made / name).read_text("utf-8")
            assert text.count(number) >= 1
            (made / name).write_text(text.replace(number, number.replace("8080", str(self.port))), "utf-8")

    def begin(self, name: str, command: Command) -> None:
        """Start a program in a terminal of its own, and wait until it has printed what the document says."""
        log = self.folder.with_name(f"{name}.log")
        terminal = self.terminals[name] = Terminal(self.filled(command.line), self.folder, self.env, log)
        self.ran.append(command.line)
        last = command.output.strip().splitlines()[-1].replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        self.compare(command.output, terminal.told(".*".join(re.escape(part) for part in PLACEHOLDER.split(last))))

    def _compare_lines(self, expected: str, terminal: Terminal) -> None:
        """Compare what a program has printed meanwhile; two devices answer in any order."""
        wanted = expected.splitlines()
        told = terminal.told(rf"(.*\n){{{len(wanted)}}}")
        actual = re.sub(self.VARIES["<time>"], "<time>", self.named(told)).splitlines()
        assert sorted(actual) == sorted(wanted)
        self.compared += 1

    def _happen(self, event: str) -> None:
        match = re.fullmatch(r"Ctrl-C in (\S+)\.", event)
        assert match, f"what is meant by {event!r}?"
        self.last_words[match[1]] = self.terminals.pop(match[1]).end(signal.SIGINT)

    def close(self) -> None:
        """Stop what still runs, and the server last: without one the simulator asks for a while before it ends."""
        for terminal in reversed(self.terminals.values()):
            terminal.kill()
        self._loaded.close()
