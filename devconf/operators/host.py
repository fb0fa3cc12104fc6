"""Commands in the name of the program that holds the service, without a connection (``docs/embedding.md``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from devconf import wire
from devconf.commands.asker import Asker
from devconf.commands.registry import Registry
from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity, Role

#: Who asks, if the host does not say.
HOST = Identity("host", "host", Role.ADMIN)

Response = dict[str, Any]
Progress = Callable[[int, int], None]


_log = Logger()


def ask(
    registry: Registry,
    command: str,
    params: Any,
    identity: Identity,
    progress: Progress | None,
    idempotency_key: str | None,
) -> Deferred[Response]:
    """See :meth:`devconf.service.DevconfService.request`."""

    def told(done: int, total: int) -> None:
        if progress is not None:
            with _log.failuresHandled("the host's progress function failed"):
                progress(done, total)

    method, space, resource = command.partition(" ")
    envelope = {} if idempotency_key is None else {"idempotency_key": idempotency_key}
    try:
        message = wire.encode({"command": f"{method}{space}{wire.PREFIX}{resource}", "params": params, **envelope})
        request = wire.request_of(wire.decode_object(message))
    except (UnicodeEncodeError, RecursionError) as error:
        return succeed({"ecode": int(Ecode.NOT_AN_OBJECT), "enote": f"the message cannot be JSON in UTF-8: {error}"})
    except CommandFailed as failure:
        return succeed({"ecode": int(failure.ecode), "enote": failure.enote})
    # As it would be on the wire: nothing in it is ours, and the host may change it.
    response = registry.handle(request, identity, told, Asker())
    return response.addCallback(lambda each: dict(json.loads(wire.encode(each))))
