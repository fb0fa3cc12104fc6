"""A site in this process that has pages of its own, and devconf at ``/devconf``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredQueue
from twisted.internet.task import deferLater
from twisted.internet.tcp import Server as ServerTransport
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from devconf import wire
from devconf.clock import Random
from devconf.config import Config
from devconf.model import Role
from devconf.passwords import PlainPasswords
from devconf.service import DevconfService, Seams
from devconf.store import accounts, opening
from devconf.store.writer import ThreadRunner
from devconf.testing import prepared_database

USER, PASSWORD = "alice", "correct horse"


class _Reports(Resource):
    """Takes what a page reports."""

    def __init__(self, queue: DeferredQueue[Any]) -> None:
        super().__init__()
        self._queue = queue

    def render_POST(self, request: Any) -> bytes:
        self._queue.put(json.loads(request.content.read()))
        return b""


class Host:
    """The site, once it is started.

    :ivar url: the address of devconf in it, and :ivar origin: that of the site.
    :ivar reports: what pages have sent to ``/report``.
    """

    def __init__(self, reactor: Any, folder: Path) -> None:
        self.reactor = reactor
        self.reports: DeferredQueue[Any] = DeferredQueue()
        path = prepared_database(folder / "devconf.sqlite")
        connection = opening.connect(f"sqlite:///{path}")
        with connection.begin():
            accounts.insert_user(connection, 0.0, "u1", USER, Role.ADMIN, f"plain {PASSWORD}")
        opening.close(connection)
        seams = Seams(
            reactor, time.time, Random(), ThreadRunner(reactor), PlainPasswords(), deferToThread, deferToThread
        )
        self.service = DevconfService(reactor, Config(listen=(), database=f"sqlite:///{path}"), seams)
        self._root = Resource()
        self._root.putChild(b"devconf", self.service.resource)
        self._root.putChild(b"report", _Reports(self.reports))

    def page(self, name: str, text: str) -> None:
        kind = "text/javascript" if name.endswith(".mjs") else "text/html; charset=utf-8"
        self._root.putChild(name.encode(), Data(text.encode(), kind))

    async def start(self) -> None:
        self.service.startService()
        await self.service.when_ready()
        self._port = self.reactor.listenTCP(0, Site(self._root), interface="127.0.0.1")
        self.origin = f"http://127.0.0.1:{self._port.getHost().port}"
        self.url = f"{self.origin}/devconf"

    async def stop(self) -> None:
        """Stop, once those who came have gone."""
        await self._port.stopListening()
        await self.service.stopService()
        while any(isinstance(each, ServerTransport) for each in self.reactor.getReaders()):
            await deferLater(self.reactor, 0.01)

    async def order(self, dev_unid: str, method: str, **params: Any) -> dict[str, Any]:
        """Send a device an order, whatever it has; its answer without the ``req_id``."""
        link = self.service.hub.get(dev_unid)
        assert link is not None
        req_id = self.service.hub.next_req_id()
        payload = wire.encode_request(req_id, f"{method} {wire.PREFIX}tasks", params)
        answer = await link.request(req_id, [payload], 20.0)
        assert answer.message.pop("req_id") == req_id
        return answer.message
