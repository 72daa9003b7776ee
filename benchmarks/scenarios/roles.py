"""What only trio_duplex does: the client role on an accepted connection, and deciding."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.scenario import Scenario
from benchmarks.subjects import SILENT_ROLE, Options, Subject

WINDOW = 0.05
"""Seconds; long enough to tell the wait from what is added to it."""


def client_role(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """Silent peers, and no window to wait for them."""
    server = bench.server(subject, Options(window=0.0))
    count = 60 if bench.quick else 300
    before = server.process.settled_cpu()
    bench.client.call("silent_handshakes", port=server.port, count=count, in_flight=4)
    return {"cpu": 1e6 * (server.process.settled_cpu() - before) / count}


def decisions(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """How long peers wait for the role, by reason, beyond what they ask for."""
    server = bench.server(subject, Options(window=WINDOW))
    count = 10 if bench.quick else 40
    spoke = bench.client.call("handshakes", port=server.port, count=count, in_flight=1)
    silent = bench.client.call("silent_handshakes", port=server.port, count=count, in_flight=1)
    return {
        "spoke": 1e3 * spoke["seconds"] / count,
        "silent, beyond the window": 1e3 * (silent["seconds"] / count - WINDOW),
    }


SCENARIOS = [
    Scenario(
        name="client-role",
        about="server CPU from accept to close, for a silent peer greeted at once, TLS 1.3",
        units={"cpu": "µs"},
        needs=frozenset([SILENT_ROLE]),
        measure=client_role,
    ),
    Scenario(
        name="decision",
        about=f"time from dial to close by reason, one at a time, window {WINDOW:g} s",
        units={"spoke": "ms", "silent, beyond the window": "ms"},
        needs=frozenset([SILENT_ROLE]),
        measure=decisions,
    ),
]
