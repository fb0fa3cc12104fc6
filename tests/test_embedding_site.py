"""Our resource in the site of a host: at its root and below a path, plain and with TLS, behind what hosts wrap it in.

Who visits is independent of us: ``http.client`` and ``websockets``, in a thread.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols import policies
from twisted.protocols.haproxy import proxyEndpoint
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import EncodingResourceWrapper, Resource
from twisted.web.server import GzipEncoderFactory, Request, Site
from twisted.web.static import Data
from twisted.web.test.requesthelper import DummyChannel
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from devconf.client import Client
from devconf.client import connect as connect_client
from devconf.config import Config
from devconf.device import Device
from devconf.service import DevconfService
from tests.certificates import certificate
from tests.conftest import LoggedErrors

PASSWORD = "correct horse"


class House:
    """A host with a site of its own, in which the service lives."""

    def __init__(self, reactor: Any, folder: Path) -> None:
        self.reactor = reactor
        self.folder = folder
        self.tls: ssl.SSLContext | None = None
        self.preamble = b""
        self._services: list[DevconfService] = []
        self._ports: list[Any] = []

    async def service(self, name: str = "devconf", **settings: Any) -> DevconfService:
        config = Config(listen=(), database=f"sqlite:///{self.folder / name}.sqlite", **settings)
        service = DevconfService(self.reactor, config)
        service.startService()
        self._services.append(service)
        await service.when_ready()
        account = {"user_name": "alice", "role": "admin", "password": PASSWORD}
        assert (await service.request("post users", account))["ecode"] == 0
        return service

    def listen(self, site: Any) -> None:
        self.keep(self.reactor.listenTCP(0, site, interface="127.0.0.1"))

    def keep(self, port: Any) -> None:
        self._ports.append(port)
        self.port = port.getHost().port

    async def stop(self) -> None:
        for port in self._ports:
            await port.stopListening()
        for service in self._services:
            await service.stopService()

    # -- a visit, in a thread

    def dial(self) -> Any:
        dialled = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        dialled.sendall(self.preamble)
        return dialled

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and body of an answer: as JSON where it says that it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.sock = self.dial()
        if self.tls:
            connection.sock = self.tls.wrap_socket(connection.sock, server_hostname="localhost")
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if answer.getheader("content-type") == "application/json" else content

    def visit(self, where: str) -> dict[str, Any]:
        """Use everything that is at ``where``; the response to a command on a socket, and the socket's address."""
        for path in [f"{where}/"] if where == "" else [where, f"{where}/"]:
            status, page = self.ask("GET", path)
            assert (status, page[:8]) == (200, b"devconf ")
        assert self.ask("GET", f"{where}/healthz") == (200, b"ok\n")
        assert self.ask("GET", f"{where}/readyz") == (200, b"ok\n")
        assert self.ask("GET", f"{where}/nothing") == (404, b"There is nothing here.\n")
        for path in ("webapi/v1/nothing", "webapi/v2", "wsapi/v1/other"):
            status, answer = self.ask("GET", f"{where}/{path}")
            assert (status, answer["ecode"]) == (400, 1004000003), path
        login = {"user_type": "user", "user_name": "alice", "password": PASSWORD}
        status, tokens = self.ask("POST", f"{where}/webapi/v1/login", login)
        assert (status, tokens["ecode"]) == (200, 0)
        atoken = tokens["atoken"]
        tasks = self.ask("GET", f"{where}/webapi/v1/devconf_fx/tasks?limit=3", authorization=atoken)
        assert tasks == (200, {"ecode": 0, "enote": "ok", "tasks": [], "next": None})
        path = f"{where}/webapi/v1/devconf_fx/users/{tokens['user_unid']}/ws_url?type=devconf_fx"
        status, answer = self.ask("GET", path, authorization=atoken)
        assert status == 200
        tls: dict[str, Any] = {"ssl": self.tls, "server_hostname": "localhost"} if self.tls else {}
        with connect(answer["ws_url"], sock=self.dial(), **tls) as channel:
            channel.send('{"command": "get /wsapi/v1/devconf_fx/tasks"}')
            return {"ws_url": answer["ws_url"], **json.loads(channel.recv(timeout=20))}

    def is_not_served(self) -> None:
        """The service lives below /devconf, but takes nothing; the rest of the host is as it was."""
        stopping = {"ecode": 1005030002, "enote": "the server is starting or stopping; try again later"}
        login = {"user_type": "user", "user_name": "alice", "password": PASSWORD}
        assert self.ask("POST", "/devconf/webapi/v1/login", login) == (503, stopping)
        assert self.ask("GET", "/devconf/webapi/v1/devconf_fx/tasks", authorization="x") == (503, stopping)
        assert self.ask("GET", "/devconf/healthz") == (200, b"ok\n")
        assert self.ask("GET", "/devconf/readyz") == (503, b"not ready\n")
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{self.port}/devconf/wsapi/v1/devconf_fx/x", sock=self.dial())
        assert refused.value.response.status_code == 503
        assert self.ask("GET", "/") == (200, b"the host")

    async def is_used(self, where: str) -> None:
        told = await deferToThread(self.visit, where)
        ticket = told["ws_url"].rpartition("/")[2]
        scheme = "wss" if self.tls else "ws"
        assert told == {
            "ws_url": f"{scheme}://127.0.0.1:{self.port}{where}/wsapi/v1/devconf_fx/{ticket}",
            "command": "get /wsapi/v1/devconf_fx/tasks",
            "ecode": 0,
            "enote": "ok",
            "tasks": [],
            "next": None,
        }


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    from twisted.internet import reactor

    house = House(reactor, tmp_path)
    yield house
    pytest_twisted.blockon(Deferred.fromCoroutine(house.stop()))


