"""Whether a connection costs the same, however many there are."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.scenario import Scenario
from benchmarks.subjects import CROWD, Options, Subject

LEVELS = (10, 100, 1_000, 10_000)


def growth(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """The CPU of a handshake, beside so many silent peers."""
    count = 60 if bench.quick else 200
    figures: dict[str, float] = {}
    held = 0
    with bench.fresh_server(subject, Options(window=3600.0)) as server:
        port = server.port
        bench.client.call("handshakes", port=port, count=subject.warm_up * 5, in_flight=4)
        for level in LEVELS[:3] if bench.quick else LEVELS:
            bench.client.call("hold", port=port, count=level - held)
            held = level
            server.process.wait_for_files(held)
            before = server.process.settled_cpu()
            bench.client.call("handshakes", port=port, count=count, in_flight=4)
            figures[f"{level:,}"] = 1e6 * (server.process.settled_cpu() - before) / count
    return figures


SCENARIOS = [
    Scenario(
        name="growth",
        about="server CPU for a handshake while so many silent peers are connected",
        units={f"{level:,}": "µs" for level in LEVELS},
        needs=frozenset([CROWD]),
        measure=growth,
        rounds=3,
        warm_up=False,
    )
]
