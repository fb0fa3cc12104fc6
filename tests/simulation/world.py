"""The world of one run: the server on its machine, devices, clients, the network and time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

from devconf.websocket import Peer
from tests.simulation.asking import Asking, Draw
from tests.simulation.clients import Client
from tests.simulation.counting import Counting
from tests.simulation.devices import Box
from tests.simulation.host import LIMITS, Host
from tests.simulation.ledger import Ledger
from tests.simulation.log import Errors
from tests.simulation.model.stored import Command, Stored
from tests.simulation.network import Connection
from tests.simulation.pipe import Quality
from tests.simulation.records import Request
from tests.simulation.steps import Step
from tests.simulation.storage import ON_PURPOSE, Ack, Image, Settling
from tests.simulation.timeline import Timeline, name_of
from tests.simulation.twins import Twin

BOXES = 4
#: Seconds between looks of peers at their connections.
LOOK_EVERY = 20.0
#: Seconds after which a device that was disabled is connected no longer.
GONE_WITHIN = 15.0

#: Looks at the world when something has happened; returns (invariant, what is wrong).
Watcher = Callable[..., Iterable[tuple[str, str]]]


class World:
    """Everything there is.

    :ivar seen: how often each kind of thing has happened; :ivar steps: those of the history that were taken.
    :ivar found: what checkers have complained of while it ran.
    :ivar first: what was stored when it began.
    :ivar watch_answer: and :ivar watch_start: called for each answer, and each time the server has started.
    :ivar ended: commands that were seen to have ended, as they had.
    :ivar calm: faults have stopped; :ivar mended: no message kills a device any longer, and the hour of rest is over.
    :ivar lists: what clients were told at the end, by resource.
    :ivar restless: what did not come to rest; :ivar over_bounds: what was more than it may be, while it ran.
    """

    def __init__(self, seed: int, folder: Path, image: Image | None) -> None:
        self.seen: Counter[str] = Counter()
        self.found: list[tuple[str, str]] = []
        self.ended: dict[str, Command] = {}
        self.lists: dict[str, list[Any]] = {}
        self.restless: list[str] = []
        self.over_bounds: list[str] = []
        self.left_at_stop: list[list[str]] = []
        self.watch_answer: Watcher = lambda *_: ()
        self.watch_start: Watcher = lambda *_: ()
        self.watch_disabled: Callable[..., Iterable[str]] = lambda *_: ()
        self.said = Counting(self).said
        self.seed = seed
        self.steps: list[Step] = []
        self.calm = self.mended = False
        self.random = Random(f"world {seed}")
        self.timeline = Timeline()
        self.timeline.before_each = self._before_each
        self.log = Errors()
        self.host = Host(self.timeline, folder, seed, self.seen)
        if image is not None:
            image.write(self.host.path)
        self.ledger = Ledger()
        self.first: Stored
        self.boxes = [Box(self, f"box-{n}", Random(f"box {seed} {n}")) for n in range(self.random.randint(1, BOXES))]
        self.clients = [Client(self, f"{n}", Random(f"client {seed} {n}")) for n in range(self.random.randint(1, 3))]
        self.auditor = Client(self, "auditor", Random(f"auditor {seed}"))
        self.twins: list[Twin] = []
        self._connections: list[Connection] = []
        self._quality = Random(f"network {seed}")
        self._crash: tuple[Callable[[], Any], bool, float] | None = None
        self._slow: tuple[list[float], float] = ([0.0], 0.0)
        self._threads: list[Any] = []
        self._exchanges: dict[int, int] = {}
        self._stopping = False
        self._told_before_power_cut = False

    # -- what its parts need

    @property
    def tick(self) -> int:
        """How many events there have been."""
        return self.timeline.ticks

    @property
    def now(self) -> float:
        """Seconds."""
        return self.timeline.now

    @property
    def events(self) -> int:
        """How many things have happened that count: not timers, for instance."""
        return sum(times for what, times in self.seen.items() if what.startswith("events: "))

    def saw(self, what: str) -> None:
        """Count that something has happened."""
        self.seen[what] += 1

    def after(self, seconds: float, function: Callable[..., Any], *args: Any) -> None:
        """Let something happen later."""
        self.timeline.after(seconds, function, *args)

    def dial(self, end: Any, host: int = 1) -> Connection:
        """Connect ``end`` to the server, which takes it, or does not, when it arrives."""
        number = len(self._connections)
        quality = Quality() if self.calm else Quality.draw(self._quality)
        connection = Connection(number, end, self.timeline, Random(self._quality.random()), self.seen, quality)
        connection.host = host
        self._connections.append(connection)
        self.saw("events: connection")
        self.after(quality.latency, self._arrives, connection)
        return connection

    def _arrives(self, connection: Connection) -> None:
        if connection.peer_open:
            self.host.accept(connection)

    def register(self, box: Box, answer: Callable[[str | None], None]) -> None:
        """Let the server have a registration of a device."""
        life = box.life

        def registered(dev_unid: str | None) -> None:
            if dev_unid is not None and box.life == life:
                # By now the server knows what it had; whatever it does later is on its connections.
                box.trusted = True
            answer(dev_unid)

        self.host.register(box.dev_refid, box.has(), registered)

    def answered(self, request: Request) -> None:
        """A request has got its answer."""
        if request.command == "put devices" and request.ok and request.params.get("enabled") is False:
            self.after(GONE_WITHIN, self._look_whether_gone, request)
        if request.command == "put devices" and request.ok and "dev_refid" in request.params:
            self._exchanged(request)
        self.found += self.watch_answer(self, request)

    # -- the server's life

    def start(self) -> None:
        """Start the server."""
        self.host.slow = self._latency
        self.host.start()
        self._threads.append(self.host.thread)
        self.host.service.when_ready().addCallback(self._started).addErrback(self._not_started)

    def _started(self, _result: None) -> None:
        self.ledger.restarted(self.tick)
        stored = Stored.read(self.host.thread.query)
        if self.host.lives == 1:
            self.first = stored
            for box in self.boxes:
                box.dev_unid = next(
                    unid for unid, device in stored.devices.items() if device.dev_refid == box.dev_refid
                )
        self.host.told.clear()
        self.host.thread.completed.clear()
        self.host.settled_before, self.host.acks_before = len(self.host.thread.settled), len(self.host.thread.acks)
        self.saw("server: started")
        if self._told_before_power_cut:
            self._told_before_power_cut = False
            self.saw("server: started after a power cut, with something told")
        self.found += self.watch_start(self, stored)

    def _not_started(self, failure: Any) -> None:
        # One that is stopped while it starts has not failed; one whose disk is full is started again.
        if self._stopping:
            return
        if any(words in str(failure.value) for words in ON_PURPOSE):
            self.saw("server: could not start")
            self.stop(back_after=5)
        else:
            self.found.append(("I8", f"the server did not start: {failure.getTraceback()}"))

    def crash(self, *, power: bool, back_after: float) -> None:
        """Take the server down."""
        if not self.host.running:
            return
        self.saw("server: power cut" if power else "server: kill")
        self._note_what_is_lost(power)
        self._stopping = False
        self._crash = None
        self.host.crash(self.random, power=power)
        self.after(back_after, self.start)

    def _note_what_is_lost(self, power: bool) -> None:
        if any(client.requests for client in self.clients):
            self.saw("server: down with requests in flight")
        if self.host.up and self.host.thread.query("SELECT 1 FROM commands WHERE settled_at IS NULL LIMIT 1"):
            self.saw("server: down with a command planned and not settled")
        if power and any(request.ok and request.changes for request in self.ledger.requests):
            self._told_before_power_cut = True

    def crash_when(self, condition: Callable[[], Any], *, power: bool, back_after: float) -> None:
        """Take the server down when ``condition`` holds, in the middle of whatever that is."""
        self._crash = (condition, power, back_after)

    def _before_each(self) -> None:
        if self._crash is not None and self.host.running and self._crash[0]():
            _, power, back_after = self._crash
            self.saw("server: down between two events")
            self.crash(power=power, back_after=back_after)

    def stop(self, back_after: float) -> None:
        """Stop the server as an administrator does, and start it again."""
        if not self.host.running or self._stopping:
            return
        self._stopping = True
        self.saw("server: stop")
        service = self.host.service
        self.host.stop(lambda: self._stopped(service, back_after))

    def _stopped(self, service: Any, back_after: float) -> None:
        if self.host.service is not service or not self.host.running:
            return
        self._stopping = False
        left = self.host.end()
        if left:
            self.left_at_stop.append([name_of(call) for call in left])
        self.after(back_after, self.start)

    def slow(self, latencies: list[float], seconds: float) -> None:
        """Let commits take one of ``latencies`` for so long."""
        self._slow = (latencies, self.now + seconds)

    def _latency(self) -> float:
        latencies, until = self._slow
        return self.random.choice(latencies) if self.now < until else 0.0

    # -- what steps do

    def ask(self, client: Client, kind: str, draw: Draw) -> None:
        """Let ``client`` ask for something of ``kind``."""
        number = len(self.ledger.requests)
        devices = [*(box.dev_unid for box in self.boxes), self.absent]
        command, params, wrong = Asking(self.ledger, devices).make(kind, number, draw)
        self.saw(f"asked: {kind}")
        if wrong:
            self.saw("client: wrong")
        if kind == "put_conf" and f'"conf {number}"' not in json.dumps(params):
            self.saw("asked: put_conf, with what is stored")
        if "connect_wait" in params:
            self.saw("client: waits for devices to connect")
        progress, keyed = draw.chance(20), draw.chance(40) and not wrong and not command.endswith("subscriptions")
        self.request(client, command, params, wrong=wrong, progress=progress, key=f"key {number}" if keyed else None)

    def request(
        self,
        client: Client,
        command: str,
        params: dict[str, Any],
        *,
        wrong: bool = False,
        progress: bool = False,
        key: str | None = None,
    ) -> Request:
        """Let ``client`` ask for ``command``."""
        key = None if command.startswith("get ") else key
        request = self.ledger.new(client.name, command, params, wrong, self.tick, key)
        client.ask(request, progress=progress)
        return request

    def ask_again(self, client: Client, draw: Draw) -> None:
        """Let ``client`` ask once more with a key that it has used: for the same, or for something else."""
        keyed = [each for each in self.ledger.requests if each.client == client.name and each.key and each.attempts]
        request = draw.one([each for each in keyed if each.kept or each in client.requests.values()])
        if request is not None and draw.chance(30):
            # Right in itself: only the key is wrong, and nobody knows yet whether one that is under way will be kept.
            self.saw(f"client: asks something else with a key that is {'over' if request.answers else 'under way'}")
            number = len(self.ledger.requests)
            params = {"name": f"conf {number}", "file_ext": "bin", "file_b64": "bm8="}
            self.request(client, "post store_confs", params, key=request.key)
        elif request is not None:
            client.ask_again(request)

    @property
    def absent(self) -> str:
        [absent] = [unid for unid, device in self.first.devices.items() if device.dev_refid == "absent"]
        return absent

    def exchange(self, box: Box, draw: Draw) -> None:
        """Put other hardware in the place of ``box``: it has nothing, and another name."""
        self.saw("device: other hardware")
        box.forget()
        box.echo = draw.one(["req_id", "req_id", "nothing"])
        box.dev_refid = f"hardware-{len(self.ledger.requests)}"
        params = {"dev_unid": box.dev_unid, "dev_refid": box.dev_refid}
        request = self.request(draw.one(self.clients), "put devices", params)
        self._exchanges[request.number] = box.life

    def _look_whether_gone(self, request: Request) -> None:
        self.found += [("I3", complaint) for complaint in self.watch_disabled(self, request)]

    def _exchanged(self, request: Request) -> None:
        for box in self.boxes:
            # By now the server knows that it has nothing, unless it has forgotten once more since.
            if box.dev_unid == request.params["dev_unid"] and box.life == self._exchanges.get(request.number):
                box.trusted = True

    @property
    def peers(self) -> list[Box | Client]:
        """Devices and clients."""
        return [*self.boxes, *self.clients]

    def some_connection(self, draw: Draw) -> Connection | None:
        """Return a connection that a device or client believes in."""
        sockets = [socket for box in self.boxes for socket in box.sockets]
        sockets += [client.socket for client in self.clients if client.socket is not None]
        socket = draw.one(sockets)
        return None if socket is None else socket.connection

    def look_after(self) -> None:
        """Let peers look at their connections, again and again."""
        for peer in self.peers:
            peer.look_after()
        self.after(LOOK_EVERY, self.look_after)

    # -- for checkers

    @property
    def settled(self) -> list[Settling]:
        """The commands that were settled, in all lives."""
        return [each for thread in self._threads for each in thread.settled]

    @property
    def acks(self) -> list[Ack]:
        """The acknowledgements that were written, in all lives."""
        return [each for thread in self._threads for each in thread.acks]

    @property
    def errors(self) -> list[str]:
        """What was logged as an error, but for what was done on purpose."""
        return self.log.unexpected()

    def socket_of(self, box: Box, epoch: int) -> int | None:
        """Return which of the connections of ``box`` the server calls ``epoch``."""
        for socket, number in box.numbers.items():
            transport = socket.connection.transport
            link = getattr(transport.protocol, "link", None) if transport is not None else None
            if link is not None and link.epoch == epoch:
                return number
        return None

    def protocols(self) -> list[Any]:
        """The server's ends of all connections of its present life."""
        found = [
            each.transport.protocol for each in self.host.connections if each.transport and each.transport.connected
        ]
        return [each for each in found if isinstance(each, Peer)]

    def operators(self) -> list[Any]:
        """Those of them that are clients'."""
        return [each for each in self.protocols() if hasattr(each, "_in_flight")]

    def devices(self) -> list[Any]:
        """Those of them that are devices'."""
        return [each for each in self.protocols() if hasattr(each, "link")]

    def check_bounds(self) -> None:
        """Note what is more than it may be now."""
        if not self.host.up:
            return
        service = self.host.service
        largest = LIMITS.unread_bytes + LIMITS.operator_message_max
        for what, found, most in (
            (
                "messages outstanding",
                [len(each.link.pending) for each in self.devices()],
                LIMITS.outstanding_per_device,
            ),
            ("late answers awaited", [len(each.link.late) for each in self.devices()], 256),
            ("requests in flight", [each._in_flight for each in self.operators()], LIMITS.requests_per_connection),
            ("waiting for a lock", [len(queue) for queue in service.locks._waiting.values()], LIMITS.waiting_per_lock),
            ("unread messages", [len(each._unread) for each in self.protocols()], LIMITS.unread_messages + 1),
            ("unread bytes", [each._unread_bytes for each in self.protocols()], largest),
            ("lanes", [len(service.delivery._lanes)], len(self.boxes) + 1),
        ):
            if max(found, default=0) > most:
                self.over_bounds.append(f"{max(found)} {what}, and {most} are the most")
