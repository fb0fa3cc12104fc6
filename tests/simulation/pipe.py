"""One direction of a connection: bytes that wait, are under way, or have arrived and are not read."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from attrs import frozen

from tests.simulation.timeline import Timeline


@frozen
class Quality:
    """How good a connection is.

    :ivar latency: seconds on the way, at least; :ivar jitter: and up to so many more.
    :ivar grid: seconds: arrivals come in such steps, so that writes merge; 0: they do not.
    :ivar split: how likely it is that what is written arrives in pieces.
    :ivar window: bytes that may be on the way.
    """

    latency: float = 0.002
    jitter: float = 0.001
    grid: float = 0.0
    split: float = 0.0
    window: int = 8192

    @classmethod
    def draw(cls, random: Random) -> Quality:
        """Return one of the kinds there are in the field."""
        return cls(
            latency=random.choice((0.0, 0.002, 0.02, 0.3)),
            jitter=random.choice((0.0, 0.01, 0.4, 2.0)),
            grid=random.choice((0.0, 0.0, 0.05, 0.5)),
            split=random.choice((0.0, 0.1, 0.5)),
            window=random.choice((700, 4096, 16384)),
        )


class Mark(NamedTuple):
    """A moment: in events of the run, and in seconds."""

    tick: int
    now: float


class Pipe:
    """One direction of a connection.

    :ivar receive: given what arrives; :ivar drained: called when nothing waits at the sender any longer.
    :ivar ended: called when the sender's end of the stream has arrived.
    :ivar delivered: bytes that have been received.
    """

    def __init__(self, timeline: Timeline, random: Random, quality: Quality, seen: Counter[str]) -> None:
        self.quality = quality
        self.receive: Callable[[bytes], None] = lambda _data: None
        self.drained: Callable[[], None] = lambda: None
        self.ended: Callable[[], None] = lambda: None
        self.delivered = 0
        self.stalled_until = 0.0
        self._timeline = timeline
        self._random = random
        self._seen = seen
        self._reading = True
        self._severed = False
        self._buffer = bytearray()
        self._flight: deque[tuple[float, bytes]] = deque()
        self._arrived: list[bytes] = []
        self._under_way = 0
        self._last = 0.0
        self._finished = False
        self._written = 0
        self._writes: deque[tuple[int, Mark]] = deque()
        self._awaited: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def buffered(self) -> int:
        """Bytes that wait at the sender."""
        return len(self._buffer)

    def write(self, data: bytes) -> None:
        """Send ``data``."""
        self._written += len(data)
        self._writes.append((self._written, Mark(self._timeline.ticks, self._timeline.now)))
        self._buffer += data
        self._pump()

    def written_at(self, position: int) -> Mark:
        """Return when the byte before ``position`` of the stream was written."""
        while len(self._writes) > 1 and self._writes[0][0] < position:
            self._writes.popleft()
        return self._writes[0][1]

    def when_received(self, function: Callable[[], None]) -> None:
        """Call ``function`` when all that has been written up to now has been received, if ever it is."""
        self._awaited.append((self._written, function))

    def _pump(self) -> None:
        room = self.quality.window - self._under_way
        if self._severed or not self._buffer or room <= 0:
            return
        taken = bytes(self._buffer[:room])
        del self._buffer[:room]
        for piece in self._pieces(taken):
            self._launch(piece)

    def _pieces(self, data: bytes) -> list[bytes]:
        if len(data) < 2 or self._random.random() >= self.quality.split:
            return [data]
        self._seen["network: split"] += 1
        cuts = sorted(self._random.randrange(1, len(data)) for _ in range(self._random.randint(1, 3)))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]

    def _launch(self, piece: bytes) -> None:
        quality = self.quality
        when = self._timeline.now + quality.latency + quality.jitter * self._random.random()
        if quality.grid:
            when = (when // quality.grid + 1) * quality.grid
        if quality.latency + quality.jitter > 0.2:
            self._seen["network: delay"] += 1
        self._last = when = max(when, self._last, self.stalled_until)
        self._under_way += len(piece)
        self._flight.append((when, piece))
        self._timeline.at(when, self._arrive)

    def _arrive(self) -> None:
        while self._flight and self._flight[0][0] <= self._timeline.now:
            self._arrived.append(self._flight.popleft()[1])
        self._deliver()

    def _deliver(self) -> None:
        if self._arrived and self._reading:
            self._seen["events: arrival"] += 1
            if len(self._arrived) > 1:
                self._seen["network: merge"] += 1
            data = b"".join(self._arrived)
            self._arrived.clear()
            self._under_way -= len(data)
            self.delivered += len(data)
            self._timeline.note(data)
            self.receive(data)
            while self._awaited and self._awaited[0][0] <= self.delivered:
                self._awaited.popleft()[1]()
            self._pump()
            if not self._buffer and not self._severed:
                self.drained()
        self._end()

    def read(self, reading: bool) -> None:
        """Let the receiver read, or not."""
        self._reading = reading
        if reading:
            self._timeline.after(0, self._deliver)

    def finish(self) -> None:
        """End the stream, after what has been written."""
        self._finished = True
        self._timeline.after(self.quality.latency, self._end)

    def _end(self) -> None:
        if self._finished and self._reading and not (self._severed or self._buffer or self._under_way):
            self._severed = True
            self.ended()

    def sever(self) -> None:
        """Let nothing through any longer; what is on the way is lost."""
        self._severed = True
        for _, piece in self._flight:
            self._under_way -= len(piece)
        self._flight.clear()
