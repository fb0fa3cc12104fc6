"""A backup of a running server, and its way back: complete, checked, and never in place of something else."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import Done, Place, both, operator, serving

pytestmark = [pytest.mark.limit(120), pytest.mark.timeout(150, method="signal")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("place")) as place:
        yield place


def rows(path: Path, table: str) -> list[Any]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


async def test_there_and_back(place: Place) -> None:
    async with operator(place) as client:
        await client.request("post devices", {"dev_refid": "kept"})
    made, by_viewer = await both(place.devconf("backup", "a.sqlite", "--json"), refused(place))
    backup = place.folder / "a.sqlite"
    assert (made.status, made.err) == (0, "")
    assert made.json == {"file": "a.sqlite", "size": backup.stat().st_size, "schema": made.json["schema"]}
    assert backup.stat().st_mode & 0o777 == 0o600
    assert (by_viewer.status, by_viewer.json["ecode"], by_viewer.err.split()[1]) == (4, 1004030001, "1004030001:")
    assert sorted(path.name for path in place.folder.iterdir() if "sqlite" in path.name) == [
        "a.sqlite",
        "devconf.sqlite",
        "devconf.sqlite-shm",
        "devconf.sqlite-wal",
        "devconf.sqlite.lock",
    ]
    again, forced = await both(place.devconf("backup", "a.sqlite"), place.devconf("backup", "c.sqlite", "--force"))
    assert (again.status, again.out) == (1, "")
    assert again.err == "devconf: a.sqlite is there already and is not overwritten; remove it, or name another file\n"
    assert forced.out.startswith(f"c.sqlite is a backup of {place.url}: ")

    async with operator(place) as client:
        await client.request("post devices", {"dev_refid": "lost"})
    place.stop()
    restored = await place.devconf("restore", "a.sqlite", "--config", "devconf.toml", "--json")
    assert (restored.status, restored.err) == (0, "")
    before = Path(restored.json["before"])
    assert restored.json == {
        "database": f"{place.folder}/devconf.sqlite",
        "backup": "a.sqlite",
        "before": str(before),
    }
    assert re.fullmatch(r"devconf\.sqlite\.before-\d{8}T\d{6}Z", before.name)
    assert len(rows(before, "devices")) == 2
    # Whoever was logged in when the backup was made is not so again.
    assert rows(place.folder / "devconf.sqlite", "credentials") == []
    place.start()
    async with operator(place) as client:
        assert [device["dev_refid"] for device in (await client.request("get devices"))["devices"]] == ["kept"]


async def refused(place: Place) -> Done:
    async with operator(place) as client:
        await client.request("post users", {"user_name": "vera", "role": "viewer", "password": "vera"})
    vera = {**place.credentials, "DEVCONF_USER": "vera", "DEVCONF_PASSWORD": "vera"}
    return await place.devconf("backup", "b.sqlite", "--json", env=vera)


@contextmanager
def sending(content: bytes, *, length: int | None = None, kind: str = "application/octet-stream") -> Iterator[str]:
    """The address of something that logs everybody in, and sends this as a backup."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer = {"ecode": 0, "enote": "ok", "user_unid": "u", "atoken": "a", "rtoken": "r"}
            self._send(json.dumps(answer).encode(), "application/json", None)

        def do_GET(self) -> None:
            self._send(content, kind, length)

        def _send(self, body: bytes, kind: str, length: int | None) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_what_is_no_whole_backup_does_not_get_the_name(place: Place) -> None:
    whole = (place.folder / "a.sqlite").read_bytes()
    user = {"DEVCONF_USER": "u", "DEVCONF_PASSWORD": "p"}
    with sending(whole[:-4096], length=len(whole)) as cut, sending(whole[:-4096]) as short:
        broken, truncated = await both(
            place.devconf("backup", "x.sqlite", env={**user, "DEVCONF_URL": cut}),
            place.devconf("backup", "x.sqlite", env={**user, "DEVCONF_URL": short}),
        )
    assert (broken.status, broken.out) == (3, "")
    assert re.fullmatch(rf"devconf: the backup from {cut} broke off: [^\n]+\n", broken.err)
    assert (truncated.status, truncated.out) == (1, "")
    assert re.fullmatch(
        r"devconf: what the server sent is not a backup: [^\n]*malformed[^\n]*; x\.sqlite was not made\n", truncated.err
    )
    assert [path.name for path in place.folder.glob("*x.sqlite*")] == []
