"""The page of ``docs/clients.md``, in a browser, from a site of ours that has devconf in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update
from twisted.internet.defer import Deferred

from devconf.client import connect
from devconf.store.tables import users
from tests.clients.child import Child
from tests.clients.document import needs_chromium, programs
from tests.clients.host import PASSWORD, USER, Host
from tests.clients.slow import slow_device

pytestmark = [needs_chromium, pytest.mark.limit(120), pytest.mark.timeout(200)]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)

#: Stands for whoever sits before the page: does what they would do, and reports what they would see.
SOMEBODY = """
<script type="module">
  const report = (what) => fetch("/report", { method: "POST", body: JSON.stringify(what) });
  addEventListener("error", (event) => report(`error: ${event.message}`), true);
  addEventListener("unhandledrejection", (event) => report(`error: ${event.reason}`));
  const $ = (selector) => document.querySelector(selector);
  const sees = async (selector, wanted) => {
    while (!wanted.test($(selector).innerText.trim())) await new Promise((done) => setTimeout(done, 20));
    await report($(selector).innerText.trim().replace(/\\s+/g, " "));
  };
  const enters = (password) => {
    Object.assign($("#enter [name=user]"), { value: "USER" });
    Object.assign($("#enter [name=password]"), { value: password });
    $("#enter").requestSubmit();
  };

  await sees("#state", /not connected/);
  enters("wrong");
  await sees("#state", /1004010003/);
  enters("PASSWORD");
  await sees("#state", /^connected$/);
  await sees("#devices", /gate-7: online/);
  await sees("#devices", /gate-8: online/);
  $("#configure [name=algo]").value = "face";
  $("#configure").requestSubmit();
  await sees("#configure output", /./);
  await report($("#configure progress").max);
  await sees("#state", /not connected/);
  await sees("#state", /^connected$/);
</script>
"""


@asynccontextmanager
async def browser(host: Host, page: str, folder: Path) -> AsyncIterator[Child]:
    chromium = shutil.which("chromium")
    assert chromium is not None
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", page]
    child = Child(host.reactor, command, folder, HOME=str(folder))
    try:
        yield child
    finally:
        await child.kill("TERM")


async def sees(host: Host, child: Child) -> Any:
    """What the page reports next."""
    waiting: Deferred[Any] = host.reports.get()
    waiting.addTimeout(30, host.reactor)
    try:
        return await waiting
    except Exception as late:
        raise AssertionError(f"the page reports nothing; the browser says:\n{child.errors}") from late


async def test_the_page(host: Host, tmp_path: Path) -> None:
    files = programs()
    somebody = SOMEBODY.replace("USER", USER).replace("PASSWORD", PASSWORD)
    host.page("page.html", files["page.html"] + somebody)
    host.page("devconf.mjs", files["devconf.mjs"])
    client = await connect(host.reactor, host.url, USER, PASSWORD)
    async with slow_device(host, client, "gate-7") as first:
        made = await client.request("post tasks", {"name": "gate", "task_type": "pic", "dev_unids": [first]})
        async with browser(host, f"{host.origin}/page.html", tmp_path) as child:
            assert await sees(host, child) == "not connected"
            assert await sees(host, child) == "1004010003: wrong user_name or password"
            assert await sees(host, child) == "connected"
            assert await sees(host, child) == "gate-7: online"
            async with slow_device(host, client, "gate-8"):
                assert await sees(host, child) == "gate-7: online gate-8: online"
            assert (await sees(host, child), await sees(host, child)) == ("confirmed, rev 2", 1)
            (task,) = (await client.request("get tasks", {"task_id": made["task_id"]}))["tasks"]
            assert [algo["algo_id"] for algo in task["algo_comb"]] == ["face"]

            # It comes back by its rtoken: the atoken has expired, and the password is another by now.
            host.service.auth._now = lambda: time.time() + 7200
            await host.service.store.run(forget_password)
            host.service.sessions.end_all(1001, "the server is stopping")
            assert await sees(host, child) == "not connected (1001 the server is stopping); trying again"
            assert await sees(host, child) == "connected"


def forget_password(connection: Connection) -> None:
    connection.execute(update(users).values(password_hash="plain another"))
