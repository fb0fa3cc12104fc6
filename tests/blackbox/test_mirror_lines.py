"""HTTP connections that carry several commands, and clients that go away in the middle (protocol §4, §5)."""

from __future__ import annotations

from typing import Any

from kit import PATIENCE, WEB_PATH, World, combo, eventually, failed, hold, ok, payload, states
from kit_http import Line, Mirror, as_answer, line, resource_path

SERVER = {"device_timeout": 5.0}
NOT_JSON, BAD_FIELD, NO_COMMAND, NO_TOKEN = 1004000001, 1004000002, 1004000003, 1004010001
OLD, NEW, NEWER = combo("a1"), combo("a2"), combo("a3")
CONFIGURE = resource_path("tasks/pic_task_config")


def send(connection: Line, world: World, task_id: str, algo_comb: Any) -> None:
    body = {"task_id": task_id, "algo_comb": algo_comb}
    connection.send("POST", CONFIGURE, body, authorization=world.operator.atoken)


def test_many_requests_of_one_connection(world: World) -> None:
    """Failures do not end it, whatever they are."""
    token = {"authorization": world.admin.atoken}
    with line(world.http) as connection:
        for _ in range(2):
            assert connection.ask("GET", "/healthz").status == 200
            login = connection.ask(
                "POST", f"{WEB_PATH}/login", {"user_type": "user", "user_name": "viewer", "password": "vwr-d2e84bTy"}
            )
            assert login.json["ecode"] == 0
            ok(as_answer(connection.ask("GET", resource_path("tasks"), authorization=login.json["atoken"])))
            failed(as_answer(connection.ask("GET", resource_path("tasks"))), NO_TOKEN)
            failed(as_answer(connection.ask("GET", resource_path("nothing"), **token)), NO_COMMAND)
            failed(as_answer(connection.ask("POST", resource_path("tasks"), [], **token)), NOT_JSON)
            failed(as_answer(connection.ask("DELETE", resource_path("tasks"), {}, **token)), BAD_FIELD, "$.params.")
            ok(as_answer(connection.ask("GET", resource_path("devices", {"limit": 1}), **token)))


def test_requests_sent_ahead_are_answered_in_order(world: World) -> None:
    """Also when the first of them waits for a device."""
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(hold, verb="put", times=1)
    with line(world.http) as connection:
        token = {"authorization": world.operator.atoken}
        body = {"task_id": task_id, "algo_comb": NEW}
        connection.sock.sendall(
            connection.message("POST", CONFIGURE, body, **token)
            + connection.message("GET", resource_path("tasks", {"task_id": task_id}), **token)
            + connection.message("GET", resource_path("nothing"), **token)
            + connection.message("GET", "/healthz")
        )
        device.wait_heard(1, "put")
        device.release()
        configured = ok(as_answer(connection.receive()))
        assert states(configured) == {device.dev_unid: ("confirmed", 0)}
        (task,) = payload(as_answer(connection.receive()))["tasks"]
        assert (task["rev"], task["algo_comb"]) == (configured["rev"], NEW)
        failed(as_answer(connection.receive()), NO_COMMAND)
        assert connection.receive().status == 200


def test_commands_of_two_connections_run_at_the_same_time(world: World) -> None:
    slow, quick = world.device(), world.device()
    first, second = world.pic_task(slow, algo_comb=OLD), world.pic_task(quick, algo_comb=OLD)
    slow.behave(hold, verb="put", times=1)
    with line(world.http) as connection, line(world.http) as other:
        send(connection, world, first, NEW)
        slow.wait_heard(1, "put")
        send(other, world, second, NEW)
        ok(as_answer(other.receive()))
        assert slow.held_back
        slow.release()
        ok(as_answer(connection.receive()))


def test_both_ways_wait_for_the_same_lock(world: World) -> None:
    """First come, first served."""
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(hold, verb="put", times=1)
    with line(world.http) as connection:
        send(connection, world, task_id, NEW)
        device.wait_heard(1, "put")
        sent = world.operator.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEWER})
        ok(world.operator.call("get tasks"))
        assert len(device.heard("put")) == 1
        device.release()
        first = ok(as_answer(connection.receive()))
        assert ok(world.operator.answer(sent))["rev"] > first["rev"]
    assert world.task(task_id)["algo_comb"] == NEWER


def test_a_client_that_closes_in_the_middle(world: World) -> None:
    """It cancels nothing that is planned, and the history knows how it ended."""
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(hold, verb="put", times=1)
    with line(world.http) as connection:
        send(connection, world, task_id, NEW)
        device.wait_heard(1, "put")
    world.http.request("GET", "/healthz")
    device.release()
    eventually(lambda: world.task(task_id)["algo_comb"] == NEW, "the command is settled without its client")

    def last() -> Any:
        return payload(world.operator.call("get commands", {"task_id": task_id, "limit": 1}))["commands"][0]

    eventually(lambda: last()["outcome"] == "ok", "the history has its end")
    assert last()["devices"] == [
        {"dev_unid": device.dev_unid, "state": "confirmed", "ecode": 0, "enote": last()["devices"][0]["enote"]}
    ]


def test_a_client_that_closes_while_it_waits_for_a_lock(world: World) -> None:
    """Its request is dropped: nobody carries it out later."""
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(hold, verb="put", times=1)
    first = world.operator.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW})
    device.wait_heard(1, "put")
    with line(world.http) as connection:
        send(connection, world, task_id, NEWER)
        world.http.request("GET", "/healthz")
    gone = Mirror(world.http, world.operator.atoken)
    for _ in range(3):
        ok(gone.call("get tasks", {"limit": 1}))  # the server has seen the end of that connection by now
    device.release()
    ok(world.operator.answer(first))
    ok(world.operator.call("put tasks", {"task_id": task_id, "name": "after it"}))
    device.barrier()
    assert world.task(task_id)["algo_comb"] == NEW
    assert [order.params.get("algo_comb") for order in device.heard("put")] == [NEW, None]


def test_a_connection_ends_when_the_client_says_so(world: World) -> None:
    with line(world.http) as connection:
        connection.sock.settimeout(PATIENCE)
        reply = connection.ask("GET", resource_path("tasks"), authorization=world.viewer.atoken, connection="close")
        ok(as_answer(reply))
        assert connection.ended()
