"""The commands for the machine of the server: init, check, user and restore, and the program as a whole."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from devconf import config
from devconf.cli import machine, main
from devconf.cli.status import Status, status_of
from devconf.errors import Ecode
from devconf.model import Role
from devconf.passwords import verify_password
from devconf.store import accounts, migrations, opening


def devconf(*args: str | Path, text: str = "") -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args], input=text, prog_name="devconf")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def only_line(result: Result, status: int) -> str:
    """What was said of a failure, in one line."""
    assert (result.exit_code, result.stdout) == (status, "")
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that ``devconf init`` has made."""
    home = tmp_path / "my server"
    assert devconf("init", home).exit_code == 0
    return home


# -- init


def test_init_makes_all_that_a_server_needs(tmp_path: Path) -> None:
    home = tmp_path / "my server"
    made = devconf("init", home, "--port", "18080", "--user", "root", "--json")
    assert (made.exit_code, made.stderr) == (0, "")
    told = json.loads(made.stdout)
    password = told["password"]
    start, add, listing = told.pop("next")
    assert told == {
        "config": f"{home}/devconf.toml",
        "database": f"{home}/devconf.sqlite",
        "credentials": f"{home}/credentials",
        "url": "http://127.0.0.1:18080",
        "user": "root",
        "password": password,
    }
    assert start.endswith(f"twistd --nodaemon devconf --config '{home}/devconf.toml'")
    assert add.endswith(f"devconf devices add gate-7 --credentials '{home}/credentials'")
    assert listing.endswith(f"devconf devices list --credentials '{home}/credentials'")

    settings = config.load(told["config"])
    assert settings.listen == ("tcp:18080:interface=127.0.0.1",)
    assert (settings.database, settings.limits) == (f"sqlite:///{home}/devconf.sqlite", config.Limits())
    assert "# Where to listen" in (home / "devconf.toml").read_text("utf-8")
    kept = (home / "credentials").read_text()
    assert kept == f"DEVCONF_URL=http://127.0.0.1:18080\nDEVCONF_USER=root\nDEVCONF_PASSWORD={password}\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()}
    assert {name: modes[name] for name in ("credentials", "devconf.sqlite")} == dict.fromkeys(
        ("credentials", "devconf.sqlite"), 0o600
    )
    with closing(sqlite3.connect(home / "devconf.sqlite")) as connection:
        ((name, hashed),) = connection.execute("SELECT user_name, password_hash FROM users")
    assert (name, verify_password(hashed, password)) == ("root", True)


def test_init_tells_people_what_to_do_next(tmp_path: Path) -> None:
    lines = devconf("init", tmp_path).stdout.splitlines()
    assert lines[0] == f"Made devconf.toml, devconf.sqlite and credentials in {tmp_path}."
    assert re.fullmatch(r"Address http://127\.0\.0\.1:8080   user admin   password [0-9a-f]{24}", lines[1])
    assert next(line for line in lines if line.startswith("  ")).endswith(f"--config {tmp_path}/devconf.toml")


@pytest.mark.parametrize("name", ["devconf.toml", "devconf.sqlite", "credentials"])
def test_init_overwrites_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    line = only_line(devconf("init", tmp_path), 1)
    assert line == f"devconf: {tmp_path / name} is there already and is not overwritten; name another folder"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_init_refuses_a_folder_that_no_address_of_a_database_can_name(tmp_path: Path) -> None:
    line = only_line(devconf("init", tmp_path / "what?"), 1)
    assert line.startswith(f"devconf: {tmp_path}/what? cannot ")
    assert not (tmp_path / "what?").exists()


# -- check


def states(*args: str | Path, status: int) -> dict[str, tuple[str, str]]:
    result = devconf("check", *args, "--json")
    assert (result.exit_code, result.stderr) == (status, "")
    return {line["check"]: (line["state"], line["text"]) for line in json.loads(result.stdout)}


def test_check_finds_everything_in_order(home: Path) -> None:
    found = states("--config", home / "devconf.toml", status=0)
    assert list(found) == [
        *("configuration", "database", "disk", "open files", "backlog", "sqlite", "python"),
        *machine.PACKAGES,
    ]
    assert found["configuration"] == ("ok", f"{home}/devconf.toml can be used")
    revision = re.fullmatch(rf"{home}/devconf\.sqlite is sound; schema (\S+)", found["database"][1])
    assert found["database"][0] == "ok"
    assert revision
    assert found["python"] == ("ok", sys.version.split()[0])
    table = devconf("--config", home / "devconf.toml", "check").stdout.splitlines()
    assert table[0].split() == ["CHECK", "STATE", "WHAT"]
    assert len(table) == len(found) + 1


