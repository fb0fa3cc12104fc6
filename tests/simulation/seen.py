"""What the runs of a test have to have seen, so that it says something that none of them failed."""

from __future__ import annotations

from collections import Counter

from tests.simulation.asking import KINDS
from tests.simulation.moods import MOODS

EVENTS_AT_LEAST = 200

#: What must have happened in some of the runs of ``make test``.
REQUIRED = (
    # the network
    "network: delay",
    "network: split",
    "network: merge",
    "network: stall",
    "network: cut",
    "network: cut, noticed at different times",
    "network: half open, the server believes it",
    "network: half open, the peer believes it",
    "server: told to pause",
    "server: told to resume",
    "server: stops reading",
    # devices
    *(f"device: {mood}" for mood in MOODS),
    "device: silent to a call",
    "device: has answered twice",
    "device: has answered late",
    "device: on the old connection",
    "server: hears from a replaced connection",
    "device: connected twice at once",
    "device: forgets and registers",
    "device: forgets and says nothing",
    "device: other hardware",
    "device: away",
    "device: does not read",
    "device: never sends a req_id back",
    "device: dies",
    "device: dies of a message again",
    "server: lets an order rest",
    "server: sends what has rested once more",
    "device: two boxes with one identity",
    "server: keeps the second of two boxes out",
    # clients
    "client: several in flight",
    "client: away in the middle",
    "client: does not read",
    "client: floods",
    "client: garbage",
    "client: wrong",
    "client: asks again what it lost",
    "client: asks again what is under way",
    "client: asks again what is over",
    "client: asks something else with a key that is over",
    "client: asks something else with a key that is under way",
    "server: has seen the key with something else",
    "asked: put_conf, with what is stored",
    "client: waits for devices to connect",
    *(f"asked: {kind}" for kind in KINDS),
    # the server and its disk
    "server: kill",
    "server: power cut",
    "server: down between two events",
    "server: down with requests in flight",
    "server: down with a command planned and not settled",
    "server: started after a power cut, with something told",
    "server: aborts a connection",
    "server: stop",
    "power cut: commit under way is lost",
    "power cut: commit under way is kept",
    "power cut: commit under way is torn",
    "power cut: commit under way is half moved",
    "store: slow",
    "store: commit fails",
    "store: statement fails",
    "clock: an hour forward",
    "clock: an hour back",
    # in which sense each invariant was put to the test
    "precondition: I1",
    "precondition: I2",
    "precondition: I3",
    "precondition: I4",
    "precondition: I5",
    "precondition: I6",
    "precondition: I7",
    "precondition: I7, refused",
    "precondition: I8",
    "precondition: I9",
)


def missing(seen: Counter[str]) -> list[str]:
    """Return what has not happened and should have."""
    return [what for what in REQUIRED if not seen[what]]
