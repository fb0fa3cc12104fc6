"""``docs/howto/backup.md``: backups are made, one is restored, and the nightly one is run as systemd would.

The server is one of the tutorial, with a device and a storage configuration.
"""

from __future__ import annotations

import configparser
import http.client
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.howto import BIN, HOWTO, Command, blocks, needs, tool
from tests.terminals import PATIENCE, Desk

DOCUMENT = HOWTO / "backup.md"
START = Command(
    "twistd --nodaemon devconf --config server/devconf.toml",
    "...\n<log time> [devconf.service.DevconfService#info] ready",
)
SECRET = "the content of a storage configuration"

pytestmark = pytest.mark.timeout(240, method="signal")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    try:
        desk.enter(Command("devconf init server", "..."))
        desk.enter(Command("set -a; . server/credentials; set +a", ""))
        desk.begin("server", START)
        yield desk
    finally:
        desk.close()


def ask(desk: Desk, method: str, path: str, params: Any = None, atoken: str = "") -> Any:
    """The answer of the server."""
    with closing(http.client.HTTPConnection("127.0.0.1", desk.port, timeout=PATIENCE)) as connection:
        body = None if params is None else json.dumps(params)
        connection.request(method, f"/webapi/v1/{path}", body, {"authorization": atoken} if atoken else {})
        return json.load(connection.getresponse())


def log_in(desk: Desk) -> Any:
    account = {"user_name": desk.env["DEVCONF_USER"], "password": desk.env["DEVCONF_PASSWORD"]}
    return ask(desk, "POST", "login", {"user_type": "user", **account})


def refids(desk: Desk, atoken: str) -> list[str]:
    return [item["dev_refid"] for item in ask(desk, "GET", "devconf_fx/devices", atoken=atoken)["devices"]]


def test_the_document_is_what_happens(desk: Desk) -> None:
    before = log_in(desk)
    atoken = before["atoken"]
    kept = ask(desk, "POST", "devconf_fx/devices", {"dev_refid": "kept"}, atoken)
    (desk.folder / "storage.txt").write_text(SECRET, "utf-8")
    desk.enter(Command("devconf store-conf add storage.txt", "storage configuration <conf> is stored"))

    making, title, restoring = DOCUMENT.read_text("utf-8").partition("## Restore\n")
    assert title
    desk.follow(making)
    (backup,) = desk.folder.glob("backup-*.sqlite")
    assert backup.stat().st_mode & 0o777 == 0o600
    content = backup.read_bytes()
    assert SECRET.encode() in content
    for secret in (desk.env["DEVCONF_PASSWORD"], kept["dev_key"], atoken, before["rtoken"]):
        assert secret.encode() not in content

    ask(desk, "POST", "devconf_fx/devices", {"dev_refid": "lost"}, atoken)
    assert refids(desk, atoken) == ["kept", "lost"]
    desk.follow(restoring)
    assert ask(desk, "GET", "devconf_fx/devices", atoken=atoken)["ecode"] == 1004010001
    assert refids(desk, log_in(desk)["atoken"]) == ["kept"]
    known = ask(desk, "POST", "login", {"user_type": "dev", "dev_refid": "kept", "dev_key": kept["dev_key"]})
    assert known["ecode"] == 0


# -- the nightly backup


def file(name: str) -> str:
    """The content of a file that the document tells to write."""
    (text,) = [block.text for block in blocks(DOCUMENT) if block.info.endswith(f" {name}")]
    return text


def in_service() -> tuple[str, list[str]]:
    """The line of the shell that systemd starts, and the command after it."""
    unit = configparser.RawConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(file("devconf-backup.service"))
    shell, option, line = shlex.split(unit["Service"]["ExecStart"])
    assert (shell, option) == ("/bin/sh", "-c")
    return line.replace("$$", "$").replace("%%", "%"), shlex.split(unit["Service"]["ExecStartPost"])


def in_cron() -> str:
    """The line of the shell that cron starts."""
    match = re.fullmatch(r"17 3 \* \* \* root (.*)\n", file("devconf-backup"))
    assert match
    assert "%" not in match[1].replace("\\%", "")
    return match[1].replace("\\%", "%")


def test_every_night(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for days in (1, 29, 32, 60):
        (folder / f"{days}.sqlite").touch()
        os.utime(folder / f"{days}.sqlite", (time.time() - days * 86400,) * 2)

    def run(credentials: Path) -> int:
        line, after = in_service()
        line = f"{line} && {shlex.join(after)}"
        places = {"/opt/devconf/venv/bin": BIN, "/etc/devconf/backup": credentials, "/var/backups/devconf": folder}
        for there, here in places.items():
            assert there in line
            line = line.replace(there, str(here))
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(["sh", "-c", line], env=env, capture_output=True, timeout=PATIENCE, check=False)
        return done.returncode

    assert run(tmp_path / "missing") != 0
    assert {path.stem for path in folder.iterdir()} == {"1", "29", "32", "60"}
    assert run(desk.folder / "server" / "credentials") == 0
    (new,) = {path.stem for path in folder.iterdir()} - {"1", "29"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", new)


def test_cron_does_the_same() -> None:
    line, after = in_service()
    first, _, second = in_cron().partition(" && ")
    assert first == f"{line} >/dev/null"
    assert ["/usr/bin/find", *shlex.split(second)[1:]] == after


@needs("systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    units = [tmp_path / f"devconf-backup.{kind}" for kind in ("service", "timer")]
    for unit in units:
        unit.write_text(file(unit.name), "utf-8")
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", DOCUMENT.read_text("utf-8"))
    assert links
    assert [link for link in links if not (DOCUMENT.parent / link).exists()] == []
