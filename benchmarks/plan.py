"""What is measured, and in which order."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from attrs import frozen

from benchmarks.bare import Bare
from benchmarks.full import Configuring, Devconf
from benchmarks.growth import Growth, growth
from benchmarks.load import Measured
from benchmarks.sockets import Sockets


@frozen
class Size:
    """How much is done.

    :ivar rounds: of commands, :ivar seconds: of each kind of command in a round.
    :ivar operators: connections that give commands, and :ivar window: how many each has in flight.
    :ivar fan: devices of the task that has many.
    :ivar growths: rounds of connecting devices; memory is compared with ``few`` and with ``many`` of them.
    :ivar settle: seconds until memory is looked at.
    """

    rounds: int
    seconds: float
    operators: int
    window: int
    fan: int
    growths: int
    few: int
    many: int
    settle: float

    @property
    def devices(self) -> int:
        """Devices that commands go to: one for each command in flight, so that no task's lock is waited for."""
        return self.operators * self.window


FULL = Size(rounds=5, seconds=1.0, operators=8, window=16, fan=100, growths=2, few=500, many=2500, settle=1.5)
QUICK = Size(rounds=1, seconds=0.2, operators=2, window=4, fan=8, growths=1, few=25, many=150, settle=0.3)

RELAY, RELAY_ONE = "bare relay", "bare relay, one at a time"
CALL, CALL_ONE = "devices/call", "devices/call, one at a time"
CONFIG, CONFIG_ONE = "pic_task_config", "pic_task_config, one at a time"
CONFIG_FAN = "pic_task_config, many devices"
IDLE_RELAY, IDLE_DEVICE = "bare relay, idle connection", "devconf, idle device"

#: What is compared, by which value, and with whom.
RATIOS = {
    CALL: ("cpu_us", RELAY),
    CONFIG: ("cpu_us", RELAY),
    CALL_ONE: ("cpu_us", RELAY_ONE),
    CONFIG_ONE: ("cpu_us", RELAY_ONE),
    CONFIG_FAN: ("cpu_us", RELAY),
    IDLE_DEVICE: ("rss_kb", IDLE_RELAY),
}


#: What was measured in one round, by its name.
Round = Mapping[str, Measured | Growth]


def say(text: str) -> None:
    """Tell who waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def measure(folder: Path, size: Size) -> tuple[list[Round], list[Round]]:
    """Measure all there is.

    :param folder: for databases and logs.
    :returns: the rounds of commands, and those of idle devices.
    :raises Failed: a figure would be worthless.
    """
    sockets = Sockets()
    with ExitStack() as stack:
        say(f"enrolling {size.many} devices")
        devconf = Devconf(folder / "devconf", sockets)
        stack.callback(devconf.close)
        devconf.connect_operators(size.operators)
        devconf.enrol(size.many)
        return measure_commands(folder, devconf, size), measure_idle(folder, devconf, size)


def measure_commands(folder: Path, devconf: Devconf, size: Size) -> list[Round]:
    """Measure commands, of both servers in turn in each round."""
    bare = Bare(folder, devconf.sockets)
    try:
        bare.connect_operators(size.operators)
        for side in (bare, devconf):
            side.connect_devices(size.devices)
        relaying, calling = bare.relaying(), devconf.calling()
        configuring = Configuring(devconf.post_tasks([[dev_unid] for dev_unid in devconf.dev_unids]), 1)
        fanning = Configuring(devconf.post_tasks([devconf.dev_unids[: size.fan]]), size.fan)
        full = {"operators": size.operators, "window": size.window}
        one = {"operators": 1, "window": 1}
        rounds: list[Round] = []
        for number in range(size.rounds):
            say(f"commands, round {number + 1} of {size.rounds}")
            rounds.append(
                {
                    RELAY: bare.measure(relaying, **full, seconds=size.seconds),
                    CALL: devconf.measure(calling, **full, seconds=size.seconds),
                    CONFIG: devconf.measure(configuring, **full, seconds=size.seconds),
                    RELAY_ONE: bare.measure(relaying, **one, seconds=size.seconds),
                    CALL_ONE: devconf.measure(calling, **one, seconds=size.seconds),
                    CONFIG_ONE: devconf.measure(configuring, **one, seconds=size.seconds),
                    CONFIG_FAN: devconf.measure(fanning, **one, seconds=size.seconds),
                }
            )
        return rounds
    finally:
        bare.stop()


def measure_idle(folder: Path, devconf: Devconf, size: Size) -> list[Round]:
    """Measure what connected devices take; each time of servers that have just been started."""
    rounds: list[Round] = []
    for number in range(size.growths):
        say(f"idle devices, round {number + 1} of {size.growths}")
        bare = Bare(folder, devconf.sockets)
        try:
            relay = growth(bare, size.few, size.many, size.settle)
        finally:
            bare.stop()
        devconf.stop()
        devconf.start()
        idle = growth(devconf, size.few, size.many, size.settle)
        # Now that it has been looked at: they are really there.
        devconf.connect_operators(1)
        devconf.call_each()
        rounds.append({IDLE_RELAY: relay, IDLE_DEVICE: idle})
    return rounds
