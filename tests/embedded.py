"""What the tests of embedding run in processes of their own: a host with some reactor, and somebody who connects to it.

python -m tests.embedded host REACTOR FOLDER   serves until FOLDER/stop exists, and says what has changed by then
python -m tests.embedded peer URL KEY          is an operator and a device, and says what was answered
"""

from __future__ import annotations

import asyncio
import gc
import json
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

USER, PASSWORD = "alice", "correct horse"

#: What zope.interface notes on a class when it is looked at for the first time.
ZOPE = ("__implemented__", "__provides__")


class Box:
    """An application of a device that takes all."""

    def add(self, order: Any) -> None:
        pass

    modify = delete = add

    def call(self, command: str, params: Any) -> Any:
        return {"asked": command, **params}


# -- reactors


def choose(name: str) -> tuple[Any, Callable[[], None]]:
    """Choose the reactor of the process, as a host does; it, and what runs it."""
    if name == "asyncio":
        from twisted.internet import asyncioreactor

        loop = asyncio.new_event_loop()
        asyncioreactor.install(loop)
        from twisted.internet import reactor as chosen

        reactor: Any = chosen

        def run() -> None:
            # The host owns the loop, and runs it itself.
            reactor.startRunning(installSignalHandlers=False)
            loop.run_forever()

        reactor.addSystemEventTrigger("after", "shutdown", loop.stop)
        return reactor, run
    if name == "second":
        from twisted.internet.selectreactor import SelectReactor

        reactor = SelectReactor()
        return reactor, reactor.run
    if name != "default":
        from importlib import import_module

        import_module(f"twisted.internet.{name}reactor").install()
    from twisted.internet import reactor as installed

    reactor = installed
    return reactor, reactor.run


# -- what a guest has to leave alone


def state(reactor: Any) -> dict[str, Any]:
    """All of the process that is the host's."""
    import txaio
    from autobahn.twisted import websocket as ours
    from autobahn.websocket import protocol
    from twisted.internet import defer
    from twisted.logger import globalLogPublisher

    kinds = (
        ours.WebSocketServerProtocol,
        ours.WebSocketServerFactory,
        ours.WebSocketClientProtocol,
        ours.WebSocketClientFactory,
        ours.WebSocketAdapterProtocol,
        ours.WebSocketAdapterFactory,
        protocol.WebSocketProtocol,
        protocol.WebSocketFactory,
        protocol.WebSocketServerProtocol,
        protocol.WebSocketServerFactory,
    )
    umask = os.umask(0o22)
    os.umask(umask)
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    loggers: dict[Any, Any] = {None: logging.getLogger(), **logging.Logger.manager.loggerDict}
    chosen: Any = txaio
    return {
        "reactor": sys.modules.get("twisted.internet.reactor"),
        "reactor's time": reactor.seconds,
        "observers": list(globalLogPublisher._observers),
        "loggers": {
            name: (list(logger.handlers), logger.level, logger.disabled, logger.propagate)
            for name, logger in loggers.items()
            if isinstance(logger, logging.Logger)
            and (name is None or logger.handlers or logger.level or logger.disabled or not logger.propagate)
        },
        "logging": (logging.getLoggerClass(), logging.root.manager.disable, logging.lastResort),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "wakeup": wakeup,
        "txaio": (chosen.using_twisted, chosen.using_asyncio, chosen.get_global_log_level(), chosen.config.loop),
        "autobahn": {
            kind.__name__: {name: value for name, value in vars(kind).items() if name not in ZOPE} for kind in kinds
        },
        "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook, sys.gettrace()),
        "imports": (list(sys.path), list(sys.meta_path)),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "warnings": (list(warnings.filters), warnings.showwarning, logging._warnings_showwarning),  # type: ignore[attr-defined]
        "locale": locale.setlocale(locale.LC_ALL),
        "process": (os.getcwd(), umask, dict(os.environ), os.nice(0)),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "python": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
        "random": random.getstate(),
        "sockets": socket.getdefaulttimeout(),
        "debugging": defer.getDebugging(),
    }


def open_files() -> list[str]:
    return sorted(os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number))


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def activity(reactor: Any) -> dict[str, Any]:
    """All that runs, or is open."""
    return {
        "delayed calls": set(reactor.getDelayedCalls()),
        "readers": set(reactor.getReaders()),
        "writers": set(reactor.getWriters()),
        "threads": set(threading.enumerate()),
        "thread pool": reactor.threadpool if hasattr(reactor, "threadpool") else None,
        "files": open_files(),
    }


