"""The commands that ask a running server, as their users run them: what they print, and how they end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import Place, both, online, operator, serving

pytestmark = [pytest.mark.limit(120), pytest.mark.timeout(150, method="signal")]

ID = r"[0-9a-f]{32}"
PATH = "/wsapi/v1/devconf_fx/"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("place")) as place:
        yield place


async def test_a_device_from_its_enrolment_to_its_end(place: Place) -> None:
    options = ["--name", "前门", "--type", "cam", "--no-key-required", "--json"]
    added = await place.devconf("devices", "add", "gate-1", *options)
    assert (added.status, added.err) == (0, "the key is shown this once; give it to the device now\n")
    dev_unid, dev_key = added.json["dev_unid"], added.json["dev_key"]
    assert added.json == {
        "command": f"post {PATH}devices",
        "req_id": "1",
        "ecode": 0,
        "enote": "ok",
        "dev_unid": dev_unid,
        "dev_key": dev_key,
    }
    device = {
        "dev_unid": dev_unid,
        "dev_refid": "gate-1",
        "dev_name": "前门",
        "dev_type": "cam",
        "enabled": True,
        "key_required": False,
        "algos": None,
        "online": False,
        "since": None,
        "addr": None,
        "pending": 0,
        "refused": 0,
    }
    listed, plain = await both(
        place.devconf("devices", "list", "--offline", "--text", "GATE-1", "--json"),
        place.devconf("device", "list"),
    )
    assert (listed.status, listed.json, listed.err) == (0, [device], "")
    assert plain.lines == [
        "DEV_UNID                          DEV_REFID  NAME  TYPE  ENABLED  ONLINE  PENDING  REFUSED",
        f"{dev_unid}  gate-1     前门  cam   yes      no      0        0",
    ]

    changed = await place.devconf("devices", "set", dev_unid, "--name", "", "--disable", "--new-key")
    assert re.fullmatch(rf"dev_unid  {dev_unid}\ndev_key   [0-9a-f]{{64}}\n", changed.out)
    shown, again = await both(place.devconf("devices", "show", dev_unid), place.devconf("devices", "add", "gate-1"))
    assert {"enabled       no", "dev_name      -"} < set(shown.lines)
    assert (again.status, again.out) == (1, "")
    assert again.err == "devconf: 1004090003: there is a device 'gate-1' already ($.params.dev_refid)\n"
    assert (await place.devconf("devices", "remove", "gate-1")).out == "gate-1 is gone\n"
    gone = await place.devconf("devices", "show", "gate-1")
    assert (gone.status, gone.out) == (1, "")
    assert gone.err == "devconf: there is no device 'gate-1'; 'devconf devices list' shows all that there are\n"


async def test_devices_that_are_not_enrolled_are_listed(place: Place) -> None:
    assert place.log_in({"user_type": "dev", "dev_refid": "stranger", "dev_key": "0" * 64})["ecode"] == 1004010003
    unknown, table = await both(place.devconf("devices", "unknown", "--json"), place.devconf("devices", "unknown"))
    (stranger,) = unknown.json
    assert stranger.pop("first_at") == stranger.pop("last_at")
    assert stranger == {"dev_refid": "stranger", "addr": "127.0.0.1", "count": 1}
    assert table.lines[0].split() == ["DEV_REFID", "ADDRESS", "FIRST", "LAST", "TIMES"]


async def test_a_task_and_what_its_devices_say(place: Place) -> None:
    async with online(place, "box-1") as (box, dev_unid):
        made = await place.devconf("task", "add", "gate", "--type", "pic", "--algos", "face,plate", "--device", "box-1")
        assert (made.status, made.err) == (0, "")
        found = re.fullmatch(rf"task ({ID}) is made; 1 of 1 devices confirmed\n", made.out)
        assert found
        task_id = found[1]

        box.refuses = True
        refused = await place.devconf("tasks", "algos", task_id, '[{"algo_id": "fire", "params": {"x": 1}}]')
        assert refused.status == 5
        assert refused.lines == [
            "DEV_REFID  DEV_UNID                          STATE    ECODE  ENOTE",
            f"box-1      {dev_unid}  refused  7      no room \\x1b[31mhere",
        ]
        assert re.fullmatch(r"devconf: 1005020001: [^\n]+\n", refused.err)

        box.refuses, box.silent = False, True
        silent = await place.devconf("tasks", "algos", task_id, "fire", "--json")
        enote = "the device did not answer in time"
        pending = {"dev_unid": dev_unid, "state": "pending", "ecode": 1005040001, "enote": enote}
        assert (silent.status, silent.json["ecode"], silent.json["devices"]) == (6, 1005040001, [pending])

    shown = (await place.devconf("tasks", "show", task_id, "--json")).json
    assert shown == {
        "task_id": task_id,
        "name": "gate",
        "task_type": "pic",
        "rev": shown["rev"],
        "algo_comb": [{"algo_id": name, "enabled": True, "params": {}} for name in ("face", "plate")],
        "store_conf_unid": None,
        "dev_unids": [dev_unid],
        "subtask_count": 0,
        "state": "pending",
        "created_at": shown["created_at"],
        "updated_at": shown["updated_at"],
    }
    renamed = await place.devconf("tasks", "set", task_id, "--name", "back", "--no-device", "--connect-wait", "0.1")
    assert re.fullmatch(rf"task {task_id} is rev \d+ now; 0 of 1 devices confirmed", renamed.lines[0])
    listed = await place.devconf("tasks", "list", "--type", "pic", "--state", "confirmed")
    assert re.fullmatch(rf"{task_id}  back  pic   \d+    0        0         confirmed", listed.lines[1])
    removed = await place.devconf("tasks", "remove", task_id, "--json")
    async with operator(place) as client:
        newest, before = (await client.request("get commands", {"limit": 2}))["commands"]
    assert before["params"] == {"task_id": task_id, "name": "back", "dev_unids": [], "connect_wait": 0.1}
    assert removed.json == {
        "command": f"delete {PATH}tasks",
        "req_id": "1",
        "ecode": 0,
        "enote": "ok",
        "task_id": task_id,
        "command_id": newest["command_id"],
    }


async def test_a_call_with_a_key_is_carried_out_once(place: Place) -> None:
    asked = ("call", "post tasks", '{"name": "yard", "task_type": "video"}', "--idempotency-key", "k-1")
    first, second = await both(place.devconf(*asked), place.devconf(*asked))
    assert first.status == 0
    assert first.json["task_id"] == second.json["task_id"]


async def test_a_subtask_whose_device_goes_offline(place: Place) -> None:
    task = (await place.devconf("tasks", "add", "film", "--type", "video", "--json")).json["task_id"]
    async with online(place, "box-2"):
        made = await place.devconf("subtasks", "add", "--task", task, "--device", "box-2", "--vchan", '{"channel": 1}')
        assert re.fullmatch(rf"subtask {ID} is made; 1 of 1 devices confirmed\n", made.out)
    (subtask,) = (await place.devconf("subtask", "list", "--device", "box-2", "--json")).json
    assert (subtask["task_id"], subtask["vchan"], subtask["state"]) == (task, {"channel": 1}, "confirmed")
    offline, in_use = await both(
        place.devconf("subtasks", "remove", subtask["subtask_id"]), place.devconf("tasks", "remove", task, "--force")
    )
    assert (offline.status, offline.lines[1].split()[0]) == (6, "box-2")
    assert (in_use.status, in_use.err.split()[1]) == (1, "1004090001:")
    wait = ("--connect-wait", "301")
    usage, removed = await both(
        place.devconf("subtasks", "remove", subtask["subtask_id"], *wait),
        place.devconf("subtasks", "remove", subtask["subtask_id"], "--force", "--connect-wait", "0.1"),
    )
    assert (usage.status, "--connect-wait" in usage.err) == (2, True)
    assert (removed.status, removed.out) == (0, f"subtask {subtask['subtask_id']} is gone\n")


async def test_a_storage_configuration_and_who_was_not_reached(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "disk.xml"
    file.write_text("<a/>")
    stored = await place.devconf("store-confs", "add", file)
    unid = stored.out.split()[2]
    assert stored.out == f"storage configuration {unid} is stored\n"
    async with online(place, "box-3") as (_, here), operator(place) as client:
        away = (await client.request("post devices", {"dev_refid": "box-4"}))["dev_unid"]
        task = {"name": "both", "task_type": "pic", "store_conf_unid": unid, "dev_unids": [here, away]}
        task_id = (await client.request("post tasks", task))["task_id"]
        file.write_text("<b/>")
        partly = await place.devconf("store-conf", "put", file, "--unid", unid)
        assert partly.status == 7
        assert partly.err == "devconf: 1005030001: stored; 1 of 2 will get it when they return\n"
        assert partly.lines == [
            "DEV_REFID  DEV_UNID                          STATE    ECODE       ENOTE",
            f"box-4      {away}  pending  1005030001  the device is offline",
        ]
        await client.request("put tasks", {"task_id": task_id, "dev_unids": [here]})
        file.write_text("<c/>")
        wholly = await place.devconf("store-conf", "put", file, "--unid", unid)
        assert (wholly.status, wholly.out) == (0, f"storage configuration {unid} is rev 3 now; 1 of 1 have got it\n")

    got, listed = await both(
        place.devconf("store-confs", "get", unid, "out.xml"), place.devconf("store-confs", "list", "--json")
    )
    assert (got.out, got.err) == ("out.xml has the 4 bytes of rev 3\n", "")
    written = place.folder / "out.xml"
    assert (written.read_text(), written.stat().st_mode & 0o777) == ("<c/>", 0o600)
    (conf,) = listed.json
    assert (conf["unid"], conf["name"], conf["file_ext"], conf["rev"]) == (unid, "disk", "xml", 3)
    file.write_text("<open>")
    again, wrong = await both(
        place.devconf("store-confs", "get", unid, "out.xml"),
        place.devconf("store-confs", "put", file, "--unid", unid),
    )
    assert (again.status, again.err.partition(" and ")[0]) == (1, "devconf: out.xml is there already")
    assert (wrong.status, wrong.out, wrong.err.split()[1]) == (1, "", "1004000004:")
    assert (await place.devconf("store-confs", "remove", unid)).err.startswith("devconf: 1004090004: ")


async def test_a_call_is_answered_by_the_device(place: Place) -> None:
    async with online(place, "box-5") as (box, _):
        answered, resent = await both(
            place.devconf("devices", "call", "box-5", "get /ops/disks", '{"slot": 2}', "--timeout", "30"),
            place.devconf("devices", "resync", "box-5"),
        )
        assert (answered.status, answered.json["heard"]) == (0, ["get /ops/disks", {"slot": 2}])
        assert resent.out == "box-5 is sent 0 orders again\n"
        box.refuses = True
        refused = await place.devconf("devices", "call", "box-5", "get /ops/disks", "-", text='{"slot": 2}')
        assert (refused.status, refused.json["ecode"]) == (5, 31)
        assert refused.err == "devconf: box-5 answered 31: slot 2 is empty\n"
    offline = await place.devconf("devices", "call", "box-5", "get /ops/disks")
    assert (offline.status, offline.out) == (6, "")


async def test_accounts_and_what_they_may(place: Place) -> None:
    added, no_terminal = await both(
        place.devconf("users", "add", "vera", "--role", "viewer", "--new-password-stdin", text="first\n"),
        place.devconf("users", "add", "nobody", "--role", "viewer"),
    )
    assert (added.status, added.out) == (0, "vera is viewer now\n")
    assert (no_terminal.status, no_terminal.out) == (2, "")
    assert no_terminal.err == (
        "devconf: there is no terminal to ask for the new password; use --new-password-stdin"
        " (see: devconf users add --help)\n"
    )
    vera = {**place.credentials, "DEVCONF_USER": "vera", "DEVCONF_PASSWORD": "first"}
    forbidden = await place.devconf("users", "list", env=vera)
    assert (forbidden.status, forbidden.out, forbidden.err.split()[1]) == (4, "", "1004030001:")
    # The first line is to log in with, the second is the new one.
    own = await place.devconf(
        *("users", "passwd", "--user", "vera", "--password-stdin", "--new-password-stdin", "--url", place.url),
        text="first\nsecond\n",
        env={},
    )
    assert (own.status, own.out) == (0, "vera has a new password\n"), own.err
    old, promoted = await both(
        place.devconf("devices", "list", env=vera), place.devconf("users", "set", "vera", "--role", "operator")
    )
    assert (old.status, old.out) == (3, "")
    assert re.fullmatch(rf"devconf: cannot log in at {place.url}: 1004010003: [^\n]+\n", old.err)
    assert promoted.out == "vera is operator now\n"
    listed: Any = (await place.devconf("users", "list", "--json")).json
    assert [(user["user_name"], user["role"]) for user in listed] == [("admin", "admin"), ("vera", "operator")]
    assert (await place.devconf("users", "remove", "vera")).out == "vera is gone\n"


async def test_the_history(place: Place) -> None:
    async with operator(place) as client:
        await client.request("post devices", {"dev_refid": "box-6"})
    listed, two = await both(
        place.devconf("history", "list", "--device", "box-6", "--by", "admin", "--json"),
        place.devconf("history", "list", "--limit", "2"),
    )
    (entry,) = listed.json
    assert (entry["command"], entry["user_name"], entry["outcome"]) == (f"post {PATH}devices", "admin", "ok")
    assert len(two.lines) == 3
    assert re.fullmatch(rf"\S+Z  {ID}  admin  post devices .* ok .*", two.lines[1])
    assert two.err == "these are the newest 2; --limit asks for more\n"
    shown = await place.devconf("history", "show", entry["command_id"])
    assert ["command_id", entry["command_id"]] in [line.split() for line in shown.lines]


async def test_lists_are_read_page_by_page(place: Place) -> None:
    async with operator(place) as client:
        for number in range(1003):
            last = client.request("post devices", {"dev_refid": f"page-{number:04}"})
            if number % 200 == 0:
                await last  # the server bounds what is in flight
        await last
    whole, bounded = await both(
        place.devconf("devices", "list", "--text", "page-", "--json"),
        place.devconf("devices", "list", "--text", "page-", "--limit", "1002", "--json"),
    )
    assert [device["dev_refid"] for device in whole.json] == [f"page-{number:04}" for number in range(1003)]
    assert len(bounded.json) == 1002