def test_check_tells_of_a_wrong_configuration(tmp_path: Path) -> None:
    path = tmp_path / "devconf.toml"
    path.write_text("listn = []\ndevice_timeout = -1\n")
    found = states("-c", path, status=1)
    assert found["configuration"] == (
        "error",
        f"{path}: listn is not a known key; did you mean listen?; "
        f"{path}: device_timeout must be more than 0 and at most 3600",
    )
    assert "database" not in found


def test_check_tells_how_the_database_is(home: Path) -> None:
    path, configured = home / "devconf.sqlite", home / "devconf.toml"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert states("-c", configured, status=1)["database"] == (
        "error",
        f"{path}: it was written by a later devconf (schema 9999); install that version;"
        " restore a backup, or name another file in `database`",
    )
    path.chmod(0o644)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    assert states("-c", configured, status=0)["database"] == (
        "warning",
        f"{path}: others may read it; run: chmod 600 {path}",
    )
    path.write_bytes(b"Dear Sir or Madam, " * 500)
    assert states("-c", configured, status=1)["database"][1].startswith(f"{path}: file is not a database; ")
    path.unlink()
    assert states("-c", configured, status=0)["database"] == (
        "warning",
        f"{path} is not there yet; the server makes it when it starts",
    )


def test_check_tells_of_limits_that_are_too_low(tmp_path: Path) -> None:
    assert machine.open_files(100, (1024, 4096)) == machine.Line("open files", "ok", "1024 may be open")
    low = machine.open_files(100_000, (1024, 4096))
    assert (low.state, low.text) == (
        "warning",
        "1024 may be open, and `connections` allows 100000: set 100100 by LimitNOFILE, or lower `connections`",
    )
    source = tmp_path / "somaxconn"
    assert machine.backlog(source).state == "warning"
    source.write_text("128\n")
    assert machine.backlog(source).text == (
        "128 connections may wait to be accepted; for large fleets set net.core.somaxconn to 1024 or more"
    )
    source.write_text("4096\n")
    assert machine.backlog(source) == machine.Line("backlog", "ok", "4096 connections may wait to be accepted")
    assert machine.sqlite((3, 34, 1)).state == "error"
    assert machine.version("no-such-package").state == "error"


# -- user


def test_accounts_of_a_stopped_server(home: Path) -> None:
    configured = ["--config", str(home / "devconf.toml")]
    added = devconf(*configured, "user", "add", "alice", "--role", "operator", "--password-stdin", text="secret\n")
    assert (added.exit_code, added.stdout) == (0, "alice is operator now\n")
    again = devconf("user", "add", "alice", "--role", "viewer", "--password-stdin", *configured, text="x\n")
    assert only_line(again, 1) == "devconf: there is a user 'alice' already"
    assert only_line(devconf(*configured, "user", "add", "x", "--role", "viewer"), 2) == (
        "devconf: there is no terminal to ask for the new password; use --password-stdin (see: devconf user add --help)"
    )
    assert devconf("user", "passwd", "alice", "--password-stdin", *configured, text="new\n").exit_code == 0
    listed = json.loads(devconf(*configured, "user", "list", "--json").stdout)
    assert [(user["user_name"], user["role"]) for user in listed] == [("admin", "admin"), ("alice", "operator")]
    assert devconf("user", "remove", "alice", *configured).stdout == "alice is gone\n"
    last = devconf("user", "remove", "admin", *configured)
    assert only_line(last, 1) == "devconf: 'admin' is the last admin; make another one first"


def test_a_server_that_runs_keeps_its_database(home: Path) -> None:
    connection = opening.connect(f"sqlite:///{home}/devconf.sqlite")
    try:
        line = only_line(devconf("user", "list", "-c", home / "devconf.toml"), 1)
        state, text = states("-c", home / "devconf.toml", status=0)["database"]
    finally:
        opening.close(connection)
    assert re.fullmatch(r"devconf: the database is in use by process \d+; .* use 'devconf users' while it runs", line)
    assert state == "ok"
    assert re.fullmatch(rf"{home}/devconf\.sqlite is not looked into: the database is in use by process \d+", text)


# -- restore


def users(path: Path) -> list[str]:
    connection = opening.connect(f"sqlite:///{path}")
    try:
        migrations.upgrade(connection)
        with connection.begin():
            return [user["user_name"] for user in accounts.list_users(connection)]
    finally:
        opening.close(connection)