def changes(before: Any, after: Any, name: str = "") -> dict[str, str]:
    """What is different, by its path."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = [(key, before.get(key, "nothing"), after.get(key, "nothing")) for key in {**before, **after}]
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        pairs = [(place, *pair) for place, pair in enumerate(zip(before, after, strict=True))]
    else:
        return {} if before == after else {name: f"{before} -> {after}"}
    found: dict[str, str] = {}
    for key, one, other in pairs:
        found |= changes(one, other, f"{name}.{key}".strip("."))
    return found


# -- a host


async def turn(reactor: Any, seconds: float = 0.0) -> None:
    from twisted.internet.task import deferLater

    await deferLater(reactor, seconds)


async def serve(reactor: Any, folder: Path) -> dict[str, str]:
    """Hold a service until ``folder/stop`` exists; what is different then."""
    import txaio
    from autobahn.twisted import websocket  # noqa: F401  (a host that uses Autobahn itself)
    from twisted.internet.protocol import Factory

    txaio.use_twisted()
    # Twisted keeps a file in reserve, from when the process first listens.
    await reactor.listenTCP(0, Factory(), interface="127.0.0.1").stopListening()
    await turn(reactor)
    before, running = state(reactor), activity(reactor)
    from twisted.application.service import MultiService

    from devconf.config import Config
    from devconf.service import DevconfService

    parent = MultiService()
    config = Config(listen=("tcp:0:interface=127.0.0.1",), database=f"sqlite:///{folder / 'devconf.sqlite'}")
    service = DevconfService(reactor, config)
    service.setServiceParent(parent)
    parent.privilegedStartService()
    parent.startService()
    await service.when_ready()
    account = {"user_name": USER, "role": "admin", "password": PASSWORD}
    assert (await service.request("post users", account))["ecode"] == 0
    key = (await service.request("post devices", {"dev_refid": "box"}))["dev_key"]
    port = service._ports[0].getHost().port  # type: ignore[attr-defined]
    print(json.dumps({"url": f"http://127.0.0.1:{port}", "key": key}), flush=True)
    while not (folder / "stop").exists():
        await turn(reactor, 0.05)
    stopped: Any = parent.stopService()
    await stopped
    for thread in threading.enumerate():
        if thread not in running["threads"]:
            thread.join(10)
    for _ in range(2):  # what is closing takes a turn
        await turn(reactor)
    after = state(reactor)
    # Libraries that were loaded meanwhile have loggers of their own.
    after["loggers"] = {name: how for name, how in after["loggers"].items() if name in before["loggers"]}
    found = changes(before, after) | changes(running, activity(reactor))
    if before["reactor"] is None and sys.modules.get("twisted.internet.reactor") is not None:
        # The host has its reactor for itself. Klein, and Twisted, install the default one besides, which stays idle.
        found.pop("reactor")
        found.pop("files", None)
        other = sys.modules["twisted.internet.reactor"]
        idle = activity(other)
        assert other is not reactor
        assert (idle["delayed calls"], idle["writers"], idle["thread pool"]) == (set(), set(), None), idle
        assert [type(reader).__name__ for reader in idle["readers"]] == ["_UnixWaker"], idle
    return found


def run(reactor: Any, start: Callable[[], None], main: Any) -> None:
    """Run ``main``, print what it returns, and end; with status 1 if it fails."""
    from twisted.internet.defer import Deferred

    status = []

    def done(result: Any) -> None:
        from twisted.python.failure import Failure

        if isinstance(result, Failure):
            result.printTraceback()
        else:
            print(json.dumps(result), flush=True)
            status.append(0)
        reactor.stop()

    def begin() -> None:
        Deferred.fromCoroutine(main).addTimeout(60, reactor).addBoth(done)

    reactor.callWhenRunning(begin)
    start()
    sys.exit(status[0] if status else 1)


# -- who connects


async def connect(reactor: Any, url: str, key: str) -> dict[str, Any]:
    """Be an operator and a device; what was answered."""
    from devconf.client import connect
    from devconf.device import Device

    device = Device(reactor, url, "box", key, Box())
    device.start()
    client = await connect(reactor, url, USER, PASSWORD)
    online: list[Any] = []
    while not online:
        await turn(reactor, 0.05)
        online = (await client.request("get devices", {"online": True}))["devices"]
    task = {"name": "gate", "task_type": "pic", "dev_unids": [online[0]["dev_unid"]]}
    made = await client.request("post tasks", task)
    conf = {"name": "disks", "file_ext": "xml", "file_b64": "PGRheXM+NzwvZGF5cz4="}
    stored = await client.request("post store_confs", conf)
    await client.close()
    await device.stop()
    return {"states": [item["state"] for item in made["devices"]], "rev": stored["rev"]}


def main() -> None:
    what, *arguments = sys.argv[1:]
    if what == "host":
        reactor, start = choose(arguments[0])
        run(reactor, start, serve(reactor, Path(arguments[1])))
    else:
        reactor, start = choose("default")
        run(reactor, start, connect(reactor, *arguments))


if __name__ == "__main__":
    main()
