"""What a server that cannot take somebody now says of when to come back (protocol §5, §6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devconf.client import CannotConnect, connect_with_token
from devconf.config import Limits
from devconf.errors import Ecode
from devconf.store import answers
from devconf.testing import MemoryServer
from tests.running import Start, raw


def test_what_was_not_even_looked_at_may_be_asked_again() -> None:
    told = {ecode.name: ecode.retry_after for ecode in Ecode if ecode.retry_after is not None}
    assert told == {"TOO_MANY": 5, "STOPPING": 5}


async def heard(server: Any, request: bytes) -> bytes:
    connection = await raw(server)
    connection.transport.write(request + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await connection.ended
    return bytes(connection.heard)


async def test_a_server_that_is_not_ready_says_so(start: Start) -> None:
    server = await start()
    assert b"retry-after" not in (await heard(server, b"GET /readyz")).lower()
    assert b"retry-after" not in (await heard(server, b"GET /webapi/v1/nothing")).lower()
    server.service._running = False
    for address in (b"GET /readyz", b"GET /webapi/v1/login", b"GET /wsapi/v1/devconf_fx"):
        answer = await heard(server, address)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in answer.lower()


async def test_a_handshake_for_which_there_is_no_room_says_so(start: Start) -> None:
    server = await start(limits=Limits(connections=1))
    atoken = await server.log_in()
    first = await connect_with_token(server.reactor, server.url, atoken)
    with pytest.raises(CannotConnect) as refused:
        await connect_with_token(server.reactor, server.url, atoken)
    assert refused.value.retry_after == 5
    await first.close()


def test_a_device_that_the_store_cannot_take_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_errors: Any
) -> None:
    def fail(*_args: Any) -> None:
        raise OSError("the disk is full")

    server = MemoryServer(tmp_path)
    device = server.enrol("box-1")
    with monkeypatch.context() as patch:
        patch.setattr(answers, "connect", fail)
        device.connect()
    assert device.closed == (1013, "the server cannot take this device now; retry after 30 s")
    logged_errors.expect(OSError)
    device.connect()
    assert device.dev_unid in server.service.hub
    server.stop()
