"""``python -m benchmarks.storm``: large contents to many devices, and many devices that come back at once.

See ``docs/benchmarks.md``. Unlike ``make bench`` it compares with nothing: what it tells is time and memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict, define, field, frozen

from benchmarks.__main__ import circumstances, raise_file_limit, stopped_by
from benchmarks.fleet import Fleet
from benchmarks.full import Devconf
from benchmarks.plan import say
from benchmarks.process import Failed
from benchmarks.sockets import Connection, Sockets

#: Devices of one task.
TOGETHER = 500
#: Devices that stay, and are called while the others come back.
STAYING = 8
#: Seconds: the upper limit of anything that should happen, for each device of the fleet and besides.
EACH, BESIDES = 0.2, 120.0


@frozen
class Fan:
    """A large content that goes to many devices.

    :ivar seconds: from the command to its answer.
    :ivar rss_before_mb: what the server held before, :ivar rss_peak_mb: the most it held meanwhile.
    :ivar cpu_s: CPU time of the server.
    :ivar others: calls to a device meanwhile, :ivar others_median_ms: their answer, :ivar others_max_ms: the slowest.
    """

    devices: int
    deaf: int
    size: int
    delivered: int
    seconds: float
    received_mb: float
    rss_before_mb: float
    rss_peak_mb: float
    cpu_s: float
    others: int
    others_median_ms: float
    others_max_ms: float


@frozen
class Storm:
    """Devices that are lost, and come back at once.

    :ivar behind: of how many something has changed while they were away.
    :ivar connected_s: until all are connected, :ivar caught_up_s: until nothing is pending.
    """

    devices: int
    behind: int
    connected_s: float
    caught_up_s: float
    failed_attempts: int
    rss_before_mb: float
    rss_peak_mb: float
    cpu_s: float
    others: int
    others_median_ms: float
    others_max_ms: float


@define
class Asking:
    """One operator's connection, which asks one thing after the other."""

    connection: Connection
    _number: int = field(default=0, init=False)
    answer: dict[str, Any] | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.connection.received = self._received

    def ask(self, command: str, params: dict[str, Any]) -> None:
        """Send a request; ``answer`` is None until it is there."""
        self._number += 1
        self.answer = None
        method, _, resource = command.partition(" ")
        request = {"command": f"{method} /wsapi/v1/devconf_fx/{resource}", "req_id": str(self._number)}
        self.connection.send(json.dumps({**request, "params": params}).encode())

    def _received(self, payload: bytes) -> None:
        answer: dict[str, Any] = json.loads(payload)
        if answer["req_id"] == str(self._number):
            self.answer = answer


@define
class Calling:
    """Calls to devices that stay, one after the other, and how long each took."""

    _asking: Asking
    _dev_unids: list[str]
    latencies: list[float] = field(factory=list, init=False)
    _since: float = field(default=0.0, init=False)

    def go_on(self) -> None:
        """Note the answer, if it is there, and call again."""
        if self._since:
            if self._asking.answer is None:
                return
            if self._asking.answer["ecode"]:
                raise Failed(f"a call was answered {self._asking.answer}")
            self.latencies.append(time.perf_counter() - self._since)
        self._since = time.perf_counter()
        dev_unid = self._dev_unids[len(self.latencies) % len(self._dev_unids)]
        self._asking.ask("post devices/call", {"dev_unid": dev_unid, "command": "get /wsapi/v1/ops", "timeout": 60})

    def slowest(self) -> float:
        """Return the longest time of all, the call that is under way included, in ms."""
        return max([time.perf_counter() - self._since, *self.latencies]) * 1e3


