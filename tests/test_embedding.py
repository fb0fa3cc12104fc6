"""The service as a child of a host's services: it starts, stops and fails without harm."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from sqlalchemy.exc import OperationalError
from treq.client import HTTPClient
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from devconf.client import CannotConnect, Client, connect
from devconf.config import Config
from devconf.errors import StartupError, StoreFailed
from devconf.service import DevconfService
from devconf.store import backup
from devconf.testing import MemoryServer
from devconf.ways_in import Server
from devconf.web import listening
from tests.conftest import LoggedErrors

ENDED = "this DevconfService has ended; make a new one to start again"


class Neighbour(Service):
    """Another service of the host."""


class Host:
    """A program with services of its own, on the reactor of the tests."""

    def __init__(self, reactor: Any, folder: Path) -> None:
        self.reactor = reactor
        self.folder = folder
        self.services = MultiService()
        self.neighbour = Neighbour()
        self.neighbour.setServiceParent(self.services)
        self.made: list[DevconfService] = []

    def make(self, name: str = "devconf", *listen: str) -> DevconfService:
        database = f"sqlite:///{self.folder / name}.sqlite"
        config = Config(listen=listen or ("tcp:0:interface=127.0.0.1",), database=database)
        self.made.append(DevconfService(self.reactor, config))
        return self.made[-1]

    async def stop(self) -> None:
        await self.services.stopService()
        for service in self.made:
            await service.stopService()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    from twisted.internet import reactor

    threads = set(threading.enumerate())
    host = Host(reactor, tmp_path)
    yield host
    pytest_twisted.blockon(Deferred.fromCoroutine(host.stop()))
    for thread in set(threading.enumerate()) - threads:
        # The host's own threads resolve names.
        assert thread.name.startswith(("PoolThread-twisted.internet.reactor", "Thread-")), thread
    assert not [thread for thread in threading.enumerate() if "devconf" in thread.name]


def ports(service: DevconfService) -> list[int]:
    return [port.getHost().port for port in service._ports]  # type: ignore[attr-defined]


def url(service: DevconfService) -> str:
    return f"http://127.0.0.1:{ports(service)[0]}"


async def page(host: Host, address: str) -> bytes:
    response = await HTTPClient(Agent(host.reactor)).get(address)
    return bytes(await response.content())


async def log_in(host: Host, service: DevconfService) -> Client:
    account = {"user_name": "alice", "role": "admin", "password": "secret"}
    await service.request("post users", account)
    return await connect(host.reactor, url(service), "alice", "secret")


# -- the life of a service


async def test_it_starts_and_stops_with_its_parent(host: Host) -> None:
    service = host.make()
    service.setServiceParent(host.services)
    assert not service.running
    ready = service.when_ready()
    host.services.privilegedStartService()
    assert ports(service) == []
    host.services.startService()
    await ready
    await service.when_ready()
    address = url(service)
    assert await page(host, f"{address}/readyz") == b"ok\n"
    await host.services.stopService()
    assert not service.ready
    with pytest.raises(Refused):
        await page(host, f"{address}/readyz")


async def test_a_child_of_a_running_parent_starts_at_once_and_stops_when_it_is_disowned(host: Host) -> None:
    host.services.startService()
    service = host.make()
    service.setServiceParent(host.services)
    await service.when_ready()
    client = await log_in(host, service)
    await service.disownServiceParent()
    assert (await client.when_closed()).code == 1001
    assert list(host.services) == [host.neighbour]
    assert host.neighbour.running
    # Nothing of it holds the database any longer.
    successor = host.make()
    successor.setServiceParent(host.services)
    await successor.when_ready()
    assert [user["user_name"] for user in (await successor.request("get users"))["users"]] == ["alice"]


async def test_a_service_that_was_never_started_can_be_stopped(host: Host) -> None:
    service = host.make()
    ready = service.when_ready()
    await service.stopService()
    await service.stopService()
    with pytest.raises(StartupError, match="the service was stopped before it was ready"):
        await ready


async def test_a_service_may_be_stopped_while_it_starts(host: Host) -> None:
    host.services.startService()
    service = host.make()
    service.setServiceParent(host.services)
    ready = service.when_ready()
    await service.disownServiceParent()
    with pytest.raises(StartupError, match="the service was stopped before it was ready"):
        await ready
    assert not service.ready
    assert ports(service) == []


async def test_a_service_may_be_stopped_while_it_begins_to_listen(
    host: Host, monkeypatch: pytest.MonkeyPatch, logged: list[LogEvent]
) -> None:
    begun: Deferred[None] = Deferred()
    goes_on: Deferred[None] = Deferred()
    listen = listening.listen

    async def slow(*args: Any) -> Any:
        if not begun.called:
            begun.callback(None)
            await goes_on
        return await listen(*args)

    monkeypatch.setattr(listening, "listen", slow)
    service = host.make("devconf", *["tcp:0:interface=127.0.0.1"] * 2)
    ready = service.when_ready()
    service.startService()
    await begun
    stopped = service.stopService()
    goes_on.callback(None)
    await stopped
    with pytest.raises(StartupError, match="the service was stopped before it was ready"):
        await ready
    assert ports(service) == []
    assert "ready" not in [event.get("log_format") for event in logged]


async def test_a_second_stop_ends_when_the_first_does(host: Host) -> None:
    service = host.make()
    service.startService()
    await service.when_ready()
    first, second = service.stopService(), service.stopService()
    await second
    # It has let go of all that it had.
    successor = host.make()
    successor.startService()
    await successor.when_ready()
    await first


async def test_a_service_starts_once(host: Host, logged_errors: LoggedErrors) -> None:
    service = host.make()
    service.setServiceParent(host.services)
    host.services.startService()
    await service.when_ready()
    await host.services.stopService()
    failed = service.when_failed()
    host.services.startService()  # does not raise: the host's other services start
    assert host.neighbour.running
    with pytest.raises(StartupError, match=ENDED):
        await failed
    with pytest.raises(StartupError, match=ENDED):
        await service.when_ready()
    assert (await service.request("get tasks"))["ecode"] == 1005030002
    assert logged_errors.flush() == []


# -- backups


class Copying:
    """Backups that take long: each waits for ``go_on``.

    :ivar begun: fires when the first of them has begun.
    """

    def __init__(self, reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._reactor = reactor
        self._copy = backup.copy
        self.begun: Deferred[None] = Deferred()
        self.go_on = threading.Event()
        self.waited: list[bool] = []
        monkeypatch.setattr(backup, "copy", self.copy)

    def copy(self, *args: Any) -> Path:
        self._reactor.callFromThread(self.begun.callback, None)
        self.waited.append(self.go_on.wait(20))
        return self._copy(*args)


async def ask_for_a_backup(host: Host, service: DevconfService) -> tuple[int, bytes]:
    """The status and the body of the answer."""
    login = {"user_type": "user", "user_name": "alice", "password": "secret"}
    atoken = (await Server(host.reactor, url(service)).log_in(login)).atoken
    agent = HTTPClient(Agent(host.reactor))
    response = await agent.get(f"{url(service)}/webapi/v1/backup", headers=Headers({"authorization": [atoken]}))
    return response.code, bytes(await response.content())


async def test_no_command_waits_for_a_backup(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    copying = Copying(host.reactor, monkeypatch)
    service = host.make()
    service.startService()
    await service.when_ready()
    await (await log_in(host, service)).close()
    answer = Deferred.fromCoroutine(ask_for_a_backup(host, service))
    await copying.begun
    conf = {"name": "disks", "file_ext": "bin", "file_b64": "AAAA"}
    assert (await service.request("post store_confs", conf))["ecode"] == 0
    assert copying.waited == []
    copying.go_on.set()
    status, content = await answer
    assert (status, content[:15]) == (200, b"SQLite format 3")


async def test_a_stop_gives_up_a_backup_and_does_not_hold_up_the_host(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying = Copying(host.reactor, monkeypatch)
    service = host.make()
    service.startService()
    await service.when_ready()
    await (await log_in(host, service)).close()
    answer = Deferred.fromCoroutine(ask_for_a_backup(host, service))
    await copying.begun
    stopped = service.stopService()
    # As long as the copy takes the reactor goes on.
    host.reactor.callLater(0.2, copying.go_on.set)
    await stopped
    assert copying.waited == [True]
    status, content = await answer
    assert (status, json.loads(content)) == (
        503,
        {"ecode": 1005030002, "enote": "the server is stopping; ask for a backup when it runs again"},
    )
    assert [path.name for path in host.folder.glob("*backup*")] == []


# -- several in one process


async def test_services_that_start_together_are_independent(host: Host) -> None:
    services = [host.make(name) for name in "abcd"]
    for service in services:
        service.setServiceParent(host.services)
    host.services.startService()
    await gatherResults([service.when_ready() for service in services], consumeErrors=True)
    for number, service in enumerate(services):
        assert (await service.request("post devices", {"dev_refid": f"box-{number}"}))["ecode"] == 0
    for number, service in enumerate(services):
        [device] = (await service.request("get devices"))["devices"]
        assert device["dev_refid"] == f"box-{number}"
    assert len({ports(service)[0] for service in services}) == 4


async def test_stopping_one_leaves_the_other(host: Host) -> None:
    host.services.startService()
    one, other = host.make("one"), host.make("other")
    for service in (one, other):
        service.setServiceParent(host.services)
        await service.when_ready()
    client, stays, gone = await log_in(host, one), await log_in(host, other), url(one)
    await one.disownServiceParent()
    assert (await client.when_closed()).code == 1001
    assert (await stays.request("get tasks"))["tasks"] == []
    with pytest.raises(CannotConnect):
        await connect(host.reactor, gone, "alice", "secret")
    await stays.close()


# -- failures


async def test_a_port_in_use_fails_the_start_and_leaves_nothing(host: Host) -> None:
    taken = host.reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    free = host.reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    free_port = free.getHost().port
    await free.stopListening()
    listen = [f"tcp:{port}:interface=127.0.0.1" for port in (free_port, taken.getHost().port)]
    service = host.make("devconf", *listen)
    ready, failed = service.when_ready(), service.when_failed()
    service.setServiceParent(host.services)
    host.services.startService()
    for outcome in (failed, ready, service.when_failed(), service.when_ready()):
        with pytest.raises(StartupError, match=rf"cannot listen on {listen[1]}.*Address already in use; see `listen`"):
            await outcome
    assert host.neighbour.running
    # The first port and the database are free for others.
    taken_port = taken.getHost().port
    await taken.stopListening()
    successor = host.make("devconf", *listen)
    successor.setServiceParent(host.services)
    await successor.when_ready()
    assert ports(successor) == [free_port, taken_port]
    await service.disownServiceParent()
    assert successor.ready


async def test_a_database_in_use_fails_the_start(host: Host) -> None:
    host.services.startService()
    first, second = host.make(), host.make()
    first.setServiceParent(host.services)
    await first.when_ready()
    second.setServiceParent(host.services)
    with pytest.raises(StartupError, match=r"the database is in use by process \d+; stop it first"):
        await second.when_ready()
    await second.disownServiceParent()
    assert (await first.request("get tasks"))["ecode"] == 0


async def test_a_failure_that_nobody_waits_for_is_logged(host: Host, logged_errors: LoggedErrors) -> None:
    (host.folder / "devconf.sqlite").write_bytes(b"no database" * 1000)
    host.services.startService()
    service = host.make()
    service.setServiceParent(host.services)
    while not (told := logged_errors.flush()):
        await deferLater(host.reactor, 0.01)
    assert told == [
        f"devconf cannot start: {host.folder / 'devconf.sqlite'}: file is not a database; restore a backup, or name "
        "another file in `database`"
    ]
    with pytest.raises(StartupError):
        await service.when_ready()


@pytest.mark.parametrize("waited_for", [True, False])
def test_a_disk_that_fails_is_told_and_the_service_can_be_stopped(
    server: MemoryServer, logged_errors: LoggedErrors, waited_for: bool
) -> None:
    def broken(_connection: Any) -> None:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))

    told: list[Failure] = []
    server.service.when_failed().addErrback(told.append)
    if not waited_for:
        server.service._await_failure.clear()
    server.service.store.run(broken).addErrback(lambda _: None)
    server.finish()
    assert not server.service.ready
    assert [failure.type for failure in told] == ([StoreFailed] if waited_for else [])
    assert len(logged_errors.flush()) == (0 if waited_for else 1)
    assert server.result(server.service.request("get tasks"))["ecode"] == 1005030002
