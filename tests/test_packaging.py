"""What an installation gives, and how the server says that it cannot start.

The virtual environments are fresh, and see the packages of the one that runs the tests: only devconf is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from devconf.store import migrations, opening

REPOSITORY = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

#: Seconds: the upper limit of anything that should happen.
PATIENCE = 120

# These wait for processes in the main thread, where only a signal ends them.
pytestmark = pytest.mark.timeout(300, method="signal")

LISTED = re.compile(r"^ +devconf +The configuration service of a\s+video-analysis\s+platform\.$", re.MULTILINE)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False)


# -- installing


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, since building leaves files in it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "devconf", "twisted", "etc"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        else:
            shutil.copy(source, tree)
    (tree / "tests").mkdir()
    (tree / "tests" / "test_nothing.py").touch()
    return tree


def pip(*arguments: str | Path, cwd: Path) -> None:
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", folder, tree, cwd=folder)
    (wheel,) = folder.iterdir()
    return wheel


class Environment:
    """A fresh virtual environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        self.packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")}))
        # A path in such a file is only searched: what is installed there as editable is not seen.
        seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.packages / "of_the_tests.pth").write_text("\n".join(sorted(seen)) + "\n", encoding="utf-8")

    def pip(self, *arguments: str | Path) -> None:
        pip("--python", self.python, *arguments, cwd=self.folder)

    def help(self, program: str) -> str:
        """What ``twistd --help`` or ``twist --help`` prints, away from the repository."""
        done = run(self.python, BIN / program, "--help", cwd=self.folder)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def lists_devconf(self) -> list[bool]:
        return [LISTED.search(self.help(program)) is not None for program in ("twistd", "twist")]

    def place(self) -> Path:
        """Where devconf is imported from."""
        done = run(self.python, "-c", "import devconf; print(devconf.__file__)", cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip()).parent


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_a_wheel_has_the_code_and_nothing_else(wheel: Path, tree: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        sample = archive.read("devconf/cli/devconf.toml")
    code = {path.relative_to(tree) for part in ("devconf", "twisted") for path in (tree / part).rglob("*.py")}
    assert names == {str(path) for path in code} | {"devconf/py.typed", "devconf/cli/devconf.toml"}
    assert sample == (REPOSITORY / "etc" / "devconf.toml").read_bytes()
    assert "devconf/store/migrations/versions/v0001_first_schema.py" in names
    assert {name for name in names if name.startswith("twisted/")} == {"twisted/plugins/devconf_plugin.py"}


def test_a_plain_install_is_known_to_twisted_until_it_is_removed(environment: Environment, wheel: Path) -> None:
    environment.pip("install", "--no-deps", wheel)
    assert environment.place() == environment.packages / "devconf"
    assert environment.lists_devconf() == [True, True]
    environment.pip("uninstall", "--yes", "devconf-server")
    assert not (environment.packages / "twisted" / "plugins" / "devconf_plugin.py").exists()
    assert not (environment.packages / "devconf").exists()


def test_an_editable_install_is_known_to_twisted(environment: Environment, tree: Path) -> None:
    environment.pip("install", "--no-deps", "--editable", tree)
    assert environment.place() == tree / "devconf"
    assert environment.lists_devconf() == [True, True]


@pytest.mark.parametrize("program", ["twistd", "twist"])
def test_the_install_that_runs_the_tests_is_known_to_twisted(program: str, tmp_path: Path) -> None:
    done = run(BIN / program, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert LISTED.search(done.stdout)


def test_an_installed_server_runs(environment: Environment, wheel: Path) -> None:
    environment.pip("install", "--no-deps", wheel)
    config = configured(environment.folder)
    with serving([environment.python, BIN / "twistd", *TWISTD], config) as server:
        server.send_signal(signal.SIGTERM)
        output = server.communicate(timeout=PATIENCE)[0]
    assert "Traceback" not in output


# -- starting and stopping

TWISTD = ["--nodaemon", "--pidfile=", "devconf", "--config"]
PROGRAMS = {
    "twistd": [str(BIN / "twistd"), *TWISTD],
    "twist": [str(BIN / "twist"), "--log-format=text", "devconf", "--config"],
}
either = pytest.mark.parametrize("program", PROGRAMS)


def configured(folder: Path, **settings: Any) -> Path:
    """A configuration file in ``folder``."""
    path = folder / "devconf.toml"
    settings = {
        "listen": ["tcp:0:interface=127.0.0.1"],
        "database": f"sqlite:///{folder / 'devconf.sqlite'}",
        **settings,
    }
    # For text and lists of text TOML is written like JSON.
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()), encoding="utf-8")
    return path


