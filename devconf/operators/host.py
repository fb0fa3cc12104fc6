"""Commands in the name of the program that holds the service, without a connection (``docs/embedding.md``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from devconf import wire
from devconf.commands.registry import Registry
from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity, Role

#: Who asks, if the host does not say.
HOST = Identity("host", "host", Role.ADMIN)

Response = dict[str, Any]
Progress = Callable[[int, int], None]


@define
class HostRequests:
    """What the host has asked: a request waits here if and only if its Deferred has not fired."""

    _log = Logger()

    _registry: Registry
    _waiting: set[Deferred[Response]] = field(factory=set, init=False)

    def ask(self, command: str, params: Any, identity: Identity, progress: Progress | None) -> Deferred[Response]:
        """See :meth:`devconf.service.DevconfService.request`."""
        method, space, resource = command.partition(" ")
        message = wire.encode({"command": f"{method}{space}{wire.PREFIX}{resource}", "params": params})
        answer: Deferred[Response] = Deferred()
        self._waiting.add(answer)
        answer.addBoth(self._forget, answer)
        # Not the Deferred of the command itself: to cancel that would leave it half done.
        Deferred.fromCoroutine(self._handle(message, identity, progress)).addCallback(self._answer, answer)
        return answer

    async def _handle(self, message: bytes, identity: Identity, progress: Progress | None) -> Response:
        def told(done: int, total: int) -> None:
            if progress is not None:
                with self._log.failuresHandled("the host's progress function failed"):
                    progress(done, total)

        try:
            request = wire.request_of(wire.decode_object(message))
        except CommandFailed as failure:
            return {"ecode": int(failure.ecode), "enote": failure.enote}
        response = await self._registry.handle(request, identity, told, bool)
        # As it would be on the wire: nothing in it is ours, and the host may change it.
        return dict(json.loads(wire.encode(response)))

    def _answer(self, response: Response, answer: Deferred[Response]) -> None:
        if answer in self._waiting:
            answer.callback(response)

    def _forget(self, result: Any, answer: Deferred[Response]) -> Any:
        self._waiting.discard(answer)
        return result

    def stop(self) -> None:
        """Answer what still waits: devices are gone, and nothing else would."""
        for answer in list(self._waiting):
            answer.callback(not_running("the server has stopped; what was under way is settled when it starts again"))


def not_running(enote: str) -> Response:
    """Return the response of a service that takes no commands."""
    return {"ecode": int(Ecode.STOPPING), "enote": enote}
