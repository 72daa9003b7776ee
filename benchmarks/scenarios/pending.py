"""How many silent peers one process can hold, and what they cost as they grow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.bench import Bench
from benchmarks.processes import Client, raise_file_limit
from benchmarks.scenario import Scenario
from benchmarks.subjects import GARBAGE, SILENT_ROLE, Options, Subject

LEVELS = (0, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000)

SPARE = 300
"""Descriptors that a process needs for all else."""

QUICK_LEVELS = (0, 500)


def levels(most: int) -> list[int]:
    """How many peers to hold: `LEVELS`, or as many as there are descriptors for."""
    return [level for level in LEVELS if level < most] + ([most] if most < LEVELS[-1] else [])


def pending(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """Hold more and more, and ask each time what a healthy client notices."""
    files = raise_file_limit() - SPARE
    unlimited = dict.fromkeys(("connections", "pending", "pending_per_address"), math.inf)
    options = Options(window=3600.0, limits=json.dumps(unlimited))
    figures: dict[str, float] = {}
    held = 0
    with ExitStack() as stack, bench.fresh_server(subject, options) as server:
        port = server.port
        bench.client.call("handshakes", port=port, count=100, in_flight=4)
        server.process.collect_garbage()
        empty = server.process.resident()
        crowd: Client | None = None
        room = 0
        for level in QUICK_LEVELS if bench.quick else levels(files):
            while held < level:
                if crowd is None or not room:  # each of them has only so many descriptors
                    crowd, room = stack.enter_context(bench.second_client()), files
                count = min(level - held, room)
                crowd.call("hold", port=port, count=count, after=held)
                held, room = held + count, room - count
            server.process.wait_for_files(held)
            server.process.settled_cpu()
            figures[f"memory at {level:,}"] = (server.process.resident() - empty) / 1e6
            speaking = bench.client.call(
                "speak_at", port=port, rate=100, seconds=1 if bench.quick else 10
            )
            figures[f"p99 at {level:,}"] = 1e3 * speaking["p99"]
    return figures


SCENARIOS = [
    Scenario(
        name="pending",
        about="more and more silent peers pending in one process, up to 50,000 or what descriptors "
        "allow: memory of all, and a healthy client's dial-to-echo",
        units={
            f"{figure} at {level:,}": unit
            for level in sorted({*levels(raise_file_limit() - SPARE), *QUICK_LEVELS})
            for figure, unit in (("memory", "MB"), ("p99", "ms"))
        },
        needs=frozenset([SILENT_ROLE, GARBAGE]),
        measure=pending,
        rounds=3,
        warm_up=False,
    )
]