def test_restore_keeps_what_was_there_with_its_log(home: Path, tmp_path: Path) -> None:
    path, configured = home / "devconf.sqlite", home / "devconf.toml"
    backup = tmp_path / "backup.sqlite"
    shutil.copy(path, backup)
    # A server that was killed leaves what it has committed last in the log.
    connection = opening.connect(f"sqlite:///{path}")
    with connection.begin():
        accounts.insert_user(connection, 0.0, "u" * 32, "late", Role.ADMIN, "hash")
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{tmp_path}/killed.sqlite{end}")
    opening.close(connection)
    for end in ("", "-wal"):
        shutil.copy(f"{tmp_path}/killed.sqlite{end}", f"{path}{end}")

    result = devconf("restore", backup, "-c", configured)
    assert (result.exit_code, result.stderr) == (0, "")
    told = re.fullmatch(rf"{path} is as in {backup} now; the database of before is (\S+ \S+)\n", result.stdout)
    assert told
    assert users(path) == ["admin"]
    assert users(Path(told[1])) == ["admin", "late"]
    assert path.stat().st_mode & 0o777 == 0o600
    # A database with its log is as good a backup.
    result = devconf("restore", tmp_path / "killed.sqlite", "-c", configured, "--json")
    assert json.loads(result.stdout)["backup"] == f"{tmp_path}/killed.sqlite"
    assert users(path) == ["admin", "late"]


def test_restore_on_a_new_machine(home: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "devconf.toml").write_text(f'database = "sqlite:///{new}/data.sqlite"\n')
    result = devconf("restore", home / "devconf.sqlite", "-c", new / "devconf.toml")
    assert result.stdout == f"{new}/data.sqlite is as in {home}/devconf.sqlite now\n"
    assert users(new / "data.sqlite") == ["admin"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"Dear Sir or Madam, " * 500, "file is not a database"),
        (b"", "it is no database of devconf"),
        (None, "it was written by a later devconf (schema 9999); install that version"),
    ],
)
def test_restore_refuses_what_is_no_backup(content: bytes | None, told: str, home: Path, tmp_path: Path) -> None:
    before = users(home / "devconf.sqlite")
    names = sorted(path.name for path in home.iterdir())
    backup = tmp_path / "backup"
    if content is None:
        shutil.copy(home / "devconf.sqlite", backup)
        with closing(sqlite3.connect(backup)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
    else:
        backup.write_bytes(content)
    line = only_line(devconf("restore", backup, "-c", home / "devconf.toml"), 1)
    assert line == f"devconf: {backup} cannot be restored: {told}"
    assert users(home / "devconf.sqlite") == before
    assert sorted(path.name for path in home.iterdir()) == names


def test_restore_of_nothing(home: Path) -> None:
    assert only_line(devconf("restore", home / "none", "-c", home / "devconf.toml"), 2) == (
        f"devconf: {home}/none: there is no such file (see: devconf restore --help)"
    )


# -- the program


def test_every_command_has_help_and_is_listed() -> None:
    commands: list[tuple[str, ...]] = [()]
    for path in commands:
        shown = devconf(*path, "--help")
        assert (shown.exit_code, shown.stderr) == (0, ""), path
        command: Any = main
        for name in path:
            command = command.commands[name]
        commands += [(*path, name) for name in getattr(command, "commands", {})]
        if len(path) == 1:
            assert f"\n  {path[0]} " in devconf("--help").stdout
    assert ("devices", "import") in commands


def test_the_statuses_are_in_the_help() -> None:
    told = " ".join(devconf("--help").stdout.partition("Exit statuses:")[2].split())
    assert told == " ".join(f"{int(status)} {status.meaning}" for status in Status)


@pytest.mark.parametrize(
    ("response", "status"),
    [
        ({"ecode": 0}, 0),
        ({"ecode": Ecode.BAD_FIELD}, 1),
        ({"ecode": Ecode.INTERNAL}, 1),
        ({"ecode": Ecode.FORBIDDEN}, 4),
        ({"ecode": Ecode.REFUSED, "devices": []}, 5),
        ({"ecode": Ecode.OFFLINE}, 6),
        ({"ecode": Ecode.SILENT}, 6),
        ({"ecode": Ecode.OFFLINE, "total": 2, "delivered": 1}, 7),
    ],
)
def test_a_response_has_its_status(response: dict[str, Any], status: int) -> None:
    assert status_of(response) == status


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["devicess"], "No such command 'devicess'."),
        (["devices", "list", "--limit", "0"], "Invalid value for '--limit': 0 is not in the range x>=1."),
        (["tasks", "set", "t"], "say what is to change: see the options"),
        (
            ["tasks", "set", "t", "--store-conf", "u", "--no-store-conf"],
            "--store-conf and --no-store-conf cannot both be given",
        ),
        (
            ["tasks", "algos", "t", "{}"],
            "Invalid value for 'ALGOS': not a JSON list of algorithms;"
            ' write it like \'[{"algo_id": "face"}]\', or face,plate',
        ),
        (["store-confs", "add", "/nowhere"], "/nowhere: cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(args: list[str], line: str) -> None:
    told = only_line(devconf(*args), 2)
    assert told.startswith("devconf: ")
    assert line in told
    assert "--help)" in told


def test_what_takes_long_to_load_is_not_loaded_for_a_completion() -> None:
    script = "import sys, devconf.cli; print(sorted({'twisted', 'sqlalchemy', 'rich', 'treq'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
