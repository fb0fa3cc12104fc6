"""What each device that is connected and idle takes, as the slope between few and many of them."""

from __future__ import annotations

from attrs import frozen

from benchmarks.side import Side


@frozen
class Growth:
    """What a device more takes.

    :ivar rss_kb: memory that is resident, :ivar pss_kb: with shares of what is shared, :ivar private_kb: the server's
        alone; all of the process, in KB.
    :ivar connect_us: CPU time of the server until it is connected, in microseconds.
    """

    rss_kb: float
    pss_kb: float
    private_kb: float
    connect_us: float


def growth(side: Side, few: int, many: int, settle: float) -> Growth:
    """Connect ``few`` devices to a server that has just been started, then up to ``many``, and compare.

    :param settle: seconds to wait before memory is looked at.
    :raises Failed: the server logged an error, or closed a connection.
    """
    side.connect_devices(few)
    side.sockets.rest(settle)
    before, used = side.server.memory(), side.server.cpu()
    side.connect_devices(many - few)
    side.sockets.rest(settle)
    after, used = side.server.memory(), side.server.cpu() - used
    side.server.check()
    more = many - few
    return Growth(
        (after.rss - before.rss) / more,
        (after.pss - before.pss) / more,
        (after.private - before.private) / more,
        used / more * 1e6,
    )
