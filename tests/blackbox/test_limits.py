"""Limits (protocol §7), each at its bound and one beyond, on a server with small ones."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from kit import (
    PATIENCE,
    WEB_PATH,
    Client,
    RawSocket,
    World,
    b64,
    combo,
    eventually,
    failed,
    full_command,
    handshake_status,
    hold,
    ok,
    raw_socket,
    reply_with,
)
from kit_http import Mirror, as_answer, line, resource_path
from kit_people import BAD_LOGIN, refused, standard

BAD_FIELD, BAD_FILE, CANNOT_RUN, TOO_LARGE, TOO_MANY = 1004000002, 1004000004, 1004090005, 1004130001, 1004290001
CONNECTIONS, BEFORE_LOGIN = 12, 4
PROXY = "127.0.1.1"
SERVER: dict[str, Any] = {
    "device_timeout": 5.0,
    "options": {"trusted_proxies": ["127.0.1.0/24"]},
    "limits": {
        "store_conf_max": 1200,
        "device_message_max": 2000,
        "login_message_max": 400,
        "requests_per_connection": 4,
        "outstanding_per_device": 2,
        "waiting_per_lock": 3,
        "connections": CONNECTIONS,
        "connections_per_address_before_login": BEFORE_LOGIN,
    },
}


def padded(message: dict[str, Any], size: int) -> str:
    """A message of exactly so many bytes."""
    text = json.dumps(message)
    assert len(text) <= size
    return text[:-1] + " " * (size - len(text)) + "}"


# -- bytes


def test_store_conf_max(world: World) -> None:
    file = {"name": "c", "file_ext": "bin"}
    for client in (world.operator, Mirror(world.http, world.operator.atoken)):
        unid = ok(client.call("post store_confs", file | {"file_b64": b64(b"x" * 1200)}))["unid"]
        assert world.conf(unid)["size"] == 1200
        large = file | {"file_b64": b64(b"x" * 1201)}
        with world.server.unchanged(leave_out=()):
            failed(client.call("post store_confs", large), BAD_FILE, "1200")
            failed(client.call("put store_confs", {"unid": unid, **large}), BAD_FILE, "1200")


def test_message_from_an_operator(world: World) -> None:
    """A third more than a content, and 64 KiB."""
    largest = 1200 * 4 // 3 + 65536
    client = world.client("operator")
    message = {"command": full_command("get tasks"), "req_id": "r"}
    client.send_raw(padded(message, largest))
    assert client.recv()["ecode"] == 0
    client.send_raw(padded(message, largest + 1))
    assert client.wait_closed() == 1009
    assert world.operator.works()


def test_message_from_a_device(world: World) -> None:
    device = world.device()
    message = {"command": full_command("get tasks"), "req_id": "r"}
    device.send(device.sockets[-1], padded(message, 2000))
    device.wait_for(lambda: [answer["ecode"] for answer in device.answers] == [0])
    device.send(device.sockets[-1], padded(message, 2001))
    assert device.sockets[-1].wait_closed() == 1009
    world.connect(device)
    device.barrier()


def test_the_bound_of_a_device_is_for_what_it_sends(world: World) -> None:
    """It may be sent as much as an operator may say."""
    device = world.device()
    device.behave(reply_with(lambda order: {"req_id": order.req_id, "ecode": 0, "enote": "ok"}))
    call = {"dev_unid": device.dev_unid, "command": "get /x", "params": {"a": "x" * 60_000}}
    ok(world.admin.call("post devices/call", call))
    assert device.heard()[0].params == call["params"]


@pytest.mark.parametrize("what", ["login", "token", "logout"])
def test_login_message_max(world: World, what: str) -> None:
    """What comes from who has shown nothing yet."""
    bodies = {
        "login": {"user_type": "user", "user_name": "admin", "password": "wrong"},
        "token": {"rtoken": "wrong"},
        "logout": {"rtoken": "wrong"},
    }
    fits, larger = (padded(bodies[what], size).encode() for size in (400, 401))
    ecode = BAD_LOGIN if what == "login" else 1004010001
    with world.server.unchanged(leave_out=()):
        refused(world.http.request("POST", f"{WEB_PATH}/{what}", raw=fits), ecode)
        refused(world.http.request("POST", f"{WEB_PATH}/{what}", raw=larger), TOO_LARGE)


def test_a_registration_has_256_kib(world: World) -> None:
    device = world.device(connect=False)
    body = {"dev_refid": device.dev_refid, "dev_type": "box", "dev_name": "n"}
    path = f"{WEB_PATH}/devconf_fx/devices/{device.dev_unid}/register"
    fits, larger = (padded(body, size).encode() for size in (262_144, 262_145))
    standard(world.http.request("POST", path, raw=fits, atoken=device.atoken))
    with world.server.unchanged(leave_out=()):
        refused(world.http.request("POST", path, raw=larger, atoken=device.atoken), TOO_LARGE)


def test_frames_of_a_message(world: World) -> None:
    """64 are read, one more is too many."""
    text = json.dumps({"command": full_command("get tasks"), "req_id": "r"}).encode()

    def pieces(count: int) -> bytes:
        parts = [text[at : at + 1] for at in range(count - 1)] + [text[count - 1 :]]
        frames = [RawSocket.frame(part, first=0x00) for part in parts]
        frames[0] = RawSocket.frame(parts[0], first=0x01)
        frames[-1] = RawSocket.frame(parts[-1], first=0x80)
        return b"".join(frames)

    with raw_socket(world.http, world.operator.atoken) as raw:
        raw.send(pieces(64))
        opcode, payload = next(raw.frames())
        assert (opcode, json.loads(payload)["ecode"]) == (1, 0)
    with raw_socket(world.http, world.operator.atoken) as raw:
        raw.send(pieces(65))
        assert raw.close_code() == 1009


# -- requests


def test_requests_in_flight_and_outstanding_on_a_device(world: World) -> None:
    """Four of a connection run, of them two are with the device and two wait; the fifth is refused at once."""
    device = world.device(warm=True)
    device.behave(hold)
    client = world.client("admin")
    call = {"dev_unid": device.dev_unid, "command": "get /x"}
    sent = [client.send("post devices/call", call) for _ in range(4)]
    for _ in range(2):
        failed(client.call("post devices/call", call), TOO_MANY)
        failed(client.call("get tasks"), TOO_MANY)
    ok(world.client("admin").call("get tasks"))
    device.wait_heard(3)
    device.barrier()
    assert len(device.heard()) == 3, "a task, and two calls"
    device.behave_normally()
    device.release()
    for req_id in sent:
        ok(client.answer(req_id))
    assert len(device.heard()) == 5
    assert client.works()
    assert not client.inbox


def test_waiting_for_a_lock(world: World) -> None:
    """One has it, three wait; whoever comes then is refused at once, whichever way."""
    device = world.device(algos=["a1"])
    task_id = world.pic_task(device)
    device.behave(hold, verb="put", times=1)
    client, other = world.client("operator"), world.client("operator")
    first = client.send("post tasks/pic_task_config", {"task_id": task_id, "algo_comb": combo("a1", speed=2)})
    device.wait_heard(1, "put")
    cannot = {"task_id": task_id, "algo_comb": combo("a9")}  # costs no time once it has the lock
    waiting = [client.send("post tasks/pic_task_config", cannot) for _ in range(3)]
    failed(client.call("get tasks"), TOO_MANY)  # they have arrived
    with world.server.unchanged(leave_out=()):
        failed(other.call("post tasks/pic_task_config", cannot), TOO_MANY)
        failed(other.call("put tasks", {"task_id": task_id, "name": "n"}), TOO_MANY)
        failed(Mirror(world.http, other.atoken).call("delete tasks", {"task_id": task_id}), TOO_MANY)
    ok(other.call("put tasks", {"task_id": world.pic_task(), "name": "another lock"}))
    device.release()
    ok(client.answer(first))
    for req_id in waiting:
        failed(client.answer(req_id), CANNOT_RUN, stored=True, maybe=("devices",))
    ok(other.call("put tasks", {"task_id": task_id, "name": "n"}))


# -- connections


def test_connections(world: World) -> None:
    """The handshake of one too many ends with 503, for operators and devices; what is there works on."""
    device = world.device(connect=False)
    ticket = world.http.ws_url(device.dev_unid, device.atoken)
    opened: list[Client] = []
    header = world.http.header_url
    while len(opened) < CONNECTIONS - 3:
        opened.append(world.client("viewer", "header"))
    assert handshake_status(header, world.viewer.atoken) == 503
    assert handshake_status(ticket) == 503
    assert all(client.works() for client in (world.admin, *opened))
    ok(Mirror(world.http, world.admin.atoken).call("get tasks"))
    assert world.http.request("GET", "/readyz").status == 200
    opened.pop().close()
    eventually(lambda: handshake_status(header, world.viewer.atoken) == 101, "there is room again")
    for client in opened:
        client.close()
    world.connect(device)


@contextmanager
def idle(world: World, source: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections from this address that say nothing; each is known to the server."""
    with ExitStack() as stack:
        address = (world.http.host, world.http.port)
        yield [stack.enter_context(socket.create_connection(address, PATIENCE, (source, 0))) for _ in range(count)]


