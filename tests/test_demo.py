"""The demo as its users run it, and the commands that it tells them to try."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
DEMO = [sys.executable, "-m", "devconf.demo"]

#: Seconds: the upper limit of anything that should happen.
PATIENCE = 120

# These wait for processes in the main thread, where only a signal ends them.
pytestmark = pytest.mark.timeout(300, method="signal")


def run(*args: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DEVCONF_")}
    return subprocess.run(
        args, cwd=REPOSITORY, env=env, input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@contextmanager
def running(folder: Path, until: str = "Ctrl-C") -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The demo, once it has printed a line that begins so; all lines that it has printed."""
    command = [*DEMO, str(folder)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        lines = []
        try:
            for line in demo.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith(until):
                    break
            yield demo, lines
        finally:
            demo.terminate()  # not kill: it would leave its server behind


def test_it_works_and_works_again_in_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    first = run(*DEMO, folder, "--once")
    assert (first.returncode, first.stderr) == (0, "")
    for answer in (
        r"post devices demo-4 -> 0 ok",
        r"post tasks 'demo pictures', .* -> 0 ok; 2 of 2 devices confirmed",
        r"post subtasks 'demo video' on demo-4 -> 0 ok; 1 of 1 devices confirmed",
        r"post tasks/pic_task_config .* -> 0 ok; 2 of 2 devices confirmed",
        r"put store_confs .* -> 0 ok; 4 of 4 subtasks and devices confirmed",
        r"delete tasks .* -> 1004090001 .* still has 4 subtasks",
    ):
        assert re.search(answer, first.stdout), first.stdout
    for name in ("credentials", "devconf.toml", "devices.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    kept = (folder / "devices.json").read_text()

    second = run(*DEMO, folder, "--once")
    assert (second.returncode, second.stderr) == (0, "")
    assert "post devices" not in second.stdout
    assert "is there from an earlier run" in second.stdout
    assert re.search(r"put store_confs .* -> 0 ok; 4 of 4", second.stdout), second.stdout
    assert (folder / "devices.json").read_text() == kept
    assert "Traceback" not in (folder / "twistd.log").read_text()


@pytest.mark.parametrize("lost", ["credentials", "devices.json", "devconf.sqlite"])
def test_it_copes_with_what_was_removed(tmp_path: Path, lost: str) -> None:
    assert run(*DEMO, tmp_path, "--once").returncode == 0
    (tmp_path / lost).unlink()
    again = run(*DEMO, tmp_path, "--once")
    assert (again.returncode, again.stderr) == (0, "")


def test_the_commands_that_it_prints_work_until_it_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with running(folder) as (demo, lines):
        commands = [shlex.split(line) for line in lines if " call " in line]
        assert len(commands) == 3, lines
        answers = [run(*command) for command in commands]
        assert [(done.returncode, done.stderr) for done in answers] == [(0, "")] * 3
        tasks, devices, changed = (json.loads(done.stdout) for done in answers)
        assert {task["name"] for task in tasks["tasks"]} == {"demo pictures", "demo video"}
        assert len(devices["devices"]) == 4
        assert [device["state"] for device in changed["devices"]] == ["confirmed"] * 2
        check_call(folder, commands[0][0])

        # What a terminal does: all processes of the group are told.
        os.killpg(demo.pid, signal.SIGINT)
        out, errors = demo.communicate(timeout=PATIENCE)
        assert (demo.returncode, out, errors) == (0, "\nStopped.\n", "")
        stopped = run(*commands[0])
        assert (stopped.returncode, stopped.stdout) == (3, "")
        assert "cannot be reached: Connection was refused" in stopped.stderr
    assert "Traceback" not in (folder / "twistd.log").read_text()


def check_call(folder: Path, program: str) -> None:
    """What ``devconf call`` says of its several endings, while the server runs."""
    call = [program, "call", "--credentials", str(folder / "credentials")]

    failed = run(*call, "delete tasks", '{"task_id": "none"}')
    assert (failed.returncode, json.loads(failed.stdout)["ecode"]) == (1, 1004040001)
    assert re.fullmatch(r"devconf: 1004040001: [^\n]*\n", failed.stderr)

    told = [run(*call, "get tasks", "-", text='{"limit": 1}')]
    (folder / "params.json").write_text('{"limit": 1}')
    told.append(run(*call, "get tasks", f"@{folder}/params.json"))
    assert [len(json.loads(done.stdout)["tasks"]) for done in told] == [1, 1]

    words = dict(line.split("=", 1) for line in (folder / "credentials").read_text().splitlines())
    by_hand = [program, "call", "get tasks", "--url", words["DEVCONF_URL"], "--user", "admin", "--password-stdin"]
    assert run(*by_hand, text=words["DEVCONF_PASSWORD"] + "\n").returncode == 0
    wrong = run(*by_hand, text="wrong\n")
    assert (wrong.returncode, wrong.stdout) == (3, "")
    assert re.fullmatch(r"devconf: cannot log in at http://127\.0\.0\.1:\d+: 1004010003: [^\n]*\n", wrong.stderr)
    by_environment = subprocess.run(
        [program, "call", "get tasks"], env={**os.environ, **words}, capture_output=True, timeout=PATIENCE, check=False
    )
    assert by_environment.returncode == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["get tasks"], "name and password are needed"),
        (["get tasks", "{", "--user", "u", "--password-stdin"], "not JSON"),
        (["get tasks", "[]", "--user", "u", "--password-stdin"], "not a JSON object"),
        (["get tasks", "@/nowhere", "--user", "u", "--password-stdin"], "/nowhere: cannot be read: No such file"),
        (["get tasks", "-", "--user", "u", "--password-stdin"], "the standard input cannot be both"),
        (["get tasks", "--credentials", "/nowhere"], "/nowhere: cannot be read: No such file"),
        ([], "Missing argument 'COMMAND'"),
    ],
)
def test_a_wrong_command_line(args: list[str], says: str) -> None:
    done = run(Path(sys.executable).parent / "devconf", "call", *args, text="secret\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_credentials_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.touch(mode=0o600)
    path.write_text("# the demo\n\nDEVCONF_USER=admin\nuser = x\n")
    done = run(Path(sys.executable).parent / "devconf", "call", "get tasks", "--credentials", path)
    assert done.returncode == 2
    assert f"{path}: line 4 is not NAME=VALUE" in done.stderr


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(*DEMO, tmp_path / "file", "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"devconf demo: [^\n]*File exists[^\n]*\n", done.stderr)


def test_a_second_demo_in_the_same_folder_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as (demo, _):
        second = run(*DEMO, tmp_path, "--once")
        assert second.returncode == 1
        assert (
            second.stderr
            == f"devconf demo: {tmp_path} is in use by another process; stop that, or name another folder\n"
        )
        demo.terminate()
        demo.communicate(timeout=PATIENCE)
        assert demo.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_is_stopped_before_the_server_is_ready(tmp_path: Path, how: signal.Signals) -> None:
    with running(tmp_path, until="A server on") as (demo, lines):
        demo.send_signal(how)
        out, errors = demo.communicate(timeout=PATIENCE)
    assert (demo.returncode, out, errors) == (0, "\nStopped.\n", "")
    port = int(re.findall(r":(\d+);", lines[0])[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else has taken it already
        done = run(*DEMO, tmp_path, "--once")
    assert done.returncode == 0
    assert "http://127.0.0.1:8080 " not in done.stdout
