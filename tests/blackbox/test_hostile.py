"""What no honest client sends: the answer or the close code of the contract, and everybody else works on."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from kit import (
    PATIENCE,
    WS_PATH,
    Client,
    RawSocket,
    World,
    failed,
    full_command,
    raw_socket,
    short,
)
from websockets.exceptions import ConnectionClosed

NOT_JSON, BAD_FIELD = 1004000001, 1004000002
GET = full_command("get tasks")


@pytest.fixture(scope="module")
def bystander(world: World) -> Iterator[Client]:
    client = Client(world.http, world.viewer.login)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def others_work_on(world: World, bystander: Client) -> Iterator[None]:
    with world.server.unchanged():
        yield
    assert bystander.works()


def about(rest: str, command: str = GET) -> str:
    """A request written by hand: a command, and then what json.dumps would not write."""
    return '{"command": "' + command + '", ' + rest + "}"


def not_json(client: Client, message: str | bytes) -> None:
    """It is answered 1004000001, and the connection stays. What is echoed of such a message is left open."""
    client.send_raw(message)
    answer = client.recv()
    assert answer["ecode"] == NOT_JSON
    assert answer["enote"]
    assert set(answer) <= {"command", "src_page", "req_id", "ecode", "enote"}
    assert client.works()


@pytest.mark.parametrize(
    "message",
    ["", " ", "x", "{", '{"command"', "[]", "[1]", "5", '"text"', "null", "true", "{}x", "{'command': 1}", "\x00"],
)
def test_no_json_object(world: World, message: str) -> None:
    not_json(world.client("operator"), message)


DEEP = 100_000


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("[" * DEEP + "]" * DEEP, id="list"),
        pytest.param("[" * DEEP, id="never closed"),
        pytest.param('{"a":' * DEEP + "1" + "}" * DEEP, id="object"),
        pytest.param(about('"params": {"a": ' + "[" * DEEP + "]" * DEEP + "}"), id="params"),
        pytest.param(about('"other": ' + "[" * DEEP + "]" * DEEP), id="ignored field"),
    ],
)
def test_nested_too_deep(world: World, message: str) -> None:
    not_json(world.client("operator"), message)


@pytest.mark.parametrize("levels", [65, 300])
def test_nested_deeper_than_64(world: World, levels: int) -> None:
    deep = "[" * levels + "]" * levels
    not_json(world.client("operator"), about(f'"params": {{"name": {deep}}}', full_command("post tasks")))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_json_lacks(world: World, number: str) -> None:
    not_json(world.client("operator"), about(f'"params": {{"limit": {number}}}'))
    not_json(world.client("operator"), about(f'"other": [{number}]'))


@pytest.mark.parametrize("number", ["9" * 5000, "1" + "0" * 400, "-" + "9" * 30, "1." + "3" * 5000], ids=short)
def test_long_numbers(world: World, number: str) -> None:
    """Whether a number is too long to be read or just out of range is left open."""
    client = world.client("operator")
    client.send_raw(about(f'"params": {{"limit": {number}}}'))
    assert client.recv()["ecode"] in (NOT_JSON, BAD_FIELD)
    assert client.works()


@pytest.mark.parametrize("text", [r"\ud800", r"\udfff", r"a\ud83dz", r"\ude00\ud83d"])
@pytest.mark.parametrize("where", ['"@": 1', '"src_page": "@"', '"params": {"after": "@"}'])
def test_lone_surrogates(world: World, text: str, where: str) -> None:
    not_json(world.client("operator"), about(where.replace("@", text)))


def test_paired_surrogates_are_a_character(world: World) -> None:
    client = world.client("viewer")
    client.send_raw(about(r'"src_page": "\ud83d\ude00"'))
    answer = client.recv()
    assert (answer["ecode"], answer["src_page"]) == (0, "\U0001f600")


def test_text_that_is_not_utf_8(world: World) -> None:
    """1004000001 by the contract; RFC 6455 would have the connection failed with 1007, which is let pass."""
    frame = RawSocket.frame(b'{"command": "\xff\xfe"}')
    with raw_socket(world.http, world.operator.atoken) as raw:
        raw.send(frame)
        opcode, payload = next(raw.frames(), (0, b""))
    if opcode == 8:
        assert struct.unpack("!H", payload[:2]) == (1007,)
    else:
        assert json.loads(payload)["ecode"] == NOT_JSON


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b'{"command": "x"}'])
def test_binary_frame(world: World, data: bytes) -> None:
    client = world.client("operator")
    client.send_raw(data)
    assert client.wait_closed() == 1003
    assert not client.inbox


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("fill", ["x", "["])
def test_ten_megabytes(world: World, compression: str | None, fill: str) -> None:
    client = world.client("operator", compression=compression)
    with suppress(ConnectionClosed):
        client.send_raw(fill * 10_000_000)
    assert client.wait_closed() == 1009


def test_ten_megabytes_only_claimed(world: World) -> None:
    with raw_socket(world.http, world.operator.atoken) as raw:
        raw.send(RawSocket.frame(b"x" * 1000, claim=10_000_000))
        assert raw.close_code() == 1009


def test_ten_megabytes_in_pieces(world: World) -> None:
    with raw_socket(world.http, world.operator.atoken) as raw:
        with suppress(OSError):
            raw.send(RawSocket.frame(b"x" * 60_000, first=0x01))
            for _ in range(200):
                raw.send(RawSocket.frame(b"x" * 60_000, first=0x00))
        assert raw.close_code() in (1009, None)  # None: cut while we were still sending


def test_largest_message_of_an_operator_is_read(world: World) -> None:
    """One MiB of content is 4/3 of that in base64; a message of that size is answered, whatever it says."""
    failed(world.operator.call("get tasks", {"after": 5, "x": "y" * (1_398_104 + 60_000)}), BAD_FIELD, "$.params")


@pytest.mark.parametrize(
    "data",
    [
        RawSocket.frame(b'{"command": "x"}', masked=False),
        RawSocket.frame(b"{}", first=0xF1),  # reserved bits
        RawSocket.frame(b"{}", first=0x83),  # reserved opcode
        RawSocket.frame(b"{}", first=0x8F),  # reserved control opcode
        RawSocket.frame(b"p" * 126, first=0x89),  # a ping too long
        RawSocket.frame(b"p", first=0x09),  # a ping in pieces
        RawSocket.frame(b"{}", first=0x80),  # goes on with what was never begun
        RawSocket.frame(b"{", first=0x01) + RawSocket.frame(b"}", first=0x81),  # begins again in the middle
        RawSocket.frame(b"\x00", first=0x88),  # half a close code
        RawSocket.frame(struct.pack("!H", 999), first=0x88),  # a close code that does not exist
        b"\xff" * 64,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=short,
)
def test_broken_frames(world: World, data: bytes) -> None:
    """The connection is failed, as RFC 6455 has it; which code it says is not in the contract."""
    with raw_socket(world.http, world.operator.atoken) as raw:
        raw.send(data)
        assert raw.close_code() in (None, 1002, 1003, 1007, 1009)


@pytest.mark.parametrize("cut", [0, 1, 3, 7, 20])
def test_cut_in_the_middle_of_a_frame(world: World, cut: int) -> None:
    with raw_socket(world.http, world.operator.atoken) as raw:
        raw.send(RawSocket.frame(b'{"command": "%s"}' % GET.encode())[:cut])


@pytest.mark.parametrize(
    "request_head",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" % WS_PATH.encode(),
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000,
        b"POST /webapi/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /webapi/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{}",
    ],
    ids=short,
)
def test_broken_http(world: World, request_head: bytes) -> None:
    with socket.create_connection((world.http.host, world.http.port), timeout=PATIENCE) as sock:
        with suppress(OSError):
            sock.sendall(request_head)
            sock.shutdown(socket.SHUT_WR)
            assert not sock.recv(4096).startswith((b"HTTP/1.1 101", b"HTTP/1.1 2"))
