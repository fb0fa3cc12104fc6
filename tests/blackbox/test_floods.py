"""Peers that send more than they should: others are answered meanwhile, and the log does not grow with it.

What is not read stays in the buffers of both systems and then with the sender: how long a flood lasts, and not how
much of it is sent, is what these tests say.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from kit import PATIENCE, Client, Order, RawSocket, World, full_command, raw_socket
from kit_flood import memory, others_work_on

SERVER = {"device_timeout": 5.0, "limits": {"connections_per_address_before_login": 50, "unread_messages": 200}}
FLOODING = 5
SECONDS = 2.0
DONE = {"ecode": 0, "enote": "ok"}


def pour(sockets: list[socket.socket], data: bytes, *, read: bool) -> None:
    """Send as much as is taken, and read what comes, or do not."""
    for sock in sockets:
        sock.setblocking(False)
    until = time.monotonic() + SECONDS
    sent = [0] * len(sockets)
    while time.monotonic() < until:
        for number, sock in enumerate(sockets):
            with suppress(OSError):
                sent[number] += sock.send(data[sent[number] % len(data) :])
            if read:
                with suppress(OSError):
                    sock.recv(1 << 20)
        time.sleep(0.001)
    assert all(sent)


def asks(command: str) -> bytes:
    return RawSocket.frame(json.dumps({"command": full_command(command), "req_id": "r"}).encode())


FLOODS = {
    "garbage": RawSocket.frame(b"{") * 2000,
    "unknown commands": asks("get nothing") * 1000,
    "lists": asks("get tasks") * 1000,
    "empty messages": RawSocket.frame(b"") * 5000,
    "pings": RawSocket.frame(b"x" * 125, first=0x89) * 500,
    "pongs": RawSocket.frame(b"", first=0x8A) * 5000,
    "messages in 64 frames": (RawSocket.frame(b"", first=0x01) + RawSocket.frame(b"", first=0x00) * 62) * 20
    + RawSocket.frame(b"", first=0x80),
}


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("flood", FLOODS)
def test_operators_that_flood(world: World, flood: str, read: bool) -> None:
    with ExitStack() as stack:
        flooding = [stack.enter_context(raw_socket(world.http, world.operator.atoken)) for _ in range(FLOODING)]
        with others_work_on(world):
            pour([raw.sock for raw in flooding], FLOODS[flood], read=read)


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("flood", ["garbage", "answers", "requests", "own lists"])
def test_devices_that_flood(world: World, flood: str, read: bool) -> None:
    data = {
        "garbage": FLOODS["garbage"],
        "answers": RawSocket.frame(b'{"req_id": "nobody asked", "ecode": 0}') * 1000,
        "requests": asks("get devices") * 1000,
        "own lists": asks("get tasks") * 1000,
    }[flood]
    with ExitStack() as stack:
        devices = [world.device(connect=False) for _ in range(FLOODING)]
        flooding = [stack.enter_context(raw_socket(world.http, device.atoken)) for device in devices]
        with others_work_on(world):
            pour([raw.sock for raw in flooding], data, read=read)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\n\r\n",
        b"GET /webapi/v1/openapi.json HTTP/1.1\r\n\r\n",
        b"POST /webapi/v1/token HTTP/1.1\r\nContent-Length: 16\r\n\r\n" + b'{"rtoken": "no"}',
    ],
    ids=["page", "nothing", "openapi", "token"],
)
@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_http_that_is_asked_ahead(world: World, request_head: bytes, read: bool) -> None:
    """Without a login; of what is not read, the server makes no more than one answer ahead."""
    with ExitStack() as stack:
        address = (world.http.host, world.http.port)
        sockets = [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(FLOODING)]
        with others_work_on(world):
            pour(sockets, request_head * 1000, read=read)


def test_a_form_of_many_fields(world: World) -> None:
    body = b"a&" * 600_000
    head = b"POST /webapi/v1/login HTTP/1.1\r\nContent-Length: %d\r\n"
    head += b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    with others_work_on(world):
        for _ in range(5):
            with socket.create_connection((world.http.host, world.http.port), PATIENCE) as sock:
                sock.sendall(head % len(body) + body)
                assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_requests_that_are_large_are_not_read_while_others_of_it_run(world: World) -> None:
    """4 MiB in flight and no more, however many are allowed; and then each has its answer."""
    device = world.device(warm=True)
    kept: list[Order] = []
    device.behave(lambda _device, order: kept.append(order))
    large = "x" * 900_000
    params = {"dev_unid": device.dev_unid, "command": "get /x", "params": {"large": large}, "timeout": 60}
    message = {"command": full_command("post devices/call"), "params": params}
    count = 30
    before = memory(world)
    with raw_socket(world.http, world.admin.atoken) as raw:
        calls = b"".join(RawSocket.frame(json.dumps({**message, "req_id": f"{n}"}).encode()) for n in range(count))
        sending = threading.Thread(target=raw.sock.sendall, args=(calls,))
        sending.start()
        device.wait_heard(2)
        time.sleep(1)
        assert sending.is_alive(), "it is not read to the end"
        assert memory(world) - before < 60_000_000
        assert world.client("operator").works()
        device.behave(lambda device, order: device.reply(order, DONE))
        for order in kept:
            device.reply(order, DONE)
        answered = set()
        for opcode, payload in raw.frames():
            if opcode == 1:
                answer = json.loads(payload)
                assert answer["ecode"] == 0
                answered.add(answer["req_id"])
            if len(answered) == count:
                break
        sending.join(PATIENCE)
    assert len(answered) == count


def test_compression_is_not_agreed_to(world: World) -> None:
    """What is offered is refused, so that nothing small becomes large here."""
    with socket.create_connection((world.http.host, world.http.port), PATIENCE) as sock:
        lines = (
            "GET /wsapi/v1/devconf_fx HTTP/1.1",
            "Host: x",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, permessage-brotli",
            f"Authorization: {world.operator.atoken}",
        )
        sock.sendall("\r\n".join((*lines, "", "")).encode())
        head = sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"extensions" not in head.lower()
        sock.sendall(RawSocket.frame(b"\x00", first=0xC1))
        frame = sock.recv(4096)
        assert (frame[0], struct.unpack("!H", frame[2:4])[0]) == (0x88, 1002)


def test_a_client_that_floods_gets_an_answer_to_each(world: World) -> None:
    """It is slowed down, and nothing is lost: here it sends no more than may wait for it."""
    count = 1500
    client: Client = world.client("viewer")
    sent = [client.send("get nothing", {"number": number}) for number in range(count)]
    assert {client.answer(req_id, 60)["ecode"] for req_id in sent} == {1004000003}
    assert client.works()
    assert not client.inbox