def closed_at_once(world: World, source: str) -> bool:
    """Is a further connection from this address closed, without an answer to what it asks?"""
    with idle(world, source, 1) as (sock,):
        try:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return not sock.recv(100).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            return True


def test_connections_before_login(world: World) -> None:
    """Of one address; another has its own, and one that ends makes room."""
    source = "127.0.0.7"
    with idle(world, source, BEFORE_LOGIN - 1):
        assert not closed_at_once(world, source)
        with idle(world, source, 1):
            assert closed_at_once(world, source)
            assert not closed_at_once(world, "127.0.0.8")
        eventually(lambda: not closed_at_once(world, source), "one of them has ended")


def test_half_a_request_is_no_login(world: World) -> None:
    source = "127.0.0.9"
    with idle(world, source, BEFORE_LOGIN) as sockets:
        for sock, text in zip(sockets, (b"GET", b"POST /webapi/v1/login HTTP/1.1\r\n", b"\x00", b"\r\n"), strict=True):
            sock.sendall(text)
        assert closed_at_once(world, source)


def test_those_that_came_in_do_not_count(world: World) -> None:
    """A socket with a ticket or a token, and an HTTP connection that has shown one."""
    source = "127.0.0.10"
    http = world.http.seen_from(source)
    with ExitStack() as stack:
        clients = [Client(http, world.viewer.login, how) for how in ("ticket", "header") * 2]
        for client in clients:
            stack.callback(client.close)
        for _ in range(BEFORE_LOGIN + 1):
            connection = stack.enter_context(line(http))
            ok(as_answer(connection.ask("GET", resource_path("tasks"), authorization=world.viewer.atoken)))
        assert not closed_at_once(world, source)
        with idle(world, source, BEFORE_LOGIN):
            assert closed_at_once(world, source)
        assert all(client.works() for client in clients)


def test_a_proxy_is_not_counted(world: World) -> None:
    with idle(world, PROXY, 3 * BEFORE_LOGIN):
        assert not closed_at_once(world, PROXY)
        assert world.http.seen_from(PROXY, x_forwarded_for="192.0.2.1").request("GET", "/healthz").status == 200
