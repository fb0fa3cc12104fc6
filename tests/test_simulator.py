"""The simulator: devices come in a few at a time, remember what they were told, and misbehave as planned."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from zope.interface.verify import verifyObject

from devconf.device import IApplication
from devconf.simulator.application import Held
from devconf.simulator.fleet import RETRY_AT_MOST, Simulator, Status
from devconf.simulator.plan import Kind, Manners, plan
from tests.fake_server import OK, TASKS, URL, FakeServer, Json, Socket

Told = list[tuple[str, str]]


def started(server: FakeServer, count: int, manners: Manners | None = None, seed: int = 0) -> tuple[Simulator, Told]:
    told: Told = []
    simulator = Simulator(
        server.reactor,
        URL,
        [(f"ref-{number}", f"key-{number}") for number in range(count)],
        manners=manners,
        seed=seed,
        at_once=2,
        report=lambda dev_refid, what: told.append((dev_refid, what)),
    )
    simulator.start()
    come_in(server)
    return simulator, told


def come_in(server: FakeServer) -> None:
    """Let those that wait for their turn have it; each may wait for one that is switched off first."""
    for _ in range(20):
        server.advance(0.0)


def send(socket: Socket, method: str, params: Json) -> None:
    socket.tell({"command": f"{method} {TASKS}", "req_id": "q", "src_page": "q", "params": params})


def logins(server: FakeServer) -> list[Json | None]:
    return [body for _, path, _, body in server.asked if path.endswith("login")]


def registered(server: FakeServer) -> list[Json]:
    return [body for _, path, _, body in server.asked if path.endswith("register") and body is not None]


ADD = {"task_id": "t", "subtask_id": "s", "rev": 1, "task_type": "video", "name": "n", "algo_comb": []}


# -- coming in


def test_each_device_logs_in_with_its_own_key() -> None:
    server = FakeServer()
    simulator, told = started(server, 3)
    assert logins(server) == [
        {"user_type": "dev", "dev_refid": f"ref-{number}", "dev_key": f"key-{number}"} for number in range(3)
    ]
    assert sorted(told) == [(f"ref-{number}", "connected") for number in range(3)]
    assert simulator.count() == {Status.IN: 3}
    assert simulator.all_in_after == 0.0
    assert all(verifyObject(IApplication, device.application) for device in simulator.devices.values())


def test_a_few_come_in_at_the_same_time() -> None:
    server = FakeServer()
    simulator = Simulator(server.reactor, URL, [(f"ref-{number}", "key") for number in range(5)], at_once=2)
    simulator.start()
    assert simulator.count() == {Status.COMING: 2, Status.WAITING: 3}
    assert len(server.reactor.tcpClients) == 2
    server.flush()
    assert simulator.count() == {Status.IN: 5}


def test_one_that_cannot_come_in_lets_the_others_pass() -> None:
    server = FakeServer()
    server.answers["login"] = [{"ecode": 1004010003, "enote": "wrong"}] * 2
    simulator, told = started(server, 5)
    assert simulator.count() == {Status.OFF: 2, Status.IN: 3}
    assert simulator.devices["ref-0"].trouble == "cannot connect: 1004010003: wrong"
    assert ("ref-0", "cannot connect: 1004010003: wrong") in told
    assert simulator.all_in_after is None
    server.advance(1.0)
    come_in(server)
    assert simulator.count() == {Status.IN: 5}
    assert simulator.devices["ref-0"].trouble == ""
    assert simulator.all_in_after == 1.0


def test_it_tries_ever_more_seldom_at_times_that_the_seed_tells() -> None:
    server = FakeServer()
    server.answers["login"] = [{"ecode": 1004010003, "enote": "wrong"}] * 1000
    simulator, _ = started(server, 1)
    times: list[float] = []
    for _ in range(1500):
        server.advance(0.4)
        server.advance(0.0)
        if len(logins(server)) > len(times) + 1:
            times.append(server.reactor.seconds())
    assert 10 < len(times) < 60  # 30 s apart on average, at last
    assert max(later - earlier for earlier, later in pairwise(times)) <= RETRY_AT_MOST + 0.9
    assert simulator.count() == {Status.OFF: 1}


def test_one_that_lost_its_connection_comes_back_in_its_turn() -> None:
    server = FakeServer()
    simulator, told = started(server, 5)
    for socket in list(server.sockets):
        send(socket, "post", ADD)
    server.flush()
    for socket in list(server.sockets):
        socket.drop(1001)
    come_in(server)
    assert simulator.count() == {Status.OFF: 5}
    server.advance(1.0)
    come_in(server)
    assert simulator.count() == {Status.IN: 5}
    assert len(logins(server)) == 5  # its token is good for an hour
    item = {"task_id": "t", "subtask_id": "s", "rev": 1}
    assert [body["tasks"] for body in registered(server)] == [[]] * 5 + [[item]] * 5
    assert told.count(("ref-0", "connected")) == 2


def test_a_server_that_is_away_is_waited_for() -> None:
    server = FakeServer()
    server.up = False
    simulator, _ = started(server, 3)
    while simulator.count() != {Status.OFF: 3}:
        server.advance(0.05)
        come_in(server)
    assert simulator.devices["ref-2"].trouble.endswith("cannot be reached: Connection was refused by other side")
    server.up = True
    server.advance(1.0)
    come_in(server)
    assert simulator.count() == {Status.IN: 3}


# -- what they do


def test_it_remembers_what_it_was_told() -> None:
    server = FakeServer()
    simulator, told = started(server, 1)
    (socket,) = server.sockets
    told.clear()
    tasks = simulator.devices["ref-0"].application.tasks
    conf = {"unid": "c", "name": "f", "file_ext": "json", "file_b64": "e30="}
    send(socket, "post", {**ADD, "store_conf": conf, "vchan": {"b": 1, "a": 2}})
    assert socket.heard() == [{"req_id": "q", **OK}]
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    stored = f'{{"file_ext":"json","name":"f","sha256":"{digest}","size":2,"unid":"c"}}'
    assert tasks == {("t", "s"): Held(1, "video", "n", "[]", stored, '{"a":2,"b":1}')}
    send(socket, "put", {"task_id": "t", "subtask_id": "s", "rev": 2, "name": "m", "store_conf": None})
    assert socket.heard() == [{"req_id": "q", **OK}]
    assert tasks == {("t", "s"): Held(2, "video", "m", "[]", None, '{"a":2,"b":1}')}
    send(socket, "delete", {"task_id": "t", "subtask_id": "s", "rev": 3})
    send(socket, "delete", {"task_id": "u", "rev": 1})
    assert socket.heard() == [{"req_id": "q", **OK}] * 2
    assert tasks == {}
    assert told == [
        ("ref-0", "added subtask s of task t (rev 1)"),
        ("ref-0", "changed name and store_conf of subtask s of task t (rev 2)"),
        ("ref-0", "deleted subtask s of task t (rev 3)"),
        ("ref-0", "deleted task u (rev 1)"),
    ]


def test_an_order_takes_its_time() -> None:
    server = FakeServer()
    simulator, _ = started(server, 1, Manners(latency=0.2))
    latency = plan(0, "ref-0", Manners(latency=0.2)).latency
    (socket,) = server.sockets
    send(socket, "post", ADD)
    server.flush()
    server.advance(latency - 0.01)
    assert socket.heard() == []
    server.advance(0.02)
    assert socket.heard() == [{"req_id": "q", **OK}]
    server.run(simulator.stop())


def test_calls_are_heard() -> None:
    server = FakeServer()
    _, told = started(server, 1)
    (socket,) = server.sockets
    socket.tell({"command": "get /x", "req_id": "q", "src_page": "q", "params": {"a": 1}})
    assert socket.heard() == [{"req_id": "q", **OK, "heard": {"a": 1}}]
    assert told[-1] == ("ref-0", "was called: get /x")


def test_it_stops_in_the_middle_of_an_order() -> None:
    server = FakeServer()
    simulator, _ = started(server, 2, Manners(latency=5))
    send(server.sockets[0], "post", ADD)
    server.flush()
    server.run(simulator.stop())
    assert [socket.ended for socket in server.sockets] == [(1000, None)] * 2
    assert server.reactor.getDelayedCalls() == []
    assert simulator.devices["ref-0"].application.tasks == {}


# -- misbehaviour: one device, at the time that is planned for it


class One:
    """A device of a kind, with one task, just when it begins to misbehave."""

    def __init__(self, kind: Kind, takes: bool = True) -> None:
        manners = Manners({kind: 1.0}, every=100.0, late_by=20.0)
        seed = next(seed for seed in range(100) if plan(seed, "ref-0", manners).takes is takes)
        self.plan = plan(seed, "ref-0", manners)
        self.server = FakeServer()
        self.simulator, self.told = started(self.server, 1, manners, seed)
        self.device = self.simulator.devices["ref-0"]
        self.tasks = self.device.application.tasks
        self.order("post", ADD)
        assert self.answers() == [{"req_id": "q", **OK}]
        self.told.clear()
        self.wait(self.plan.first)
        assert self.device.misbehaving
        assert self.told[0] == ("ref-0", f"begins to misbehave: {kind.value}")

    @property
    def socket(self) -> Socket:
        return self.server.sockets[-1]

    @property
    def status(self) -> str:
        return self.device.status.name

    def order(self, method: str, params: Json) -> None:
        send(self.socket, method, params)
        self.server.flush()

    def answers(self) -> list[Json]:
        return self.socket.heard()

    def wait(self, seconds: float) -> None:
        while seconds > 5:  # not in one step: pings have to be answered
            self.server.advance(4.9)
            seconds -= 4.9
        self.server.advance(seconds)
        come_in(self.server)

    def name(self) -> str:
        return self.tasks["t", "s"].name

    def behaves_well(self) -> None:
        """It comes back, and takes what it is told."""
        self.wait(1.0)
        assert not self.device.misbehaving
        assert self.status == "IN"
        self.order("post", {**ADD, "rev": 9, "name": "last"})
        assert self.answers() == [{"req_id": "q", **OK}]
        assert self.name() == "last"
        self.server.run(self.simulator.stop())
        assert self.server.reactor.getDelayedCalls() == []


MODIFY = {"task_id": "t", "subtask_id": "s", "rev": 2, "name": "m"}


def test_refusing() -> None:
    one = One(Kind.REFUSING)
    one.order("put", MODIFY)
    note = "simulated: this device refuses"
    assert one.answers() == [{"req_id": "q", "ecode": one.plan.ecode, "enote": note}]
    assert (one.name(), one.device.application.refused) == ("n", {("t", "s")})
    one.wait(one.plan.lasting)
    one.order("put", MODIFY)
    assert one.answers() == [{"req_id": "q", **OK}]
    assert (one.name(), one.device.application.refused) == ("m", set())
    one.behaves_well()


@pytest.mark.parametrize("takes", [False, True])
def test_silent(takes: bool) -> None:
    one = One(Kind.SILENT, takes)
    one.order("put", MODIFY)
    one.wait(one.plan.lasting - 1)
    assert one.answers() == []
    assert one.name() == ("m" if takes else "n")
    one.wait(1)
    assert one.socket.ended is not None  # it starts anew
    one.wait(1)
    # It had no time to note what it did.
    assert registered(one.server)[-1]["tasks"] == [{"task_id": "t", "subtask_id": "s", "rev": 1}]
    one.behaves_well()


@pytest.mark.parametrize("takes", [False, True])
def test_late(takes: bool) -> None:
    one = One(Kind.LATE, takes)
    one.order("put", MODIFY)
    one.wait(one.plan.delay - 1)
    assert one.plan.delay >= 20
    assert one.answers() == []
    assert one.name() == ("m" if takes else "n")
    one.wait(1)
    assert one.answers() == [{"req_id": "q", **OK}]
    assert one.name() == "m"
    one.simulator.calm_down()
    one.behaves_well()


def test_double() -> None:
    one = One(Kind.DOUBLE)
    one.order("put", MODIFY)
    assert one.answers() == [{"req_id": "q", **OK}] * 2
    one.wait(one.plan.lasting)
    one.behaves_well()


@pytest.mark.parametrize("takes", [False, True])
def test_dropping(takes: bool) -> None:
    one = One(Kind.DROPPING, takes)
    assert one.status == "OFF"
    one.wait(1)
    assert one.status == "IN"
    dropped = one.socket
    one.order("put", MODIFY)
    one.wait(0)
    assert dropped.ended is not None
    assert dropped.heard() == []
    assert one.name() == ("m" if takes else "n")
    one.simulator.calm_down()
    one.behaves_well()


def test_forgetting() -> None:
    one = One(Kind.FORGETTING)
    assert (one.status, one.tasks, one.device.blank) == ("OFF", {}, True)
    one.wait(1)
    assert (one.status, one.tasks, one.device.blank) == ("IN", {}, False)
    assert registered(one.server)[-1]["tasks"] == []
    assert len(logins(one.server)) == 2  # it has forgotten its token too
    one.wait(one.plan.lasting)
    one.behaves_well()


def test_forgetting_while_it_is_carrying_something_out() -> None:
    one = One(Kind.FORGETTING)
    one.wait(1)
    one.device.application._plan = plan(0, "ref-0", Manners(latency=1000.0))  # an order that takes long
    one.order("post", {**ADD, "rev": 3})
    begin, _ = one.plan.window(1)
    one.wait(begin - one.simulator.elapsed)
    one.wait(1000)
    assert one.tasks == {}
    one.server.run(one.simulator.stop())


def test_calm_lets_nobody_wait() -> None:
    one = One(Kind.DROPPING)
    for _ in range(5):
        one.wait(60)
        one.order("put", {**MODIFY, "rev": one.tasks["t", "s"].rev + 1})
    one.wait(0)
    one.simulator.calm_down()
    one.wait(0)
    assert one.status == "IN"
    assert not one.device.misbehaving
    one.wait(1000)
    assert ("ref-0", "begins to misbehave: dropping") not in one.told[-3:]
    one.answers()
    one.behaves_well()


def test_importing_it_installs_no_reactor() -> None:
    code = (
        "import sys, devconf.simulator.judge, devconf.simulator.work; print('twisted.internet.reactor' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
