"""What is special to the server in memory: time that stands still, programs on its reactor, crashes; its network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector, IConsumer, IPushProducer, IReactorTCP, IReactorTime, ITCPTransport
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from devconf.client import Disconnected, connect
from devconf.config import Config
from devconf.device import Device, Order
from devconf.errors import StartupError
from devconf.model import Role
from devconf.testing import NOON, MemoryReactor, MemoryServer
from devconf.testing.network import BUFFER

# -- the server


def test_time_stands_still_and_nothing_runs_in_a_thread(server: MemoryServer) -> None:
    threads = threading.enumerate()
    client = server.client()
    device = server.enrol("box")
    device.connect()
    response = client.call("post tasks", {"name": "a", "task_type": "pic", "dev_unids": [device.dev_unid]})
    assert (server.clock.seconds(), server.reactor.seconds()) == (0, 0)
    server.advance(9)
    assert not response.called
    server.advance(2)
    assert server.result(response)["devices"][0]["state"] == "pending"
    assert (server.clock.seconds(), server.reactor.seconds()) == (11, 11)
    assert server.service.events._now() == NOON + 11
    assert threading.enumerate() == threads


def test_there_is_no_response_before_the_device_answers(server: MemoryServer) -> None:
    device = server.enrol("box")
    device.connect()
    response = server.call("post tasks", {"name": "a", "task_type": "pic", "dev_unids": [device.dev_unid]})
    with pytest.raises(AssertionError, match="there is no response yet"):
        server.result(response)
    device.obey()
    assert server.result(response)["ecode"] == 0


def test_a_server_that_is_not_eager_waits_to_be_told(server: MemoryServer) -> None:
    server.eager = False
    client = server.client()
    response = client.call("get tasks")
    assert not response.called
    server.finish()
    assert server.result(response)["ecode"] == 0


def test_the_same_seed_makes_the_same_ids(tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        folder = tmp_path / name
        folder.mkdir()
        server = MemoryServer(folder, seed=seed)
        made.append(server.enrol("box").dev_unid)
        server.stop()
    assert made[0] == made[1] != made[2]


def test_a_folder_keeps_what_was_stored(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path)
    dev_unid = server.enrol("box").dev_unid
    server.stop()
    server = MemoryServer(tmp_path)
    assert [device["dev_unid"] for device in server.ask("get devices")["devices"]] == [dev_unid]
    server.stop()


def test_a_server_that_cannot_start_says_why(server: MemoryServer) -> None:
    with pytest.raises(StartupError, match="the database is in use by process"):
        MemoryServer(server.path.parent)


def test_a_configuration_counts(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path, config=Config(listen=("tcp:1",), tolerated_params=("old",)))
    assert server.ask("get tasks", {"old": 1})["ecode"] == 0
    server.stop()


def test_a_client_is_of_its_role(server: MemoryServer) -> None:
    viewer = server.client("vera", Role.VIEWER)
    assert viewer.ask("post tasks", {"name": "a", "task_type": "pic"})["ecode"] == 1004030001
    again = server.client("vera", Role.VIEWER)
    assert (viewer.closed, again.closed) == (None, None)
    again.close()
    assert (viewer.closed, again.closed) == (None, (1000, ""))


def test_a_crash_cuts_all_connections_and_a_restart_settles(server: MemoryServer) -> None:
    client, device = server.client(), server.enrol("box")
    device.connect()
    response = client.call("post tasks", {"name": "a", "task_type": "pic", "dev_unids": [device.dev_unid]})
    server.crash()
    server.advance(100)
    assert client.closed is not None
    assert client.closed[0] == 1006
    assert not response.called
    with pytest.raises(AssertionError, match="not opened"):
        client.connect()
    server.restart()
    client.connect()
    device.lose()
    device.connect()
    device.obey()
    assert client.ask("get tasks")["tasks"][0]["state"] == "confirmed"


# -- programs on its reactor


class Box:
    """An application of a device that takes all."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    def add(self, order: Order) -> None:
        self.orders.append(order)

    modify = delete = add

    def call(self, command: str, params: Any) -> dict[str, Any]:
        return {"asked": command, **params}


