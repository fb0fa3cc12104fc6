"""Commands that stay, or end otherwise than by themselves: watching, signals, a pipe that closes, no server."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli_kit import PATIENCE, Place, both, operator, serving

pytestmark = [pytest.mark.limit(120), pytest.mark.timeout(150, method="signal")]

ID = r"[0-9a-f]{32}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("place")) as place:
        yield place


async def enrol(place: Place, dev_refid: str) -> None:
    async with operator(place) as client:
        await client.request("post devices", {"dev_refid": dev_refid})


@contextmanager
def watching(place: Place, *args: str) -> Iterator[subprocess.Popen[str]]:
    """``devconf watch``, once it is subscribed."""
    process = place.popen("watch", *args)
    try:
        heard(process.stderr, "watching ")
        yield process
    finally:
        process.kill()
        process.communicate()


def heard(stream: Any, word: str) -> str:
    """The next line that has ``word``."""
    for line in stream:
        if word in line:
            return str(line)
    raise AssertionError(f"{word} never came")


async def test_what_is_watched_goes_on_after_a_restart(place: Place) -> None:
    with watching(place, "devices", "--json") as watch:
        await enrol(place, "seen-1")
        assert re.fullmatch(
            rf'\{{"event": "devices", "seq": 1, "at": "[^"]+", "data": \{{"dev_unid": "{ID}",'
            r' "dev_refid": "seen-1", "change": "enrolled"\}\}\n',
            heard(watch.stdout, ""),
        )
        place.stop()
        place.start()
        assert heard(watch.stderr, "missed") == "some events were missed while there was no connection\n"
        await enrol(place, "seen-2")
        assert "seen-2" in heard(watch.stdout, "")
        watch.send_signal(signal.SIGINT)
        out, err = watch.communicate(timeout=PATIENCE)
        assert (watch.returncode, out, err) == (130, "", "")


async def test_watching_ends_after_so_many_events_or_with_the_pipe(place: Place) -> None:
    with watching(place, "--count", "2") as watch, watching(place) as piped:
        assert piped.stdout is not None
        piped.stdout.close()
        await enrol(place, "counted")
        out, err = watch.communicate(timeout=PATIENCE)
        assert (watch.returncode, err) == (0, "")
        told = sorted(line.partition(" ")[2] for line in out.splitlines())
        assert told == ["commands   admin: post devices: ok", "devices    counted enrolled"]
        assert piped.wait(PATIENCE) == 1
        assert piped.stderr is not None
        assert piped.stderr.read() == ""


def test_a_signal_ends_it_quietly(place: Place) -> None:
    with watching(place) as interrupted, watching(place) as terminated:
        interrupted.send_signal(signal.SIGINT)
        terminated.send_signal(signal.SIGTERM)
        ends = [(process.communicate(timeout=PATIENCE), process.returncode) for process in (interrupted, terminated)]
    assert ends == [(("", ""), 130), (("", ""), 143)]


async def test_a_reader_that_has_gone(place: Place) -> None:
    process = place.popen("devices", "list")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (1, "")


async def test_the_database_of_a_running_server_is_left_alone(place: Place) -> None:
    listed, restored = await both(
        place.devconf("--config", "devconf.toml", "user", "list"),
        place.devconf("restore", "credentials", "--config", "devconf.toml"),
    )
    held = f"devconf: the database is in use by process {place.pid}; stop it first ({place.folder}/devconf.sqlite.lock)"
    assert (listed.status, listed.out) == (1, "")
    assert listed.err == f"{held}, or use 'devconf users' while it runs\n"
    assert (restored.status, restored.out, restored.err) == (1, "", f"{held}\n")


async def test_a_server_that_is_not_there(place: Place) -> None:
    nowhere = {**place.credentials, "DEVCONF_URL": "http://127.0.0.1:1"}
    for command in (["devices", "list"], ["watch"], ["backup", "nothing.sqlite"]):
        done = await place.devconf(*command, env=nowhere)
        assert (done.status, done.out) == (3, "")
        assert re.fullmatch(r"devconf: [^\n]*Connection was refused[^\n]*\n", done.err), command
    assert [path.name for path in place.folder.glob("*nothing*")] == []