def at(where: str, resource: Any) -> Resource:
    """A host's root that has ``resource`` at ``where``, and a page of its own."""
    root = parent = Resource()
    *above, last = where.strip("/").encode().split(b"/")
    for name in above:
        below = Resource()
        parent.putChild(name, below)
        parent = below
    parent.putChild(last, resource)
    root.putChild(b"", Data(b"the host", "text/plain"))
    return root


# -- where


async def test_at_the_root(house: House) -> None:
    house.listen(Site((await house.service()).resource))
    await house.is_used("")


@pytest.mark.parametrize("where", ["/devconf", "/ops/tools/devconf", "/webapi/v1"])
async def test_below_a_path(house: House, where: str) -> None:
    house.listen(Site(at(where, (await house.service()).resource)))
    await house.is_used(where)
    assert await deferToThread(house.ask, "GET", "/") == (200, b"the host")


async def test_clients_and_devices_find_us_below_a_path(house: House) -> None:
    service = await house.service()
    house.listen(Site(at("/devconf", service.resource)))
    url = f"http://127.0.0.1:{house.port}/devconf"
    made = await service.request("post devices", {"dev_refid": "box"})

    class Box:
        def add(self, order: Any) -> None:
            pass

    device = Device(house.reactor, url, "box", made["dev_key"], Box())
    device.start()
    client: Client = await connect_client(house.reactor, url, "alice", PASSWORD)
    while not (await client.request("get devices", {"online": True}))["devices"]:
        await deferLater(house.reactor, 0.01)
    task = {"name": "gate", "task_type": "pic", "dev_unids": [made["dev_unid"]]}
    assert [item["state"] for item in (await client.request("post tasks", task))["devices"]] == ["confirmed"]
    await client.close()
    await device.stop()


async def test_two_services_in_one_site(house: House) -> None:
    root = Resource()
    for name in ("one", "other"):
        root.putChild(name.encode(), (await house.service(name)).resource)
    house.listen(Site(root))
    await house.is_used("/one")
    await house.is_used("/other")


@pytest.mark.parametrize("public_url", ["https://ops.example.com/tools", "https://ops.example.com/tools/"])
async def test_a_public_url_of_the_host_is_taken_as_it_is(house: House, public_url: str) -> None:
    """Behind a proxy our path may be another than the one that clients see."""
    house.listen(Site(at("/devconf", (await house.service(public_url=public_url)).resource)))
    login = {"user_type": "user", "user_name": "alice", "password": PASSWORD}
    _, tokens = await deferToThread(house.ask, "POST", "/devconf/webapi/v1/login", login)
    path = f"/devconf/webapi/v1/devconf_fx/users/{tokens['user_unid']}/ws_url?type=devconf_fx"
    _, answer = await deferToThread(house.ask, "GET", path, authorization=tokens["atoken"])
    assert answer["ws_url"].startswith("wss://ops.example.com/tools/wsapi/v1/devconf_fx/")


# -- through what


async def test_with_tls(house: House, tmp_path: Path) -> None:
    files = certificate(tmp_path)
    context = DefaultOpenSSLContextFactory(*map(str, files))
    site = Site(at("/devconf", (await house.service()).resource))
    house.tls = ssl.create_default_context(cafile=str(files[1]))
    house.keep(house.reactor.listenSSL(0, site, context, interface="127.0.0.1"))
    await house.is_used("/devconf")
    house.listen(TLSMemoryBIOFactory(context, False, site))
    await house.is_used("/devconf")


async def test_behind_wrappers(house: House) -> None:
    site = Site(at("/devconf", (await house.service()).resource))
    house.listen(policies.TimeoutFactory(policies.WrappingFactory(site), 600))
    await house.is_used("/devconf")


async def test_behind_a_proxy_that_says_who_comes(house: House) -> None:
    site = Site((await house.service()).resource)
    house.preamble = b"PROXY TCP4 203.0.113.9 127.0.0.1 40000 80\r\n"
    endpoint = proxyEndpoint(serverFromString(house.reactor, "tcp:0:interface=127.0.0.1"))
    house.keep(await endpoint.listen(site))
    await house.is_used("")


async def test_in_a_resource_that_compresses(house: House) -> None:
    resource = EncodingResourceWrapper((await house.service()).resource, [GzipEncoderFactory()])
    house.listen(Site(at("/devconf", resource)))
    await house.is_used("/devconf")


def test_what_is_not_http_1_cannot_become_a_websocket(house: House, logged_errors: LoggedErrors) -> None:
    """Such as a stream of HTTP/2."""
    service = DevconfService(house.reactor, Config(listen=(), database=f"sqlite:///{house.folder / 'devconf.sqlite'}"))
    channel: Any = DummyChannel()
    channel.site = Site(service.resource)
    request = Request(channel, False)
    request.gotLength(0)
    request.requestReceived(b"GET", b"/wsapi/v1/devconf_fx", b"HTTP/2")
    head, _, body = channel.transport.written.getvalue().partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body) == {"ecode": 1004000003, "enote": "a WebSocket begins with HTTP/1.1; connect with that"}
    assert logged_errors.flush() == []


# -- while we do not run


async def test_the_site_says_so_while_the_service_does_not_run(house: House) -> None:
    service = DevconfService(house.reactor, Config(listen=(), database=f"sqlite:///{house.folder / 'devconf.sqlite'}"))
    house.listen(Site(at("/devconf", service.resource)))
    await deferToThread(house.is_not_served)
    service.startService()
    await service.when_ready()
    assert await deferToThread(house.ask, "GET", "/devconf/readyz") == (200, b"ok\n")
    await service.stopService()
    await deferToThread(house.is_not_served)