def test_programs_that_take_a_reactor_run_on_the_servers(server: MemoryServer) -> None:
    alice = server.client("alice")
    box, enrolled = Box(), server.enrol("box")
    device = Device(server.reactor, server.url, "box", enrolled.dev_key, box)
    device.start()
    server.finish()

    async def program(reactor: Any) -> Any:
        client = await connect(reactor, server.url, "alice", alice.password)
        task = {"name": "a", "task_type": "pic", "dev_unids": [enrolled.dev_unid]}
        response = await client.request("post tasks", task)
        await client.close()
        return response

    running = Deferred.fromCoroutine(program(server.reactor))
    server.finish()
    assert server.result(running)["devices"][0]["state"] == "confirmed"
    assert [order.kind for order in box.orders] == ["add"]
    stopped = device.stop()
    server.finish()
    assert stopped.called


def test_programs_hear_of_a_crash_and_come_back(server: MemoryServer) -> None:
    alice = server.client("alice")
    enrolled = server.enrol("box")
    device = Device(server.reactor, server.url, "box", enrolled.dev_key, Box())
    device.start()
    opening = connect(server.reactor, server.url, "alice", alice.password)
    server.finish()
    client: Any = opening.result
    asked = client.request("post devices/call", {"dev_unid": enrolled.dev_unid, "command": "get x", "timeout": 300})
    server.crash()
    server.finish()
    failures: list[Failure] = []
    asked.addErrback(failures.append)
    assert failures[0].check(Disconnected)
    server.restart()
    assert server.ask("get devices", {"online": True})["devices"] == []
    server.advance(60)
    assert len(server.ask("get devices", {"online": True})["devices"]) == 1
    stopped = device.stop()
    server.finish()
    assert stopped.called


# -- the network


class Peer(Protocol):
    """What came to one end."""

    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self.events: list[str] = []
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        assert self.lost is None
        self.lost = reason

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")

    def stopProducing(self) -> None:
        self.events.append("stop")


class Factory(ClientFactory[Peer]):
    noisy = False

    def __init__(self) -> None:
        self.peer = Peer()
        self.told: list[Any] = []

    def buildProtocol(self, addr: Any) -> Peer:  # noqa: ARG002
        return self.peer

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:  # noqa: ARG002
        self.told.append(reason.type)

    def clientConnectionLost(self, connector: Any, reason: Failure) -> None:  # noqa: ARG002
        self.told.append(reason.type)


class Joined:
    """Two ends of a connection."""

    def __init__(self) -> None:
        self.server = Peer()
        self.reactor = MemoryReactor(lambda _address: self.server)
        self.factory = Factory()
        self.connector = self.reactor.connectTCP("192.0.2.1", 80, self.factory)
        self.move()
        self.client = self.factory.peer

    def move(self) -> None:
        while self.reactor.getDelayedCalls():
            self.reactor.advance(0)


@pytest.fixture
def joined() -> Iterator[Joined]:
    joined = Joined()
    yield joined
    joined.move()


def test_the_network_is_what_it_says(joined: Joined) -> None:
    for end in (joined.client.transport, joined.server.transport):
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            assert verifyObject(interface, end)
        end.setTcpNoDelay(True)
        end.setTcpKeepAlive(True)
        assert (end.getTcpNoDelay(), end.getTcpKeepAlive()) == (True, True)
    assert verifyObject(IConnector, joined.connector)
    assert verifyObject(IReactorTCP, joined.reactor)
    assert verifyObject(IReactorTime, joined.reactor)
    here, there = joined.client.transport, joined.server.transport
    assert (here.getPeer(), here.getHost()) == (there.getHost(), there.getPeer())
    assert (here.getPeer().host, here.getPeer().port) == ("192.0.2.1", 80)


def test_what_is_written_arrives_in_the_next_step(joined: Joined) -> None:
    joined.client.transport.write(b"one ")
    joined.client.transport.writeSequence([b"two ", b"three"])
    joined.server.transport.write(b"down")
    assert (joined.client.heard, joined.server.heard) == (b"", b"")
    joined.reactor.advance(0)
    assert (joined.client.heard, joined.server.heard) == (b"down", b"one two three")


