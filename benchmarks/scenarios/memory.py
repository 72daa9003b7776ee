"""Resident memory of a connection in each phase of its life."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping

from benchmarks.bench import Bench
from benchmarks.processes import Client
from benchmarks.scenario import Measure, Scenario
from benchmarks.subjects import CROWD, ECHO, GARBAGE, MUTE, SILENT_ROLE, Options, Running, Subject

FEW = 400
"""Connections of subjects that take hundreds of kilobytes for each: a tenth of them tells it too."""

QUICK = 50
"""In a quick run, which tells nothing."""


def held(state: str, count: int) -> Measure:
    def measure(bench: Bench, subject: Subject) -> Mapping[str, float]:
        most = count if CROWD in subject.abilities else min(count, FEW)
        most = QUICK if bench.quick else most
        with bench.fresh_server(subject, Options(window=3600.0)) as server:
            return {"memory": slope(bench.client, server, subject, state, most)}

    return measure


def slope(
    client: Client, server: Running, subject: Subject, state: str, count: int, *, files: int = 1
) -> float:
    """Bytes that each of ``count`` connections adds, in kB, once some are there.

    Each takes ``files`` descriptors. Between two levels, so that what warms up once does not count.
    """
    levels = []
    total = 0
    for step in (count // 10, count):
        client.call("hold", port=server.port, count=step, state=state)
        total += step
        server.process.wait_for_files(total * files)
        if GARBAGE in subject.abilities:
            server.process.collect_garbage()
        server.process.settled_cpu()
        levels.append(server.process.resident())
    return (levels[1] - levels[0]) / count / 1000


def portions(count: int) -> Iterator[int]:
    """So many, a thousand at once: a busy machine may take long for fifteen."""
    for start in range(0, count, 1000):
        yield min(1000, count - start)


def full(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """Every bound of the default limits reached at once, by peers that stay as they are."""
    parts = 100 if bench.quick else 1
    pending, greeted, handshaking, connections = 15_000, 256, 1_000, 18_000
    patient = {
        "client_handshakes": greeted // parts or 1,
        "server_handshakes": handshaking // parts,
        "connections": connections,
        "pending": pending,
        **dict.fromkeys(("pending_per_address", "turn_timeout"), math.inf),
        **dict.fromkeys(("greeting_patience", "opening_patience"), math.inf),
    }
    options = Options(window=1.0, handshake_timeout=3600.0, limits=json.dumps(patient))
    with bench.fresh_server(subject, options) as server:
        bench.client.call("handshakes", port=server.port, count=20, in_flight=2)
        empty = server.process.resident()
        total = 0
        idle = connections - pending - greeted - handshaking
        for state, count in (
            ("used", idle),
            ("handshaking", handshaking),
            ("silent", greeted),
            ("silent", pending),
        ):
            for part in portions(count // parts):
                bench.client.call("hold", port=server.port, count=part, state=state)
                total += part
                server.process.wait_for_files(total)
            if state == "silent":
                time.sleep(2.0)  # past the window: the first are greeted, and the others in line
        server.process.collect_garbage()
        return {"before": empty / 1e6, "full": server.process.resident() / 1e6}


SCENARIOS = [
    Scenario(
        name="memory-full",
        about="resident memory when every default limit is reached: 15,000 pending, 256 greeted, "
        "1,000 handshakes in the server role, and 1,744 open connections",
        units={"before": "MB", "full": "MB"},
        needs=frozenset([MUTE, SILENT_ROLE]),
        measure=full,
        rounds=1,
        warm_up=False,
    ),
    *(
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
    ),
]
