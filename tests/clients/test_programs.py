"""The clients and devices of ``docs/clients.md``, each run as it stands there."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater

from devconf.client import Client, connect
from tests.clients.child import Child
from tests.clients.document import DOCUMENT, Language, blocks, commands, programs
from tests.clients.host import PASSWORD, USER, Host
from tests.clients.slow import slow_device
from tests.server_process import Process

# Compiling belongs to the test that is the first to need it.
pytestmark = [pytest.mark.limit(120), pytest.mark.timeout(400)]


@asynccontextmanager
async def connected(process: Process) -> AsyncIterator[Client]:
    client = await connect(process.reactor, process.url, process.user, process.password)
    try:
        yield client
    finally:
        await client.log_out()


async def online(client: Client, dev_unid: str, reactor: Any) -> None:
    """Wait until the device is connected."""
    while True:
        listed = await client.request("get devices", {"dev_unid": dev_unid, "online": True})
        if listed["devices"]:
            return
        await deferLater(reactor, 0.05)


def test_every_program_of_the_document_is_run() -> None:
    assert set(programs()) == {
        *("client.py", "watch.py", "device.py"),
        *("devconf.mjs", "client.mjs", "page.html", "device.mjs"),
        *("devconf.hpp", "devconf.cpp", "client.cpp", "device.cpp"),
    }
    others = {info for info, _ in blocks() if len(info.split()) != 2}
    assert others == {"console"}
    assert "--experimental-websocket" in DOCUMENT.read_text("utf-8")


async def test_the_client(language: Language, process: Process) -> None:
    """What the document shows, with another id, and as slow as the device is."""
    async with connected(process) as client:
        async with slow_device(process, client, f"slow-{language.name}") as dev_unid:
            child = Child(
                process.reactor,
                [*language.client, process.url, process.user, dev_unid],
                language.folder,
                DEVCONF_PASSWORD=process.password,
            )
            assert await child.end() == 0, child.errors
    shown = next(text for info, text in blocks() if info == "console" and "client.py" in text)
    expected = [line.replace(shown.split()[6], dev_unid) for line in shown.splitlines()[1:]]
    # How often it is told that nothing is done depends on the time. Events may come after the response.
    assert sorted(set(child.lines)) == sorted(expected)
    answers = [line for line in child.lines if not line.startswith(("rev ", "0 of "))]
    assert answers == ["made: confirmed", "1 of 1 devices", "configured", "refused: 1004040001"]


async def test_the_client_is_told_what_is_wrong(language: Language, process: Process) -> None:
    child = Child(
        process.reactor, [*language.client, process.url, process.user, "x"], language.folder, DEVCONF_PASSWORD="wrong"
    )
    assert await child.end() == 1
    assert "wrong user_name or password" in child.errors
    assert child.lines == []


async def test_the_device(language: Language, process: Process, tmp_path: Path) -> None:
    """It carries out orders, remembers them through a crash of its own, and comes back when the server crashes."""
    dev_refid = f"gate-{language.name}"
    journal = tmp_path / "journal.json"
    async with connected(process) as client:
        enrolled = await client.request("post devices", {"dev_refid": dev_refid})
        dev_unid = enrolled["dev_unid"]

        def run() -> Child:
            command = [*language.device, process.url, dev_refid, str(journal)]
            return Child(process.reactor, command, language.folder, DEV_KEY=enrolled["dev_key"])

        first = run()
        await first.until("connected")
        (described,) = (await client.request("get devices", {"dev_unid": dev_unid}))["devices"]
        assert (described["dev_type"], described["dev_name"]) == ("gate", "north gate")
        made = await client.request("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [dev_unid]})
        assert made["devices"][0]["state"] == "confirmed"
        await first.kill()
        assert first.lines == ["connected", "add gate"]

        second = run()
        await second.until("connected")
        await online(client, dev_unid, process.reactor)
        task = {"task_id": made["task_id"]}
        configured = await client.request("post tasks/pic_task_config", task | {"algo_comb": [{"algo_id": "face"}]})
        assert configured["devices"][0]["state"] == "confirmed"
        uptime = {"dev_unid": dev_unid, "command": "get /uptime", "params": {"a": ["\u00e9", None]}}
        answer = (await client.request("post devices/call", uptime))["answer"]
        assert (answer["ecode"], answer["asked"], type(answer["seconds"])) == (0, {"a": ["\u00e9", None]}, int)
        nothing = {"dev_unid": dev_unid, "command": "get /nothing"}
        answer = (await client.request("post devices/call", nothing))["answer"]
        assert (answer["ecode"], answer["enote"]) == (1, "get /nothing is nothing I know")

    await process.kill()
    await process.start()
    await second.until("connected", 2)
    async with connected(process) as client:
        await online(client, dev_unid, process.reactor)
        await client.request("delete tasks", task)
        # Its key is given to another: the tokens are worth nothing, and neither is the key.
        await client.request("put devices", {"dev_unid": dev_unid, "new_key": True})
    await second.kill()
    lines = [line for line in second.lines if not line.startswith(("not connected", "the connection", "cannot"))]
    assert lines == ["connected", "modify algo_comb", "connected", f"delete {made['task_id']}"]
    assert not list(tmp_path.glob("*.new"))


async def test_what_a_device_does(language: Language, host: Host, tmp_path: Path) -> None:
    """§6: what it answers to the same rev, to a lower one and to what it lacks; what it makes of a torn journal."""
    client = await connect(host.reactor, host.url, USER, PASSWORD)
    enrolled = await client.request("post devices", {"dev_refid": "gate-7"})
    dev_unid, journal = enrolled["dev_unid"], tmp_path / "journal.json"
    command = [*language.device, host.url, "gate-7", str(journal)]
    child = Child(host.reactor, command, language.folder, DEV_KEY=enrolled["dev_key"])
    await child.until("connected")
    await online(client, dev_unid, host.reactor)

    async def order(method: str, **params: Any) -> tuple[int, Any]:
        answer = await host.order(dev_unid, method, **params)
        assert isinstance(answer["enote"], str)
        return answer["ecode"], answer.get("rev")

    add = {"task_type": "pic", "name": "n", "algo_comb": []}
    assert await order("post", task_id="t", rev=5, **add) == (0, None)
    assert await order("post", task_id="t", rev=5, **add) == (0, None)
    assert await order("post", task_id="t", rev=4, **add) == (1004090008, 5)
    assert await order("delete", task_id="t", rev=4) == (1004090008, 5)
    assert await order("post", task_id="t", rev=6, **add) == (0, None)
    assert await order("put", task_id="t", rev=8, name="m", store_conf=None) == (0, None)
    assert await order("put", task_id="u", rev=1, name="m") == (1004040001, None)
    assert await order("put", task_id="t", subtask_id="s", rev=1, name="m") == (1004040003, None)
    assert await order("post", task_id="t", subtask_id="s", rev=2, **add) == (0, None)
    assert (await order("delete", task_id="u", rev=2))[0] in (0, 1004040001)
    assert await order("delete", task_id="t", rev=9) == (0, None)
    assert await order("put", task_id="t", rev=10, name="m") == (1004040001, None)
    assert await order("post", task_id="t", rev=9, **add) == (0, None)
    assert await order("post", task_id="t", rev=8, **add) == (1004090008, 9)
    answered = await host.order(dev_unid, "post", task_id=["not", "a", "text"], rev={})
    assert answered["ecode"] != 0
    await child.kill()
    assert [line for line in child.lines if not line.startswith("delete u")] == [
        *("connected", "add n", "add n", "modify name store_conf", "add n", "delete t")
    ]

    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(whole) // 2])
    child = Child(host.reactor, command, language.folder, DEV_KEY=enrolled["dev_key"])
    await child.until("connected")
    await child.kill()
    assert any("damaged" in line for line in child.lines)
    assert Path(f"{journal}.damaged").read_bytes() == whole[: len(whole) // 2]
    await client.close()


async def test_the_client_that_stays(process: Process, folder: Path) -> None:
    async with connected(process) as client:
        child = Child(
            process.reactor,
            [sys.executable, "watch.py", process.url, process.user],
            folder,
            DEVCONF_PASSWORD=process.password,
        )
        await child.until("0 online")
        enrolled = await client.request("post devices", {"dev_refid": "seen"})
        await child.until("seen enrolled")
    await process.stop()
    await child.until("lost: 1001")
    await process.start()
    await child.until("0 online", 2)
    async with connected(process) as client:
        await client.request("delete devices", {"dev_unid": enrolled["dev_unid"]})
        await child.until("seen deleted")
    await child.kill()
    assert child.lines == ["0 online", "seen enrolled", "lost: 1001", "0 online", "seen deleted"]


def test_the_commands_name_the_programs() -> None:
    names = {word for command in commands() for word in command if word.endswith((".cpp", ".py"))}
    assert names == {"client.py", "devconf.cpp", "client.cpp", "device.cpp"}
