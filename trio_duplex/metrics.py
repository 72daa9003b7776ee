"""Prometheus metrics of running servers: the extra ``metrics``.

Register one collector, and serve the registry in the way of your application:
``REGISTRY.register(ServerCollector(server))``.

Nothing is counted here. Each scrape reads `Server.statistics`, so without scrapes
there is no cost. No label contains anything that a peer can choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from trio_duplex import Role, Server, Statistics
from trio_duplex.events import Probe

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        f"trio_duplex.metrics needs {exc.name}: pip install 'trio-duplex[metrics]'", name=exc.name
    ) from exc

__all__ = ["ServerCollector"]

_Samples = dict[tuple[str, ...], float]


class ServerCollector(Collector):
    """Makes Prometheus metrics of the `trio_duplex.Statistics` of one or more servers.

    Args:
        servers: A server; or several, by a name that becomes the label
            ``server`` of every metric. These metrics can be registered only
            once in a registry, so give all servers of a process to one collector.

    Attributes:
        servers: The servers by name. More may be added at any time; a server
            that has ended keeps its counts.
    """

    def __init__(self, servers: Server | Mapping[str, Server]) -> None:
        self._one = isinstance(servers, Server)
        self.servers: dict[str, Server] = (
            {"": servers} if isinstance(servers, Server) else dict(servers)
        )

    def collect(self) -> Iterator[Metric]:
        """Read all servers; may be called from any thread."""
        found = {name: server.statistics() for name, server in tuple(self.servers.items())}
        for name, text, labels, read in _COUNTERS:
            counter = CounterMetricFamily(_name(name), text, labels=self._labels(labels))
            self._fill(counter, found, read)
            yield counter
        for name, text, labels, read in _GAUGES:
            gauge = GaugeMetricFamily(_name(name), text, labels=self._labels(labels))
            self._fill(gauge, found, read)
            yield gauge
        yield self._decision_seconds(found)

    def _decision_seconds(self, found: Mapping[str, Statistics]) -> Metric:
        family = HistogramMetricFamily(
            _name("decision_seconds"),
            "How long role decisions took, from accept.",
            labels=self._labels(()),
        )
        for server, statistics in found.items():
            histogram = statistics.decision_seconds
            bounds = [*map(str, histogram.bounds), "+Inf"]
            family.add_metric(
                self._values(server, ()),
                buckets=list(zip(bounds, accumulate(histogram.counts), strict=True)),
                sum_value=histogram.total,
            )
        return family

    def _fill(
        self,
        family: CounterMetricFamily | GaugeMetricFamily,
        found: Mapping[str, Statistics],
        read: Callable[[Statistics], _Samples],
    ) -> None:
        for server, statistics in found.items():
            for values, number in read(statistics).items():
                family.add_metric(self._values(server, values), number)

    def _labels(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        return labels if self._one else ("server", *labels)

    def _values(self, server: str, values: tuple[str, ...]) -> tuple[str, ...]:
        return values if self._one else (server, *values)


def _name(name: str) -> str:
    return f"trio_duplex_{name}"


def _by_role(numbers: Mapping[Role, int]) -> _Samples:
    # Return both roles from the start: if a counter appears with its first increment, Prometheus
    # does not see that increment.
    return {(str(role),): numbers.get(role, 0) for role in Role}


def _by_name(numbers: Mapping[str, int]) -> _Samples:
    return {(name,): number for name, number in numbers.items()}


_Row = tuple[str, str, tuple[str, ...], Callable[[Statistics], _Samples]]

_COUNTERS: tuple[_Row, ...] = (
    ("accepted", "Connections accepted.", (), lambda s: {(): s.accepted}),
    (
        "decisions",
        "Role decisions, by the TLS role that we took and why.",
        ("role", "reason"),
        lambda s: {(str(role), str(reason)): n for (role, reason), n in s.decided.items()},
    ),
    (
        "crossings",
        "Times that two ClientHellos crossed, by the role in which we went on.",
        ("role",),
        lambda s: _by_role(s.crossings),
    ),
    (
        "peers_changed_kind",
        "Times that a memory of peers took one for another kind, by what it was from then on.",
        ("kind",),
        lambda s: {(kind,): s.changed_kind.get(kind, 0) for kind in ("silent", "speaking")},
    ),
    (
        "policy_failures",
        "Window policies that raised or took too long, by class of error.",
        ("error",),
        lambda s: _by_name(s.policy_failures),
    ),
    (
        "handshakes",
        "Handshakes completed, peer admitted.",
        ("role",),
        lambda s: _by_role(s.completed),
    ),
    (
        "failures",
        "Connections that did not reach their handler, by class of error.",
        ("error",),
        lambda s: _by_name(s.failed),
    ),
    (
        "probes",
        "Beside failures, connections that look like a health check or a port scan, by how.",
        ("kind",),
        lambda s: {(str(probe),): s.probes.get(probe, 0) for probe in Probe},
    ),
    (
        "handler_failures",
        "Exceptions that left handlers, by class of error.",
        ("error",),
        lambda s: _by_name(s.handler_failures),
    ),
    ("closed", "Connections closed that had reached their handler.", (), lambda s: {(): s.closed}),
    (
        "limits",
        "Connections dropped or delayed because a limit was reached, by limit.",
        ("limit",),
        lambda s: _by_name(s.limits),
    ),
    ("pauses", "Times that the machine had no room to accept.", (), lambda s: {(): s.pauses}),
    (
        "received_bytes",
        "Application data received on closed connections.",
        (),
        lambda s: {(): s.bytes_received},
    ),
    (
        "sent_bytes",
        "Application data sent on closed connections.",
        (),
        lambda s: {(): s.bytes_sent},
    ),
    (
        "observers_disabled",
        "Observers that raised, and are no longer called.",
        (),
        lambda s: {(): s.observers_disabled},
    ),
)

_GAUGES: tuple[_Row, ...] = (
    (
        "pending_connections",
        "Peers in their detection window, or waiting for their turn to handshake.",
        (),
        lambda s: {(): s.pending},
    ),
    (
        "handshakes_in_progress",
        "Handshakes under way, by the TLS role that we play.",
        ("role",),
        lambda s: _by_role(s.handshaking),
    ),
    ("open_connections", "Connections with their handler.", (), lambda s: {(): s.open}),
    (
        "certificate_not_after",
        "When the first of our own certificates ends, in seconds since 1970.",
        (),
        lambda s: (
            {} if s.certificate_not_after is None else {(): s.certificate_not_after.timestamp()}
        ),
    ),
)
