"""The simulator: many devices that remember what they were told."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from devconf.device import IApplication
from devconf.simulator import Simulator
from tests.fake_server import OK, TASKS, URL, FakeServer, Json, Socket


def started(server: FakeServer, count: int, latency: float = 0.0) -> tuple[Simulator, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    simulator = Simulator(
        server.reactor,
        URL,
        [(f"ref-{number}", f"key-{number}") for number in range(count)],
        latency=latency,
        report=lambda dev_refid, what: told.append((dev_refid, what)),
        fraction=lambda: 0.5,
    )
    simulator.start()
    server.flush()
    return simulator, told


def send(socket: Socket, method: str, params: Json) -> None:
    socket.tell({"command": f"{method} {TASKS}", "req_id": "q", "src_page": "q", "params": params})


def test_each_device_logs_in_with_its_own_key() -> None:
    server = FakeServer()
    simulator, told = started(server, 3)
    assert [body for _, path, _, body in server.asked if path.endswith("login")] == [
        {"user_type": "dev", "dev_refid": f"ref-{number}", "dev_key": f"key-{number}"} for number in range(3)
    ]
    assert told == [(f"ref-{number}", "connected") for number in range(3)]
    assert all(verifyObject(IApplication, application) for application in simulator.applications.values())


def test_it_remembers_what_it_was_told() -> None:
    server = FakeServer()
    simulator, told = started(server, 1)
    (socket,) = server.sockets
    told.clear()
    tasks = simulator.applications["ref-0"].tasks
    add = {"task_id": "t", "subtask_id": "s", "rev": 1, "name": "n", "algo_comb": []}
    send(socket, "post", add)
    assert socket.heard() == [{"req_id": "q", **OK}]
    assert tasks == {("t", "s"): add}
    send(socket, "put", {"task_id": "t", "subtask_id": "s", "rev": 2, "name": "m", "store_conf": None})
    assert socket.heard() == [{"req_id": "q", **OK}]
    assert tasks == {("t", "s"): {**add, "rev": 2, "name": "m", "store_conf": None}}
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
    simulator, _ = started(server, 1, latency=0.25)
    (socket,) = server.sockets
    send(socket, "post", {"task_id": "t", "rev": 1})
    server.flush()
    server.advance(0.2)
    assert socket.heard() == []
    server.advance(0.1)
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
    simulator, _ = started(server, 2, latency=5)
    send(server.sockets[0], "post", {"task_id": "t", "rev": 1})
    server.flush()
    server.run(simulator.stop())
    assert [socket.ended for socket in server.sockets] == [(1000, None)] * 2
    assert server.reactor.getDelayedCalls() == []
    assert simulator.applications["ref-0"].tasks == {}