def test_what_is_not_read_waits_and_its_producer_pauses(joined: Joined) -> None:
    joined.server.transport.pauseProducing()
    joined.client.transport.registerProducer(joined.client, True)
    joined.client.transport.write(b"x" * BUFFER)
    assert joined.client.events == []
    joined.client.transport.write(b"x")
    joined.move()
    assert (joined.client.events, joined.server.heard) == (["pause"], b"")
    joined.server.transport.resumeProducing()
    joined.move()
    assert (joined.client.events, len(joined.server.heard)) == (["pause", "resume"], BUFFER + 1)
    joined.client.transport.unregisterProducer()
    joined.client.transport.write(b"x" * 2 * BUFFER)
    assert joined.client.events == ["pause", "resume"]


def test_a_pull_producer_is_asked_as_long_as_what_it_writes_is_read(joined: Joined) -> None:
    left = [b"three", b"two ", b"one "]

    class Pulled(Peer):
        def resumeProducing(self) -> None:
            if left:
                joined.client.transport.write(left.pop())
            else:
                joined.client.transport.unregisterProducer()

    joined.client.transport.registerProducer(Pulled(), False)
    with pytest.raises(RuntimeError, match="is registered"):
        joined.client.transport.registerProducer(Pulled(), False)
    joined.move()
    assert joined.server.heard == b"one two three"


def test_what_was_written_arrives_before_the_end(joined: Joined) -> None:
    joined.server.transport.registerProducer(joined.server, True)
    joined.client.transport.write(b"bye")
    joined.client.transport.loseConnection()
    joined.client.transport.loseConnection()
    assert joined.client.lost is None
    joined.move()
    assert joined.server.heard == b"bye"
    assert joined.server.events == ["stop"]
    for peer in (joined.client, joined.server):
        assert peer.lost is not None
        assert peer.lost.check(error.ConnectionDone)
    assert joined.factory.told == [error.ConnectionDone]
    joined.client.transport.write(b"more")
    joined.client.transport.abortConnection()
    joined.server.transport.registerProducer(joined.server, True)
    joined.move()
    assert joined.server.heard == b"bye"
    assert joined.server.events == ["stop", "stop"]


def test_an_abort_drops_what_was_written(joined: Joined) -> None:
    joined.client.transport.write(b"bye")
    joined.client.transport.abortConnection()
    joined.move()
    assert joined.server.heard == b""
    assert joined.client.lost is not None
    assert joined.server.lost is not None
    assert joined.client.lost.check(error.ConnectionAborted)
    assert joined.server.lost.check(error.ConnectionLost)


def test_a_protocol_that_fails_loses_its_connection(joined: Joined, logged_errors: Any) -> None:
    def fail(data: bytes) -> None:
        raise KeyError(data)

    joined.server.dataReceived = fail  # type: ignore[method-assign]
    joined.client.transport.write(b"x")
    joined.move()
    assert [failure.value.args for failure in logged_errors.expect(KeyError)] == [(b"x",)]
    assert joined.client.lost is not None
    assert joined.client.lost.check(error.ConnectionLost)


def test_the_end_of_a_process_is_told_to_the_other_side_only(joined: Joined) -> None:
    joined.reactor.cut()
    joined.move()
    assert joined.server.lost is None
    assert joined.client.lost is not None
    assert joined.client.lost.check(error.ConnectionLost)


def test_connections_can_be_refused_given_up_and_disconnected() -> None:
    reactor = MemoryReactor(lambda _address: None)
    refused, given_up = Factory(), Factory()
    reactor.connectTCP("192.0.2.1", 80, refused)
    reactor.connectTCP("192.0.2.1", 80, given_up).disconnect()
    reactor.advance(0)
    assert (refused.told, given_up.told) == ([error.ConnectionRefusedError], [error.UserError])
    joined = Joined()
    joined.connector.disconnect()
    joined.move()
    assert joined.factory.told == [error.ConnectionDone]
