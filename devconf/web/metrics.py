"""``GET /metrics``: figures for Prometheus, read from the parts at the moment they are asked for.

The parts only count; what a figure is called, and what it means, stands here. Nothing global is used: each service has
a registry of its own, and two in one process do not mix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import define, frozen
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from twisted.web.resource import Resource
from twisted.web.server import Request

from devconf.commands.locks import Locks
from devconf.commands.registry import Registry
from devconf.devices.delivery import Delivery
from devconf.devices.hub import Hub
from devconf.pages import Pages
from devconf.store import Store
from devconf.websocket import PeerFactory


@frozen
class Parts:
    """What is counted.

    :ivar pages: large answers to clients; those to devices are the hub's.
    :ivar factories: by the kind of their peers.
    :ivar refused: connections for which there was no room, by the bound that was hit.
    """

    store: Store
    hub: Hub
    delivery: Delivery
    registry: Registry
    locks: Locks
    pages: Pages
    factories: Mapping[str, PeerFactory]
    refused: Mapping[str, int]


@define(eq=False)
class Figures(Collector):
    """Makes metrics of what the parts have counted."""

    _parts: Parts

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client's ``Collector``."""
        yield from self._peers()
        yield from self._requests()
        yield from self._orders()

    def _peers(self) -> Iterator[Metric]:
        hub, factories = self._parts.hub, self._parts.factories
        yield _by(
            GaugeMetricFamily("devconf_connections", "WebSockets that are open.", labels=["peer"]),
            {peer: len(factory.keepalive) for peer, factory in factories.items()},
        )
        yield GaugeMetricFamily("devconf_devices_online", "Devices that are connected and may be sent to.", hub.online)
        yield GaugeMetricFamily(
            "devconf_devices_duplicate",
            "Devices of which there are two boxes; one of each is kept out.",
            hub.duplicates.now,
        )
        yield CounterMetricFamily(
            "devconf_duplicates_found", "How often a device has been found to be two boxes.", hub.duplicates.found
        )
        yield CounterMetricFamily(
            "devconf_duplicates_kept_out", "Connections of a second box that were closed.", hub.duplicates.refused
        )
        closed = CounterMetricFamily(
            "devconf_closed",
            "WebSockets that the server has ended: by close code, or dropped because they were silent or did not read.",
            labels=["peer", "code"],
        )
        for peer, factory in factories.items():
            for code, count in factory.closed.items():
                closed.add_metric([peer, code], count)
        yield closed
        yield _by(
            CounterMetricFamily(
                "devconf_connections_refused", "TCP connections for which there was no room.", labels=["bound"]
            ),
            self._parts.refused,
        )

    def _requests(self) -> Iterator[Metric]:
        registry, locks, store = self._parts.registry, self._parts.locks, self._parts.store
        yield GaugeMetricFamily("devconf_requests_running", "Requests that are being handled.", registry.running)
        yield GaugeMetricFamily("devconf_locks_awaited", "Commands that wait for another one's lock.", locks.waiting)
        yield _by(
            CounterMetricFamily("devconf_responses", "Responses to requests, by ecode.", labels=["ecode"]),
            registry.answered,
        )
        pages = {"operator": self._parts.pages, "device": self._parts.hub.pages}
        yield _by(
            GaugeMetricFamily(
                "devconf_large_answers_bytes", "Bytes of large answers that sockets have not taken.", labels=["peer"]
            ),
            {peer: each.held for peer, each in pages.items()},
        )
        yield _by(
            GaugeMetricFamily(
                "devconf_large_answers_waiting", "Answers that wait to be made, or made again.", labels=["peer"]
            ),
            {peer: each.waiting for peer, each in pages.items()},
        )
        yield GaugeMetricFamily("devconf_store_waiting", "Transactions that wait to be committed.", store.waiting)
        yield GaugeMetricFamily("devconf_store_full", "1 while the disk is full, and changes are refused.", store.full)

    def _orders(self) -> Iterator[Metric]:
        hub, delivery = self._parts.hub, self._parts.delivery
        yield GaugeMetricFamily(
            "devconf_lanes", "Devices to which something is under way, or was and is remembered.", delivery.lanes
        )
        yield GaugeMetricFamily(
            "devconf_large_messages_bytes",
            "Bytes of large messages that sockets have not taken; what is common to several counts once.",
            delivery.bulk.held,
        )
        yield GaugeMetricFamily(
            "devconf_large_messages_waiting", "Large messages whose turn has not come.", delivery.bulk.waiting
        )
        yield CounterMetricFamily("devconf_orders_sent", "Orders handed to a socket.", delivery.sent)
        yield CounterMetricFamily("devconf_orders_silent", "Orders that were not answered in time.", delivery.silent)
        yield _by(
            CounterMetricFamily("devconf_order_answers", "Answers to orders that were written.", labels=["outcome"]),
            delivery.answers,
        )
        yield CounterMetricFamily(
            "devconf_device_messages_dropped", "Messages of devices that answered nothing.", hub.dropped
        )


def _by(metric: Metric, counts: Mapping[str, int] | Mapping[int, int]) -> Metric:
    """Return ``metric`` with a sample for each of ``counts``."""
    for label, count in counts.items():
        metric.add_metric([str(label)], count)  # type: ignore[attr-defined]
    return metric


class MetricsResource(Resource):
    """What is answered to Prometheus, at ``/metrics`` of whatever holds it."""

    def __init__(self, parts: Parts) -> None:
        """Take the parts of one service."""
        super().__init__()
        self._registry = CollectorRegistry()
        self._registry.register(Figures(parts))
        ProcessCollector(registry=self._registry)

    def render_GET(self, request: Request) -> bytes:
        """Return all figures as they are now, in Prometheus' text format."""
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode("ascii"))
        return generate_latest(self._registry)
