"""``twistd devconf`` and ``twist devconf``: options, and wiring in a process of our own."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.application.service import IService
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from devconf import config
from devconf.errors import StartupError, StoreFailed
from devconf.service import DevconfService

_log = Logger()


class Options(usage.Options):
    """The options of the sub-command."""

    optParameters = [
        ["config", "c", None, "The configuration, a TOML file (see etc/devconf.toml). Without: built-in defaults."],
    ]
    longdesc = (
        "Runs the configuration service. Without a configuration it listens on 127.0.0.1:8080 and keeps its "
        "database in ./devconf.sqlite."
    )


def makeService(options: Options, reactor: Any = None) -> IService:
    """Return the service that ``options`` ask for.

    :raises SystemExit: the configuration is wrong; the text says where.
    """
    if reactor is None:
        from twisted.internet import reactor
    try:
        settings = config.load(options["config"]) if options["config"] else config.Config()
    except StartupError as error:
        raise SystemExit(str(error)) from None
    # Timers must not follow the wall clock, which may be set back and forth.
    reactor.seconds = time.monotonic
    reactor.stop = _unless_stopping(reactor.stop)
    service = DevconfService(reactor, settings, now=time.time)
    service.when_failed().addErrback(_give_up, reactor)
    return service


def _unless_stopping(stop: Callable[[], None]) -> Callable[[], None]:
    """Return a reactor's ``stop`` that does nothing where it stops already: signals come twice, and failures late."""

    def stop_once() -> None:
        with suppress(ReactorNotRunning):
            stop()

    return stop_once


def _give_up(failure: Failure, reactor: Any) -> None:
    if failure.check(StartupError):
        _log.critical("{error}", error=str(failure.value))
    elif failure.check(StoreFailed):
        _log.critical("devconf cannot go on: {error}", error=str(failure.value))
    else:
        _log.failure("devconf cannot go on", failure)
    # Stopping the reactor alone would end with status 0.
    atexit.register(_exit)
    reactor.callWhenRunning(reactor.stop)


def _exit() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
