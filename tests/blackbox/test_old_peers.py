"""Old devices and old pages (protocol §2, §6): what they leave out, and what they send too much. And fixed limits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kit import (
    WEB_PATH,
    Client,
    Device,
    Json,
    Order,
    World,
    algos,
    combo,
    eventually,
    failed,
    full_command,
    hold,
    ok,
    payload,
    refuse,
    reply_with,
    silent,
    states,
)
from kit_http import Line, Mirror, line

SERVER: dict[str, Any] = {"device_timeout": 3.0, "options": {"tolerated_params": ["lang", "page_token"]}}
BAD_FIELD, BAD_LOGIN, TOO_MANY, REFUSED, SILENT = 1004000002, 1004010003, 1004290001, 1005020001, 1005040001
OLD, NEW = combo("a1"), combo("a2")


def configure(world: World, device: Device) -> int:
    """A task for it, and another `algo_comb`; the `ecode` of that."""
    task_id = world.pic_task(device, algo_comb=OLD)
    answer = world.operator.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW})
    stored = algos(world.task(task_id)["algo_comb"])
    assert stored == (NEW if answer["ecode"] == 0 else OLD)
    return int(answer["ecode"])


# -- what a device says


ANSWERS: dict[str, Callable[[Order], Json]] = {
    "src_page": lambda order: {"src_page": order.req_id, "ecode": 0, "enote": "ok"},
    "src_page without ecode": lambda order: {"src_page": order.req_id},
    "as the manual has it": lambda order: {"command": order.command, "src_page": order.req_id, "ecode": 0},
    "the manual without ecode": lambda order: {"command": order.command, "src_page": order.req_id},
    "req_id without ecode": lambda order: {"req_id": order.req_id},
    "the whole message": lambda order: dict(order.message),
    "nothing but ecode": lambda _order: {"ecode": 0},
    "nothing but enote": lambda _order: {"enote": "done"},
    "command and ecode": lambda order: {"command": order.command, "ecode": 0},
}


@pytest.mark.parametrize("how", ANSWERS)
def test_each_way_to_say_yes(world: World, how: str) -> None:
    device = world.device()
    device.behave(reply_with(ANSWERS[how]))
    assert configure(world, device) == 0
    assert len(device.heard()) == 2


@pytest.mark.parametrize("how", [how for how in ANSWERS if "without" not in how and "enote" not in how])
def test_each_way_to_say_no(world: World, how: str) -> None:
    device = world.device()
    device.behave(reply_with(ANSWERS[how]), times=1)

    def no(order: Order) -> Json:
        return ANSWERS[how](order) | {"ecode": 7, "enote": "no"}

    device.behave(reply_with(no, takes=False), verb="put")
    assert configure(world, device) == REFUSED


def test_it_gets_one_message_at_a_time_of_any_kind(world: World) -> None:
    """Orders and calls wait for each other; each answer is taken for the one message that is out."""
    device = world.device(echo="nothing")
    tasks = [world.pic_task(device, algo_comb=OLD) for _ in range(2)]
    device.behave(hold)
    call = {"dev_unid": device.dev_unid, "command": "get /x", "params": {"n": 1}, "timeout": 20}
    sent = [
        world.operator.send("post tasks/pic_task_config", {"task_id": tasks[0], "algo_comb": NEW}),
        world.operator.send("put tasks", {"task_id": tasks[1], "name": "other"}),
    ]
    device.wait_heard(3)
    called = world.admin.send("post devices/call", call)
    for count in (3, 4, 5):
        device.wait_heard(count)
        device.barrier()
        assert len(device.heard()) == count
        device.release()
    for req_id in sent:
        ok(world.operator.answer(req_id))
    assert ok(world.admin.answer(called))["answer"]["heard"] == {"n": 1}


def test_one_echo_is_remembered(world: World) -> None:
    """From then on it gets several at a time, also on another connection and after a restart."""
    device = world.device(echo="nothing")
    tasks = [world.pic_task(device, algo_comb=OLD) for _ in range(3)]
    device.echo = "src_page"
    ok(world.operator.call("put tasks", {"task_id": tasks[0], "name": "echoed"}))
    for change in ("here", "anew", "restarted"):
        if change == "anew":
            world.connect(device)
        elif change == "restarted":
            device.disconnect()
            world.restart()
            world.connect(device)
        device.behave(hold)
        heard = len(device.heard())
        sent = [world.operator.send("put tasks", {"task_id": task_id, "name": change}) for task_id in tasks]
        device.wait_heard(heard + 3)
        device.behave_normally()
        device.release()
        for req_id in sent:
            ok(world.operator.answer(req_id))


def test_silent_and_never_echoed_is_closed_with_4003(world: World) -> None:
    device = world.device(echo="nothing")
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(silent(takes=True), verb="put", times=1)
    answer = world.operator.call("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW})
    failed(answer, SILENT, stored=True, maybe=("devices",))
    assert device.sockets[-1].wait_closed() == 4003
    world.connect(device)
    world.settled(task_id)
    held = device.holding(task_id)
    assert held is not None
    assert algos(held["algo_comb"]) == OLD


def test_a_long_note_is_cut(world: World) -> None:
    """500 characters of it are kept."""
    device, note = world.device(), "".join(chr(0x4E00 + n) for n in range(700))
    task_id = world.pic_task(device)
    device.behave(refuse(7, note), verb="put", times=1)
    answer = world.operator.call("put tasks", {"task_id": task_id, "name": "other"})
    assert answer["ecode"] == REFUSED
    (entry,) = answer["devices"]
    assert entry == {"dev_unid": device.dev_unid, "state": "refused", "ecode": 7, "enote": entry["enote"]}
    assert len(entry["enote"]) <= 500
    assert note.startswith(entry["enote"][:490])


# -- pages


def ask(client: Client, command: str, params: Json | None = None, **envelope: Any) -> None:
    message = {"command": full_command(command), **envelope} | ({} if params is None else {"params": params})
    client.send_raw(json.dumps(message))


@pytest.mark.parametrize("envelope", [{}, {"src_page": "tasks.html"}, {"src_page": ""}])
def test_a_page_without_req_id(world: World, envelope: Json) -> None:
    """What it sent comes back, and nothing that it did not send."""
    client = world.client("operator")
    ask(client, "get tasks", {"limit": 1}, **envelope)
    answer = client.recv()
    assert set(answer) == {"command", "ecode", "enote", "tasks", "next", *envelope}
    assert {name: answer[name] for name in envelope} == envelope
    ask(client, "get tasks", {"limit": 0}, **envelope)
    answer = client.recv()
    assert set(answer) == {"command", "ecode", "enote", *envelope}
    assert answer["ecode"] == BAD_FIELD


def test_answers_are_told_apart_by_their_ids(world: World) -> None:
    """Two at a time, of the same command; the later one is answered first."""
    slow, quick = world.device(), world.device()
    tasks = [world.pic_task(device, algo_comb=OLD) for device in (slow, quick)]
    slow.behave(hold, verb="put", times=1)
    client = world.client("operator")
    for task_id in tasks:
        ask(client, "post tasks/pic_task_config", {"task_id": task_id, "algo_comb": NEW}, src_page="p")
    slow.wait_heard(1, "put")
    second = client.recv()
    slow.release()
    first = client.recv()
    for answer, task_id, device in ((first, tasks[0], slow), (second, tasks[1], quick)):
        assert (answer["task_id"], answer["ecode"], answer["src_page"]) == (task_id, 0, "p")
        assert states(answer) == {device.dev_unid: ("confirmed", 0)}
        assert "req_id" not in answer


def test_progress_without_req_id(world: World) -> None:
    device = world.device()
    task_id = world.pic_task(device, algo_comb=OLD)
    device.behave(hold, verb="put", times=1)
    client = world.client("operator")
    params = {"task_id": task_id, "algo_comb": NEW}
    ask(client, "POST /wsapi/v1/devconf_fx/tasks/pic_task_config", params, src_page="p", progress=True)
    frame = client.recv()
    assert frame == {
        "command": "POST /wsapi/v1/devconf_fx/tasks/pic_task_config",
        "src_page": "p",
        "progress": {"done": 0, "total": 1},
    }
    device.release()
    eventually(lambda: any("ecode" in m for m in client.inbox if isinstance(m, dict)), "it is answered")
    assert client.works()


@pytest.mark.parametrize("name", ["lang", "page_token"])
def test_tolerated_params(world: World, name: str) -> None:
    """They pass, with a line in the log that names them; what they say is not looked at."""
    task_id = world.pic_task()
    before = len(world.server.log())
    for value in ("de", None, 5, {"a": ["b"]}):
        ok(world.viewer.call("get tasks", {"task_id": task_id, name: value}))
    assert payload(world.operator.call("delete tasks", {"task_id": task_id, name: "x"})) == {"task_id": task_id}
    eventually(lambda: name in world.server.log()[before:], "the log names it")
    ok(Mirror(world.http, world.viewer.atoken).call("get tasks", query={name: "de"}))
    ok(Mirror(world.http, world.viewer.atoken).call("get tasks", {name: "de"}))


def test_only_those_are_tolerated(world: World) -> None:
    with world.server.unchanged(leave_out=()):
        for params in ({"lang": "de", "colour": "blue"}, {"Lang": "de"}, {"lang ": "de"}):
            path = next(name for name in params if name != "lang")
            failed(world.viewer.call("get tasks", params), BAD_FIELD, f"$.params.{path}")
            failed(Mirror(world.http, world.viewer.atoken).call("get tasks", params), BAD_FIELD, f"$.params.{path}")


# -- what is fixed (§7)


def test_calls_that_wait_for_one_device(world: World) -> None:
    """32 wait; whether the eight that are with the device are of them the contract leaves open."""
    device = world.device(warm=True)
    device.behave(hold)
    client = world.client("admin")
    call = {"dev_unid": device.dev_unid, "command": "get /x", "timeout": 30}
    sent = [client.send("post devices/call", call) for _ in range(50)]
    ok(client.call("get tasks"))
    with client.changed:
        refused = [message for message in client.inbox if isinstance(message, dict)]
    assert {message["ecode"] for message in refused} == {TOO_MANY}
    assert len(refused) in (50 - 32, 50 - 32 - 8)
    device.behave_normally()
    device.release()
    codes = [client.answer(req_id)["ecode"] for req_id in sent]
    assert codes.count(0) == 50 - len(refused)
    assert not client.inbox
    ok(client.call("post devices/call", call))


def test_requests_of_a_device_in_flight(world: World) -> None:
    """Each is answered once; beyond four at a time they may be refused."""
    device = world.device()
    for number in range(60):
        message = {"command": full_command("get tasks"), "req_id": f"own {number}"}
        device.send(device.sockets[-1], message)
    device.wait_for(lambda: len(device.answers) >= 60)
    device.barrier()
    own = [answer for answer in device.answers if str(answer["req_id"]).startswith("own ")]
    assert sorted(answer["req_id"] for answer in own) == sorted(f"own {number}" for number in range(60))
    assert {answer["ecode"] for answer in own} <= {0, TOO_MANY}


def test_logins_that_wait_for_their_turn(world: World) -> None:
    """64 wait; more are refused, and everybody else is served meanwhile."""
    lines: list[Line] = []
    try:
        for number in range(100):
            lines.append(line_from(world, f"127.0.0.{20 + number // 15}"))
        body = {"user_type": "user", "user_name": "nobody", "password": "wrong"}
        for connection in lines:
            connection.send("POST", f"{WEB_PATH}/login", body)
        assert world.operator.works()
        codes = [connection.receive().json["ecode"] for connection in lines]
    finally:
        for connection in lines:
            connection.close()
    assert set(codes) == {BAD_LOGIN, TOO_MANY}
    assert codes.count(BAD_LOGIN) >= 64
    assert world.client("viewer").works()


def line_from(world: World, source: str) -> Line:
    return Line(world.http.seen_from(source))


def test_many_lines_work_at_once(world: World) -> None:
    """From a page that opens several: each is answered."""
    codes: list[int] = []

    def ask_for_tasks() -> None:
        with line(world.http) as connection:
            reply = connection.ask("GET", f"{WEB_PATH}/devconf_fx/tasks", authorization=world.viewer.atoken)
            codes.append(reply.status)

    threads = [threading.Thread(target=ask_for_tasks) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 8
