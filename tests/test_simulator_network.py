"""The network of a simulated device: what passes, what does not, and what each side learns of it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.interfaces import IReactorPluggableNameResolver, IReactorTCP, IReactorTime
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from devconf.simulator.network import Line

#: A text message of a client, in one frame: masked, four letters.
FRAME = b"\x81\x84abcdtext"
PONG = b"\x8a\x80abcd"
UPGRADE = b"GET /wsapi/v1/devconf_fx/ticket HTTP/1.1\r\n\r\n"


class Transport(StringTransport):
    """The kernel's side of a connection, which is told of its end in the next turn."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self._clock = clock
        self.protocol: Any = None
        self.aborted = False

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self._clock.callLater(0, self.lose)

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionError("gone")))

    @property
    def reads(self) -> Any:
        return self.producerState == "producing"


class Program(Protocol):
    """The device's side."""

    def __init__(self) -> None:
        self.heard = b""
        self.losses = 0

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:  # noqa: ARG002
        self.losses += 1


class Network:
    def __init__(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.line = Line(self.clock)

    def connect(self, first: bytes = UPGRADE) -> tuple[Program, Transport]:
        """A connection on which the device has sent this."""
        factory: Any = ClientFactory()
        program = Program()
        factory.buildProtocol = lambda _address: program
        self.line.connectTCP("127.0.0.1", 8080, factory, 10)
        assert self.clock.tcpClients[-1][:2] == ("127.0.0.1", 8080)
        connection = self.clock.tcpClients[-1][2].buildProtocol(None)
        transport = Transport(self.clock)
        transport.protocol = connection
        connection.makeConnection(transport)
        self.write(program, first)
        assert transport.value() == first
        transport.clear()
        return program, transport

    def write(self, program: Program, data: bytes) -> None:
        assert program.transport is not None
        program.transport.write(data)

    def end(self, transport: Transport) -> None:
        """All of it is over, and nothing is left."""
        transport.abortConnection()
        self.clock.advance(0)
        assert self.clock.getDelayedCalls() == []
        self.line.cut()  # of nothing


@pytest.mark.parametrize("interface", [IReactorTime, IReactorTCP, IReactorPluggableNameResolver])
def test_it_stands_for_a_reactor(interface: Any) -> None:
    network = Network()
    assert verifyObject(interface, network.line)
    assert network.line.nameResolver is network.clock.nameResolver


def test_all_passes_as_it_is() -> None:
    network = Network()
    program, transport = network.connect()
    network.write(program, FRAME)
    transport.protocol.dataReceived(b"answer")
    assert (transport.value(), program.heard, transport.reads) == (FRAME, b"answer", True)
    transport.lose()
    assert program.losses == 1
    assert network.clock.getDelayedCalls() == []


def test_cut() -> None:
    network = Network()
    one, other = network.connect(), network.connect(b"POST /webapi/v1/login HTTP/1.1\r\n\r\n")
    network.line.cut()
    network.clock.advance(0)
    assert [(program.losses, transport.aborted) for program, transport in (one, other)] == [(1, True)] * 2
    network.end(one[1])


def test_double() -> None:
    network = Network()
    program, transport = network.connect()
    network.line.doubling = True
    network.write(program, FRAME)
    network.write(program, PONG)
    assert transport.value() == FRAME + FRAME + PONG
    network.line.doubling = False
    transport.clear()
    network.write(program, FRAME)
    assert transport.value() == FRAME
    network.end(transport)


@pytest.mark.parametrize("first", [b"POST /webapi/v1/login HTTP/1.1\r\n\r\n", b"\x16\x03\x01 hello of TLS"])
def test_only_a_socket_is_doubled(first: bytes) -> None:
    network = Network()
    program, transport = network.connect(first)
    network.line.doubling = True
    network.write(program, FRAME)
    assert transport.value() == FRAME
    network.end(transport)


def test_half_open() -> None:
    network = Network()
    program, transport = network.connect()
    network.line.freeze()
    network.write(program, FRAME)
    assert (transport.value(), transport.reads, program.losses) == (b"", False, 0)

    network.line.thaw(5.0)
    assert (program.losses, transport.aborted) == (1, False)
    newer, its = network.connect()  # while the old one stands
    network.clock.advance(4.9)
    assert not transport.aborted
    network.clock.advance(0.1)
    network.clock.advance(0)
    assert (transport.aborted, program.losses) == (True, 1)
    assert (newer.losses, its.aborted) == (0, False)
    network.end(its)


@pytest.mark.parametrize("ending", ["loseConnection", "abortConnection"])
def test_one_that_gives_up_a_frozen_connection(ending: str) -> None:
    network = Network()
    program, transport = network.connect()
    network.line.freeze()
    getattr(program.transport, ending)()
    assert program.losses == 1
    network.clock.advance(0)
    network.clock.advance(0)
    assert (program.losses, transport.aborted, transport.disconnecting) == (1, True, False)
    network.end(transport)


def test_a_frozen_connection_is_cut() -> None:
    network = Network()
    program, transport = network.connect()
    network.line.freeze()
    network.line.cut()
    network.clock.advance(0)
    assert (program.losses, transport.aborted) == (1, True)
    assert network.clock.getDelayedCalls() == []


def test_slow_reading() -> None:
    network = Network()
    program, transport = network.connect()
    network.line.slow_down(100.0)
    transport.protocol.dataReceived(b"x" * 250)
    assert (len(program.heard), transport.reads) == (250, False)
    network.clock.advance(2.4)
    assert not transport.reads
    network.clock.advance(0.1)
    assert transport.reads
    transport.protocol.dataReceived(b"x" * 1000)
    assert not transport.reads
    network.line.slow_down(None)
    assert transport.reads
    transport.protocol.dataReceived(b"x" * 1000)
    assert transport.reads
    network.end(transport)


def test_one_that_reads_slowly_is_lost() -> None:
    network = Network()
    _, transport = network.connect()
    network.line.slow_down(1.0)
    transport.protocol.dataReceived(b"x" * 1000)
    network.end(transport)
