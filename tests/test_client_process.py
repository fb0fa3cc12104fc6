"""The client that stays, and a device, against a server process that is killed and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from devconf.client import CannotConnect, LastingClient, Message, RequestFailed, connect
from devconf.device import Device, IApplication, Journal, Order
from tests.server_process import Process


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    from twisted.internet import reactor

    process = Process(reactor, tmp_path_factory.mktemp("server"))
    pytest_twisted.blockon(Deferred.fromCoroutine(process.start()))
    yield process
    pytest_twisted.blockon(Deferred.fromCoroutine(process.end()))


@implementer(IApplication)
class Application:
    """Takes everything, and remembers it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def add(self, order: Order) -> None:
        self._do(order)

    def modify(self, order: Order) -> None:
        self._do(order)

    def delete(self, order: Order) -> None:
        self._do(order)

    def call(self, command: str, params: Message) -> Message:
        return {"heard": [command, params]}

    def _do(self, order: Order) -> None:
        self.done.append(order.kind)


# A server that is killed and started on a busy machine takes its time.
pytestmark = pytest.mark.limit(120)


class Owner:
    """What the program that has the client is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self._waiting: list[tuple[Any, Deferred[None]]] = []

    def hear(self, what: Any) -> None:
        self.heard.append(what)
        for wanted, waiting in list(self._waiting):
            if wanted == what:
                self._waiting.remove((wanted, waiting))
                waiting.callback(None)

    def next(self, wanted: Any) -> Deferred[None]:
        """Wait until it is told this, from now on."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append((wanted, waiting))
        return waiting


async def test_a_server_that_is_killed_and_comes_back(process: Process, tmp_path: Path) -> None:
    owner = Owner()
    client = LastingClient(
        process.reactor,
        process.url,
        process.user,
        process.password,
        connected=lambda: owner.hear("connected"),
        lost=lambda _why: owner.hear("lost"),
    )
    client.start()
    await client.subscribe(
        ["devices"],
        lambda event: owner.hear((event["data"]["dev_refid"], event["data"]["change"])),
        lambda count: owner.hear(("missed", count)),
    )
    enrolled = await client.request("post devices", {"dev_refid": "gate-7"})
    journal = Journal(str(tmp_path / "gate-7.json"))
    application = Application()
    device = Device(process.reactor, process.url, "gate-7", enrolled["dev_key"], application, journal=journal)
    arrived = owner.next(("gate-7", "connected"))
    device.start()
    await arrived
    task = {"name": "n", "task_type": "pic", "dev_unids": [enrolled["dev_unid"]]}
    made = await client.request("post tasks", task)
    assert made["devices"][0]["state"] == "confirmed"

    again = [owner.next("connected"), owner.next(("missed", None))]
    await process.kill()
    await process.start()
    for one in again:
        await one
    while not (await client.request("get devices", {"online": True}))["devices"]:
        await deferLater(process.reactor, 0.05)
    changed = await client.request(
        "post tasks/pic_task_config", {"task_id": made["task_id"], "algo_comb": [{"algo_id": "a"}]}
    )
    assert changed["devices"][0]["state"] == "confirmed"
    assert application.done == ["add", "modify"], "what it had, it said, and was not sent again"
    assert Journal(str(tmp_path / "gate-7.json")).tasks() == [{"task_id": made["task_id"], "rev": changed["rev"]}]
    gone = owner.next(("gate-7", "disconnected"))
    await device.stop()
    await gone
    await client.log_out()


async def test_a_login_that_is_ended_elsewhere_is_renewed(process: Process) -> None:
    """Somebody uses our rtoken: the family ends with its sockets, and we come back with name and password."""
    owner = Owner()
    client = LastingClient(
        process.reactor,
        process.url,
        process.user,
        process.password,
        connected=lambda: owner.hear("connected"),
        lost=lambda why: owner.hear(why.code),
    )
    client.start()
    connection = await client.when_connected()
    assert client._login is not None
    again = [owner.next(1008), owner.next("connected")]
    await client._server.renew(client._login)
    with pytest.raises(RequestFailed, match="used before"):
        await client._server.renew(client._login)
    for one in again:
        await one
    assert not connection.is_open
    assert (await client.request("get tasks"))["ecode"] == 0
    await client.log_out()


async def test_an_account_that_is_deleted_ends_the_client(process: Process) -> None:
    admin = await connect(process.reactor, process.url, process.user, process.password)
    await admin.request("post users", {"user_name": "bob", "role": "viewer", "password": "bobs secret"})
    client = LastingClient(process.reactor, process.url, "bob", "bobs secret")
    client.start()
    assert (await client.request("get tasks"))["ecode"] == 0
    ended = client.when_ended()
    await admin.request("delete users", {"user_name": "bob"})
    with pytest.raises(RequestFailed, match="1004010003: wrong user_name or password"):
        await ended
    with pytest.raises(CannotConnect, match="wrong user_name or password"):
        await client.request("get tasks")
    await admin.log_out()


async def test_after_logging_out_the_tokens_are_worth_nothing(process: Process) -> None:
    client = LastingClient(process.reactor, process.url, process.user, process.password)
    client.start()
    await client.when_connected()
    login = client._login
    assert login is not None
    await client.log_out()
    for attempt in (client._server.ws_url(login), client._server.renew(login)):
        with pytest.raises(RequestFailed, match=r"^1004010001: "):
            await attempt