@contextmanager
def serving(command: list[Any], config: Path) -> Any:
    """A server that is ready; its output so far is read."""
    with subprocess.Popen(
        [*command, config], cwd=config.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        lines = []
        try:
            for line in server.stdout:
                lines.append(line)
                if line.endswith("[devconf.service.DevconfService#info] ready\n"):
                    break
            assert server.poll() is None, "".join(lines)
            yield server
        finally:
            server.kill()


def refusal(program: str, config: Path) -> str:
    """What is said of a configuration that is wrong: one line, instead of a log, and a status that is not 0."""
    done = run(*PROGRAMS[program], config, cwd=config.parent)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def failure(*command: str | Path, cwd: Path) -> str:
    """What is said where the server cannot start: one critical line in the log, and a status that is not 0."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = re.findall(r"^\S+ \[devconf\.tap#critical\] (.*)$", done.stdout, re.MULTILINE)
    return str(line)


@either
def test_an_unknown_key_is_named(program: str, tmp_path: Path) -> None:
    config = configured(tmp_path, listn=[])
    assert refusal(program, config) == f"{config}: listn is not a known key; did you mean listen?"
    assert not (tmp_path / "devconf.sqlite").exists()


@either
def test_a_configuration_that_is_not_there(program: str, tmp_path: Path) -> None:
    config = tmp_path / "nothing.toml"
    assert refusal(program, config) == f"{config}: cannot be read: No such file or directory"


@either
def test_a_port_that_is_taken(program: str, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        text = failure(*PROGRAMS[program], configured(tmp_path, listen=[listen]), cwd=tmp_path)
    assert text == f"cannot listen on {listen}: [Errno 98] Address already in use; see `listen`"


@either
def test_a_database_that_another_server_holds(program: str, tmp_path: Path) -> None:
    config = configured(tmp_path)
    with serving(PROGRAMS["twistd"], config) as server:
        text = failure(*PROGRAMS[program], config, cwd=tmp_path)
        # The one that was first goes on.
        assert server.poll() is None
    lock = tmp_path / "devconf.sqlite.lock"
    assert text == f"the database is in use by process {server.pid}; stop it first ({lock})"


@either
def test_a_database_that_is_none(program: str, tmp_path: Path) -> None:
    database = tmp_path / "devconf.sqlite"
    database.write_bytes(b"Dear Sir or Madam, " * 500)
    assert failure(*PROGRAMS[program], configured(tmp_path), cwd=tmp_path) == (
        f"{database}: file is not a database; restore a backup, or name another file in `database`"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@either
def test_a_signal_ends_it_cleanly(program: str, number: signal.Signals, tmp_path: Path) -> None:
    config = configured(tmp_path)
    with serving(PROGRAMS[program], config) as server:
        server.send_signal(number)
        output = server.communicate(timeout=PATIENCE)[0]
    # By the signal, as those who sent it expect, but not before all was closed.
    assert server.returncode == -number
    assert "Main loop terminated." in output
    assert "Traceback" not in output
    assert {path.name for path in tmp_path.iterdir()} == {"devconf.toml", "devconf.sqlite", "devconf.sqlite.lock"}
    connection = opening.connect(f"sqlite:///{tmp_path / 'devconf.sqlite'}")
    migrations.upgrade(connection)
    opening.close(connection)


def test_a_configuration_need_not_be_named(tmp_path: Path) -> None:
    """Without one the port is 8080, which here another program has."""
    with closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # it is taken already
        text = failure(BIN / "twistd", "--nodaemon", "--pidfile=", "devconf", cwd=tmp_path)
    assert text == "cannot listen on tcp:8080:interface=127.0.0.1: [Errno 98] Address already in use; see `listen`"
    assert (tmp_path / "devconf.sqlite").exists()


# -- being told to end while it ends

HELD = """
import gc, os, signal, sqlite3, time
from pathlib import Path
from twisted.application.service import Application
from twisted.internet import reactor
from devconf import tap
from devconf.commands import content

service = tap.makeService({"config": "devconf.toml"})
application = Application("devconf")
service.setServiceParent(application)


def held(*_):
    while not Path("go on").exists():
        time.sleep(0.01)
    return b"x"


def broken(_connection):
    raise sqlite3.OperationalError("disk I/O error")


def fail():
    service.store.run(broken).addErrback(lambda _: None)


reactor.addSystemEventTrigger("after", "shutdown", gc.collect)  # which says what was not handled
content.check = held
request = "post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "AAAA"}
service.when_ready().addCallbacks(lambda _: service.request(*request), lambda _: None)
"""


def ends(folder: Path, more: str, signals: int) -> tuple[int, str]:
    """The status and the output of a server that is sent ``signals`` while a request holds up its end."""
    configured(folder)
    (folder / "held.tac").write_text(HELD + more, encoding="utf-8")
    command = [str(BIN / "twistd"), "--nodaemon", "--pidfile=", "-y"]
    output = ""
    with serving(command, folder / "held.tac") as server:
        server.send_signal(signal.SIGTERM)
        for line in server.stdout:
            output += line
            if "Received SIGTERM" in line:
                signals -= 1
                if signals:
                    server.send_signal(signal.SIGTERM)
                else:
                    (folder / "go on").touch()
        server.wait(PATIENCE)
    return server.returncode, output


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    status, output = ends(tmp_path, "", 2)
    assert status == -signal.SIGTERM
    assert output.count("Received SIGTERM") == 2
    assert "Main loop terminated." in output
    assert "Traceback" not in output
    assert "#critical]" not in output


def test_a_disk_that_fails_while_it_stops_is_one_line(tmp_path: Path) -> None:
    status, output = ends(tmp_path, 'reactor.addSystemEventTrigger("before", "shutdown", fail)\n', 1)
    assert status == -signal.SIGTERM
    assert "Traceback" not in output
    assert "Unhandled" not in output
    (told,) = re.findall(r"^\S+ \[\S+#critical\] (.*)$", output, re.MULTILINE)
    assert told.startswith(f"devconf cannot go on: the database {tmp_path / 'devconf.sqlite'} failed (disk I/O error);")


def test_a_signal_while_it_cannot_start_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "devconf.sqlite").write_bytes(b"Dear Sir or Madam, " * 500)
    config = configured(tmp_path)
    at_once = "reactor.callWhenRunning(os.kill, os.getpid(), signal.SIGTERM)\n"
    (tmp_path / "held.tac").write_text(HELD + at_once, encoding="utf-8")
    done = run(BIN / "twistd", "--nodaemon", "--pidfile=", "-y", "held.tac", cwd=config.parent)
    assert done.returncode == -signal.SIGTERM
    assert "Traceback" not in done.stdout + done.stderr
    assert "Unhandled" not in done.stdout
    (line,) = re.findall(r"^\S+ \[devconf\.tap#critical\] (.*)$", done.stdout, re.MULTILINE)
    assert line.startswith(f"{tmp_path / 'devconf.sqlite'}: file is not a database;")