class Field:
    """A server, its devices, and two operators: one that commands, one that calls devices meanwhile."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.sockets = Sockets()
        self._stack = ExitStack()
        self.patience = BESIDES + EACH * devices
        self.devconf = devconf = Devconf(folder / "devconf", self.sockets)
        self._stack.callback(devconf.close)
        try:
            say(f"enrolling {devices} devices")
            devconf.connect_operators(2)
            devconf.enrol(devices + STAYING)
            enrolled = devconf.enrolled
            self.fleet = Fleet(devconf.port, enrolled[STAYING:])
            self._stack.callback(self.fleet.close)
            self.staying = Fleet(devconf.port, enrolled[:STAYING])
            self._stack.callback(self.staying.close)
            self.commanding = Asking(devconf.operators[0])
            self.staying.come()
            self.until(lambda: self.staying.connected == STAYING, "connecting")
            self.calling = Calling(Asking(devconf.operators[1]), [each.dev_unid for each in enrolled[:STAYING]])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop everything."""
        self._stack.close()

    def meanwhile(self) -> None:
        """Let all that is not the fleet go on."""
        self.staying.pump(0)
        self.sockets.pump(0)

    def until(self, condition: Callable[[], bool], what: str, meanwhile: Callable[[], None] = lambda: None) -> float:
        """See :meth:`Fleet.until`; all goes on meanwhile."""

        def both() -> None:
            self.meanwhile()
            meanwhile()

        return self.fleet.until(condition, self.patience, what, both)

    def do(self, command: str, params: dict[str, Any], meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Run a command, and return its answer."""
        self.commanding.ask(command, params)
        self.until(lambda: self.commanding.answer is not None, command, meanwhile)
        assert self.commanding.answer is not None
        return self.commanding.answer

    def done(self, command: str, params: dict[str, Any]) -> dict[str, Any]:
        """As :meth:`do`; its answer is a success."""
        answer = self.do(command, params)
        if answer["ecode"]:
            raise Failed(f"{command} was answered {answer['ecode']} {answer['enote']}")
        return answer

    def post_tasks(self, store_conf_unid: str) -> list[str]:
        """Give every device of the fleet a task with that storage configuration; returns the tasks."""
        dev_unids = [box.enrolled.dev_unid for box in self.fleet.boxes]
        task = {"name": "plates", "task_type": "pic", "algo_comb": [{"algo_id": "plates"}]}
        return [
            self.done(
                "post tasks",
                {**task, "store_conf_unid": store_conf_unid, "dev_unids": dev_unids[start : start + TOGETHER]},
            )["task_id"]
            for start in range(0, len(dev_unids), TOGETHER)
        ]

    def caught_up(self) -> bool:
        """Tell whether nothing is pending."""
        return not self.done("get devices", {"state": "pending", "limit": 1})["devices"]


def store_conf(size: int) -> dict[str, Any]:
    """Return a storage configuration of so many bytes."""
    return {"name": "disks", "file_ext": "bin", "file_b64": b64encode(bytes(range(256)) * (size // 256)).decode()}


def fan(folder: Path, devices: int, deaf: int, size: int) -> Fan:
    """Replace the storage configuration of all devices with one of ``size`` bytes.

    :param deaf: devices among them that read nothing.
    :raises Failed: something went wrong, but for the deaf.
    """
    field = Field(folder, devices)
    try:
        unid = field.done("post store_confs", store_conf(256))["unid"]
        field.post_tasks(unid)
        say(f"connecting {devices} devices")
        field.fleet.come()
        field.until(lambda: field.fleet.connected == devices, "connecting")
        field.until(lambda: field.fleet.answered >= devices, "what they should have")
        field.sockets.rest(1.0)
        field.fleet.deafen(deaf)
        server = field.devconf.server
        before, used, received = server.memory().rss, server.cpu(), field.fleet.received
        server.forget_peak()
        say(f"{size} bytes to each")
        start = time.monotonic()
        answer = field.do("put store_confs", {**store_conf(size), "unid": unid}, field.calling.go_on)
        seconds = time.monotonic() - start
        peak, used = server.peak(), server.cpu() - used
        slowest = field.calling.slowest()
        if not deaf and answer["ecode"]:
            raise Failed(f"put store_confs was answered {answer['ecode']} {answer['enote']}")
        server.check()
        return Fan(
            devices,
            deaf,
            size,
            answer["delivered"],
            round(seconds, 1),
            round((field.fleet.received - received) / 1e6, 1),
            round(before / 1024, 1),
            round(peak / 1024, 1),
            round(used, 1),
            len(field.calling.latencies),
            round(median(field.calling.latencies) * 1e3, 1),
            round(slowest, 1),
        )
    finally:
        field.close()


def storm(folder: Path, devices: int) -> Storm:
    """Lose all devices at once, change what half of them should have, and let them all come back at once."""
    field = Field(folder, devices)
    try:
        unid = field.done("post store_confs", store_conf(4096))["unid"]
        tasks = field.post_tasks(unid)
        say(f"connecting {devices} devices")
        field.fleet.come()
        field.until(lambda: field.fleet.connected == devices, "connecting")
        field.until(lambda: field.fleet.answered >= devices, "what they should have")
        field.until(field.caught_up, "what they should have")
        field.fleet.vanish()
        changed = tasks[::2]
        for task_id in changed:
            answer = field.do("put tasks", {"task_id": task_id, "name": "plates by night"})
            if answer["ecode"]:
                raise Failed(f"put tasks was answered {answer['ecode']} {answer['enote']}")
        behind = sum(len(field.fleet.boxes[at : at + TOGETHER]) for at in range(0, devices, 2 * TOGETHER))
        server = field.devconf.server
        before, used, failed, answered = (
            server.memory().rss,
            server.cpu(),
            field.fleet.failures,
            field.fleet.answered,
        )
        server.forget_peak()
        say("all come back")
        start = time.monotonic()
        field.fleet.come()
        field.until(lambda: field.fleet.connected == devices, "coming back", field.calling.go_on)
        connected = time.monotonic() - start
        field.until(lambda: field.fleet.answered >= answered + behind, "catching up", field.calling.go_on)
        field.until(field.caught_up, "catching up", field.calling.go_on)
        caught_up = time.monotonic() - start
        peak, used = server.peak(), server.cpu() - used
        slowest = field.calling.slowest()
        server.check()
        return Storm(
            devices,
            behind,
            round(connected, 1),
            round(caught_up, 1),
            field.fleet.failures - failed,
            round(before / 1024, 1),
            round(peak / 1024, 1),
            round(used, 1),
            len(field.calling.latencies),
            round(median(field.calling.latencies) * 1e3, 1),
            round(slowest, 1),
        )
    finally:
        field.close()


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["fan", "storm"], help="a large content to all, or all come back at once")
    parser.add_argument("--devices", type=int, default=5000, metavar="N", help="%(default)s")
    parser.add_argument("--deaf", type=int, default=0, metavar="N", help="of fan: devices that do not read")
    parser.add_argument("--size", type=int, default=1 << 20, metavar="BYTES", help="of fan: the content (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="for the database meanwhile (%(default)s)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, stopped_by)
    try:
        raise_file_limit(args.devices + 500)
        args.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="storm-", dir=args.folder)).resolve()
        around = circumstances(folder)
        result = fan(folder, args.devices, args.deaf, args.size) if args.what == "fan" else storm(folder, args.devices)
        shutil.rmtree(folder)
    except (Failed, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps({args.what: asdict(result), "circumstances": around}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
