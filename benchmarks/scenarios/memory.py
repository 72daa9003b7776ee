"""Resident memory of a connection in each phase of its life."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.processes import Client
from benchmarks.scenario import Measure, Scenario
from benchmarks.subjects import CROWD, ECHO, GARBAGE, Options, Running, Subject

FEW = 400
"""Connections of subjects that take hundreds of kilobytes for each: a tenth of them tells it too."""


def held(state: str, count: int) -> Measure:
    def measure(bench: Bench, subject: Subject) -> Mapping[str, float]:
        few = bench.quick or CROWD not in subject.abilities
        most = min(count, FEW) if few else count
        with bench.fresh_server(subject, Options(window=3600.0)) as server:
            return {"memory": slope(bench.client, server, subject, state, most)}

    return measure


def slope(client: Client, server: Running, subject: Subject, state: str, count: int) -> float:
    """Bytes that each of ``count`` connections adds, in kB, once some are there.

    Between two levels, so that what warms up once does not count.
    """
    levels = []
    total = 0
    for step in (count // 10, count):
        client.call("hold", port=server.port, count=step, state=state)
        total += step
        server.process.wait_for_files(total)
        if GARBAGE in subject.abilities:
            server.process.collect_garbage()
        server.process.settled_cpu()
        levels.append(server.process.resident())
    return (levels[1] - levels[0]) / count / 1000


SCENARIOS = [
    Scenario(
        name=f"memory-{name}",
        about=f"resident memory of each of {count:,} connections {about}"
        + (f" (or of {FEW})" if count > FEW else ""),
        units={"memory": "kB"},
        # That a message more changes nothing is of interest in Python alone.
        needs=frozenset([GARBAGE if name == "used" else ECHO]),
        measure=held(state, count),
        rounds=3,
        warm_up=False,
    )
    for name, state, count, about in (
        ("pending", "silent", 5000, "that were dialled in silence"),
        ("handshaking", "handshaking", 400, "that have sent a ClientHello and nothing more"),
        ("idle", "idle", 400, "that have completed the handshake"),
        ("used", "used", 400, "that have echoed a message"),
    )
]
