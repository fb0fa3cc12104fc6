"""What an operator's program in Python uses: log in, connect, ask (``docs/protocol.md`` §1 to §4).

client = await connect(reactor, "http://127.0.0.1:8080", "alice", password)
response = await client.request("get tasks", {"limit": 10})
await client.log_out()

A program that runs for long uses :class:`LastingClient`, which comes back whenever its connection is lost.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from devconf.connection import Client, Disconnected, NoResponse, open_client, whole_command
from devconf.lasting import LastingClient
from devconf.ways_in import CannotConnect, Login, Message, RequestFailed, Server

__all__ = [
    "CannotConnect",
    "Client",
    "Disconnected",
    "LastingClient",
    "Message",
    "NoResponse",
    "RequestFailed",
    "connect",
    "connect_with_token",
    "whole_command",
]


def connect(reactor: Any, url: str, user_name: str, password: str) -> Deferred[Client]:
    """Log in and open a connection (§1).

    :param url: the server's address: ``http://`` or ``https://``, host and port, and the path of a proxy if any.
    :returns: fires with the client; fails with :class:`CannotConnect`, or :class:`RequestFailed` (``BAD_CREDENTIALS``
        for a wrong name or password).
    """

    async def run() -> Client:
        server = Server(reactor, url)
        login = await server.log_in({"user_type": "user", "user_name": user_name, "password": password})
        return await open_client(reactor, await server.ws_url(login), end_login=partial(server.log_out, login))

    return Deferred.fromCoroutine(run())


def connect_with_token(reactor: Any, url: str, atoken: str) -> Deferred[Client]:
    """Open a connection with the ``atoken`` of a login, without a ticket (§1).

    :param url: as for :func:`connect`.
    :returns: fires with the client; fails with :class:`CannotConnect`, also when the token is refused.
    """

    async def run() -> Client:
        server = Server(reactor, url)
        leave = partial(server.log_out, Login("", atoken))
        return await open_client(reactor, server.socket_url, atoken=atoken, end_login=leave)

    return Deferred.fromCoroutine(run())
