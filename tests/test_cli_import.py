"""Enrolling many devices from a file: their keys, what is there already, and what an interruption leaves."""

from __future__ import annotations

import csv
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater

from tests.cli_kit import PATIENCE, Place, both, operator, serving

pytestmark = [pytest.mark.limit(120), pytest.mark.timeout(150, method="signal")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("place")) as place:
        yield place


def write(place: Place, name: str, dev_refids: list[str]) -> Path:
    path = place.folder / name
    path.write_text("".join(f"{line}\r\n" for line in ["dev_refid", *dev_refids]))
    return path


def keys_in(path: Path) -> dict[str, dict[str, str]]:
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="") as file:
        return {row["dev_refid"]: row for row in csv.DictReader(file)}


async def enrolled(place: Place, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with operator(place) as client:
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            after = {"after": page["next"]} if page["next"] else {}
            page = await client.request("get devices", {"text": text, "limit": 1000, **after})
            found |= {device["dev_refid"]: device["dev_unid"] for device in page["devices"]}
    return found


async def test_five_hundred_devices_and_a_second_time(place: Place) -> None:
    names = [f"box-{number}" for number in range(500)]
    write(place, "boxes.csv", names)
    done = await place.devconf("device", "import", "boxes.csv")
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        "500 enrolled, 0 there already, 0 not enrolled; the keys are in boxes.keys.csv, which only you may read\n"
    )
    keys = keys_in(place.folder / "boxes.keys.csv")
    assert {name: row["dev_unid"] for name, row in keys.items()} == await enrolled(place, "box-")
    login = place.log_in({"user_type": "dev", "dev_refid": "box-7", "dev_key": keys["box-7"]["dev_key"]})
    assert login["ecode"] == 0

    there, more = await both(
        place.devconf("devices", "import", "boxes.csv"),
        place.devconf("devices", "import", str(write(place, "two.csv", ["box-3", "new-1"])), "--json"),
    )
    assert (there.status, there.out) == (1, "")
    assert there.err == (
        "devconf: boxes.keys.csv is there already; --append goes on with it, --keys names another file\n"
    )
    assert (more.status, more.err) == (0, "")
    assert more.json == {
        "enrolled": [{"line": 3, "dev_refid": "new-1", "dev_unid": more.json["enrolled"][0]["dev_unid"]}],
        "existing": [{"line": 2, "dev_refid": "box-3"}],
        "failed": [],
        "keys": str(place.folder / "two.keys.csv"),
    }
    # What is enrolled already gives no keys, and so no file.
    nothing = await place.devconf("devices", "import", "two.csv", "--keys", "more.csv")
    assert (nothing.status, nothing.lines[0].split()) == (0, ["LINE", "DEV_REFID", "WHY", "NOT"])
    assert nothing.lines[-1] == "0 enrolled, 2 there already, 0 not enrolled"
    assert not (place.folder / "more.csv").exists()


async def test_an_interruption_loses_no_key(place: Place) -> None:
    names = [f"many-{number}" for number in range(20_000)]
    write(place, "many.csv", names)
    keys = place.folder / "many.keys.csv"
    process = place.popen("devices", "import", "many.csv")
    while not (keys.exists() and keys.read_text().count("\n") > 100):
        assert process.poll() is None, process.communicate()
        await wait()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")
    found = re.fullmatch(r"(\d+) enrolled, 0 there already, 0 not enrolled; the keys are in [^\n]+\n", out)
    assert found
    assert 100 <= int(found[1]) < len(names)
    assert {name: row["dev_unid"] for name, row in keys_in(keys).items()} == await enrolled(place, "many-")

    # Gone on with: the file has the keys of both. Its last line was cut off, as by a power cut.
    some = write(place, "some.csv", [*names[:50], "some-1", "some-2"])
    keys.write_bytes(keys.read_bytes() + b"many-77777,ab")
    more = await place.devconf("devices", "import", str(some), "--keys", keys, "--append")
    assert (more.status, more.lines[-1].partition(";")[0]) == (0, "2 enrolled, 50 there already, 0 not enrolled")
    assert {"many-0", "many-49", "some-1", "some-2"} < keys_in(keys).keys()


async def wait() -> None:
    from twisted.internet import reactor

    await deferLater(reactor, 0.02)


async def test_a_connection_that_is_lost(place: Place) -> None:
    write(place, "lost.csv", [f"lost-{number}" for number in range(20_000)])
    keys = place.folder / "lost.keys.csv"
    process = place.popen("devices", "import", "lost.csv")
    while not (keys.exists() and keys.read_text().count("\n") > 100):
        assert process.poll() is None, process.communicate()
        await wait()
    place.stop()
    out, err = process.communicate(timeout=PATIENCE)
    place.start()
    assert process.returncode == 3
    assert re.fullmatch(r"devconf: the connection is closed [^\n]*; give the same command again, with --append\n", err)
    told = keys_in(keys)
    unsure = set(re.findall(r"(lost-\d+) +no answer: it may be enrolled, without its key here", out))
    there = await enrolled(place, "lost-")
    assert told.keys() <= there.keys() <= told.keys() | unsure


async def test_who_may_not_enrol_is_told_once(place: Place) -> None:
    async with operator(place) as client:
        await client.request("post users", {"user_name": "vera", "role": "viewer", "password": "vera"})
    vera = {**place.credentials, "DEVCONF_USER": "vera", "DEVCONF_PASSWORD": "vera"}
    write(place, "vera.csv", ["vera-1", "vera-2"])
    done = await place.devconf("devices", "import", "vera.csv", env=vera)
    assert (done.status, done.out) == (4, "0 enrolled, 0 there already, 0 not enrolled\n")
    assert re.fullmatch(r"devconf: 1004030001: [^\n]+\n", done.err)
    assert not (place.folder / "vera.keys.csv").exists()


async def test_nothing_is_enrolled_from_a_file_with_a_mistake(place: Place) -> None:
    write(place, "wrong.csv", ["wrong-1", "wrong-1"])
    other = place.folder / "other.csv"
    other.write_text("something else\n")
    other.chmod(0o600)
    write(place, "right.csv", ["right-1"])
    wrong, foreign = await both(
        place.devconf("devices", "import", "wrong.csv"),
        place.devconf("devices", "import", "right.csv", "--keys", "other.csv", "--append"),
    )
    assert (wrong.status, wrong.out) == (2, "")
    assert wrong.err == (
        "devconf: wrong.csv: line 3: 'wrong-1' is in line 2 already (see: devconf devices import --help)\n"
    )
    assert (foreign.status, foreign.out) == (1, "")
    assert foreign.err == (
        "devconf: other.csv is no file of keys, so it is left alone; name another file with --keys\n"
    )
    assert await enrolled(place, "wrong-") == await enrolled(place, "right-") == {}
