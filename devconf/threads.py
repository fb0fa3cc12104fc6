"""Threads for what takes long. What must not wait for something else has threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from devconf.errors import CommandFailed, Ecode


@define
class Threads:
    """Runs functions in threads for one purpose, which are started when first needed.

    :ivar _name: what they are called.
    :ivar _at_most: how many there are at most; with one, what was asked for first is done first.
    """

    _reactor: IReactorFromThreads
    _name: str
    _at_most: int
    _pool: ThreadPool | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run ``function(*args)`` when a thread is free.

        :returns: fires, or fails, as it ends; fails with ``CommandFailed`` (``STOPPING``) after :meth:`stop`. To cancel
            it ends the waiting, and not the work.
        """
        if self._stopped:
            return fail(CommandFailed(Ecode.STOPPING, "the server is stopping; try again later"))
        if self._pool is None:
            self._pool = ThreadPool(0, self._at_most, self._name)
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, function, *args)

    def stop(self) -> Deferred[None]:
        """End the threads after what has been asked of them.

        :returns: fires when they have ended; the reactor is not held up meanwhile.
        """
        self._stopped = True
        pool, self._pool = self._pool, None
        if pool is None:
            return succeed(None)
        stopped: Deferred[None] = Deferred()

        def join() -> None:
            pool.stop()
            self._reactor.callFromThread(stopped.callback, None)

        threading.Thread(target=join, daemon=True).start()
        return stopped
