"""The command line at a terminal: questions, tables and progress; and what a shell completes."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.cli_kit import BIN, PATIENCE, Place, environ, online, operator, serving

pytestmark = [pytest.mark.limit(120), pytest.mark.timeout(150, method="signal")]

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("place")) as place:
        yield place


class Terminal:
    """A program at a terminal of its own.

    :ivar seen: what it has written.
    """

    def __init__(self, place: Place, *args: str, **env: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [BIN / "devconf", *args],
            cwd=place.folder,
            env=environ(place.folder, TERM="xterm", **env),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""
        self._read = 0

    def until(self, text: str) -> None:
        """Read until it has written ``text`` once more, or to its end."""
        deadline = time.monotonic() + PATIENCE
        while not text or (place := self.seen.find(text, self._read)) < 0:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not seen: {self.seen!r}"
            try:
                self.seen += os.read(self._ours, 65536).decode()
            except OSError:  # the end, as Linux tells it
                assert not text, f"{text!r} was not seen: {self.seen!r}"
                return
        self._read = place + len(text)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Read the rest; its status."""
        self.until("")
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """What was seen, without colours and movements."""
        return _CONTROL.sub("", self.seen).replace("\r\n", "\n")


@contextmanager
def terminal(place: Place, *args: str, **env: str) -> Iterator[Terminal]:
    terminal = Terminal(place, *args, **env)
    try:
        yield terminal
    finally:
        terminal.close()


async def test_name_and_password_are_asked_for_and_a_table_comes(place: Place) -> None:
    async with operator(place) as client:
        dev_unid = (await client.request("post devices", {"dev_refid": "[red]gate", "dev_name": "前门"}))["dev_unid"]
    with terminal(place, "devices", "list", DEVCONF_URL=place.url) as screen:
        screen.until(f"Name of the account at {place.url}: ")
        screen.type("admin\n")
        screen.until(f"Password of admin at {place.url}: ")
        screen.type(f"{place.password}\n")
        assert screen.end() == 0
        assert place.password not in screen.seen
        assert re.search(rf"\n {dev_unid} +\[red\]gate +前门 +- +yes +no +0 +0 *\n", screen.text), screen.text
        assert "─────" in screen.text


def test_ids_stay_whole_where_there_is_no_room(place: Place) -> None:
    with terminal(place, "users", "list", COLUMNS="30", **place.credentials) as screen:
        assert screen.end() == 0
        assert re.search(r"\n [0-9a-f]{32} +admin +admin *\n", screen.text), screen.text


def test_json_at_a_terminal_is_for_reading(place: Place) -> None:
    with terminal(place, "users", "list", "--json", **place.credentials) as screen:
        assert screen.end() == 0
        assert re.match(r'\[\n  \{\n    "user_unid": "[0-9a-f]{32}",\n    "user_name": "admin",', screen.text)


def test_ctrl_c_at_a_question(place: Place) -> None:
    with terminal(place, "devices", "list", DEVCONF_URL=place.url, DEVCONF_USER="admin") as screen:
        screen.until("Password of admin")
        os.killpg(screen.process.pid, signal.SIGINT)
        assert screen.end() == 130
        assert screen.text.splitlines() == [f"Password of admin at {place.url}: "]


def test_a_new_password_is_asked_for_twice(place: Place) -> None:
    with terminal(place, "users", "add", "vera", "--role", "viewer", **place.credentials) as screen:
        screen.until("New password: ")
        screen.type("one\n")
        screen.until("Repeat for confirmation: ")
        screen.type("two\n")
        screen.until("Error: ")
        for question in ("New password: ", "Repeat for confirmation: "):
            screen.until(question)
            screen.type("three\n")
        assert screen.end() == 0
        assert screen.text.endswith("vera is viewer now\n")


def test_progress_is_shown(place: Place) -> None:
    rows = "".join(f"bar-{number}\n" for number in range(200))
    (place.folder / "bars.csv").write_text(f"dev_refid\n{rows}")
    with terminal(place, "devices", "import", "bars.csv", **place.credentials) as screen:
        assert screen.end() == 0
        assert re.search(r"devices ━+ +\d+/200", screen.text), screen.text
        assert screen.text.endswith(
            "200 enrolled, 0 there already, 0 not enrolled; the keys are in bars.keys.csv, which only you may read\n"
        )


async def test_how_far_a_storage_configuration_has_got_is_shown(place: Place) -> None:
    async with online(place, "box-1") as (_, one), online(place, "box-2") as (box, other), operator(place) as client:
        conf = await client.request("post store_confs", {"name": "disk", "file_ext": "xml", "file_b64": "PGEvPg=="})
        params = {"name": "t", "task_type": "pic", "dev_unids": [one, other], "store_conf_unid": conf["unid"]}
        await client.request("post tasks", params)
        box.silent = True
        (place.folder / "disk.xml").write_text("<b/>")

        def put() -> Terminal:
            with terminal(place, "store-confs", "put", "disk.xml", "--unid", conf["unid"], **place.credentials) as seen:
                assert seen.end() == 7
                return seen

        screen = await deferToThread(put)
    assert re.search(r"disk\.xml to devices ━+╺━+ 1/2", screen.text), screen.text
    assert re.search(rf"\n box-2 +{other} +pending ", screen.text), screen.text
    assert screen.text.endswith("\ndevconf: 1005040001: stored; 1 of 2 will get it when they return\n")


def completions(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of ``words``, by the script that the command prints."""
    script = (
        'source <("$0" completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        ' _devconf_completion devconf; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    env = environ(folder)
    done = subprocess.run(
        ["bash", "-c", script, BIN / "devconf", *words],
        env={**env, "PATH": f"{BIN}:{env['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    assert completions(tmp_path, "devconf", "ta") == ["tasks"]
    assert completions(tmp_path, "devconf", "device", "u") == ["unknown"]
    assert completions(tmp_path, "devconf", "tasks", "add", "--type", "") == ["pic", "video"]
    assert completions(tmp_path, "devconf", "devices", "list", "--onl") == ["--online"]


@pytest.mark.parametrize(
    ("shell", "word"), [("zsh", "#compdef devconf"), ("fish", "complete --no-files --command devconf")]
)
def test_other_shells_get_theirs(shell: str, word: str, place: Place) -> None:
    done = place.run("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert word in done.out
    assert "_DEVCONF_COMPLETE" in done.out
