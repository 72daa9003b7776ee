"""Whether a connection costs the same, however many there are."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.scenario import Scenario
from benchmarks.subjects import CROWD, GARBAGE, Options, Subject

LEVELS = (10, 100, 1_000, 10_000)

TELLING = 1_000
"""From how many on the memory of each tells; fewer are lost in what a process grows by anyway."""


def growth(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """The CPU of a handshake beside so many silent peers, and what each of those takes."""
    count = 60 if bench.quick else 200
    figures: dict[str, float] = {}
    memory: dict[str, float] = {}
    held = 0
    with bench.fresh_server(subject, Options(window=3600.0)) as server:
        port = server.port
        bench.client.call("handshakes", port=port, count=subject.warm_up * 2, in_flight=4)
        for level in LEVELS[:3] if bench.quick else LEVELS:
            resident = server.process.resident()
            bench.client.call("hold", port=port, count=level - held)
            server.process.wait_for_files(level)
            if level >= TELLING:
                server.process.settled_cpu()
                grown = server.process.resident() - resident
                memory[f"memory at {level:,}"] = grown / (level - held) / 1000
            held = level
            before = server.process.settled_cpu()
            bench.client.call("handshakes", port=port, count=count, in_flight=4)
            figures[f"{level:,}"] = 1e6 * (server.process.settled_cpu() - before) / count
    return figures | memory


SCENARIOS = [
    Scenario(
        name="growth",
        about="server CPU for a handshake while so many silent peers are connected, and memory of each",
        units={
            **{f"{level:,}": "µs" for level in LEVELS},
            **{f"memory at {level:,}": "kB" for level in LEVELS if level >= TELLING},
        },
        needs=frozenset([CROWD, GARBAGE]),  # of frameworks: whose own doing it would be
        measure=growth,
        rounds=3,
        warm_up=False,
    )
]
