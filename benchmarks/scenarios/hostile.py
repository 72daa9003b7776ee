"""Peers that mean no good, or none at all, in numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from benchmarks.bench import Bench
from benchmarks.processes import Process, open_files
from benchmarks.scenario import Scenario
from benchmarks.scenarios.memory import slope
from benchmarks.subjects import MUTE, SILENT_ROLE, Options, Subject


def crowd(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """15,000 pending, and what a healthy client notices of it."""
    count = 300 if bench.quick else 13_500  # and a tenth of it before: 15,000
    with bench.fresh_server(subject, Options(window=3600.0)) as server:
        port = server.port
        bench.client.call("handshakes", port=port, count=200, in_flight=4)
        calm = bench.client.call("speak_at", port=port, rate=100, seconds=1 if bench.quick else 5)
        before = server.process.settled_cpu()
        memory = slope(bench.client, server, subject, "silent", count)
        cpu = server.process.settled_cpu() - before
        busy = bench.client.call("speak_at", port=port, rate=100, seconds=1 if bench.quick else 5)
    return {
        "memory": memory,
        "cpu": 1e6 * cpu / (count + count // 10),
        "p99 before": 1e3 * calm["p99"],
        "p99 beside": 1e3 * busy["p99"],
    }


def mute(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """500 a second that never answer our ClientHello."""
    seconds = 3 if bench.quick else 60
    rate = 100 if bench.quick else 500

    def flood(port: int) -> None:
        with bench.second_client() as attacker:
            attacker.call("mute_at", port=port, rate=rate, seconds=seconds)

    return _attacked(bench, subject, Options(window=5.0, handshake_timeout=10.0), flood, seconds)


def garbage(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """2,000 a second that speak HTTP."""
    seconds = 2 if bench.quick else 10
    rate = 200 if bench.quick else 2000
    lines = 0

    def flood(port: int) -> None:
        nonlocal lines
        lines = bench.log_lines(subject.name)
        with bench.second_client() as attacker:
            attacker.call("garbage_at", port=port, rate=rate, seconds=seconds)

    figures = _attacked(bench, subject, Options(log=True), flood, seconds)
    return {**figures, "log lines": bench.log_lines(subject.name) - lines}


def _attacked(
    bench: Bench,
    subject: Subject,
    options: Options,
    flood: Callable[[int], None],
    seconds: float,
) -> dict[str, float]:
    """What speaking clients notice of an attack, and what is left of it."""
    with bench.fresh_server(subject, options) as server:
        port, process = server.port, server.process
        bench.client.call("handshakes", port=port, count=200, in_flight=4)
        calm = bench.client.call("speak_at", port=port, rate=50, seconds=min(5, seconds))
        files = open_files(process.popen.pid)
        peak = _Peak(process)
        attack = threading.Thread(target=flood, args=(port,))
        attack.start()
        with peak:
            time.sleep(seconds * 0.2)
            busy = bench.client.call("speak_at", port=port, rate=50, seconds=seconds * 0.6)
            attack.join()
        process.settled_cpu()
        left = open_files(process.popen.pid) - files
    return {
        "memory": peak.bytes / 1e6,
        "p99 before": 1e3 * calm["p99"],
        "p99 beside": 1e3 * busy["p99"],
        "files left": left,
    }


class _Peak:
    """Watches the resident memory of a process, four times a second."""

    def __init__(self, process: Process) -> None:
        self.bytes = 0
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            self.bytes = max(self.bytes, self._process.resident())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


ATTACK = {"memory": "MB", "p99 before": "ms", "p99 beside": "ms", "files left": ""}

SCENARIOS = [
    Scenario(
        name="crowd",
        about="15,000 silent peers pending: memory of each, server CPU to accept each, and a healthy "
        "client's dial-to-echo",
        units={"memory": "kB", "cpu": "µs", "p99 before": "ms", "p99 beside": "ms"},
        needs=frozenset([SILENT_ROLE]),
        measure=crowd,
        rounds=3,
        warm_up=False,
    ),
    Scenario(
        name="mute",
        about="500 peers a second for 60 s that never answer our ClientHello; window 5 s, "
        "handshake_timeout 10 s",
        units=ATTACK,
        needs=frozenset([MUTE]),
        measure=mute,
        rounds=1,
        warm_up=False,
        slow=True,
    ),
    Scenario(
        name="garbage",
        about="2,000 peers a second for 10 s that speak HTTP",
        units={**ATTACK, "log lines": ""},
        needs=frozenset([SILENT_ROLE]),
        measure=garbage,
        rounds=1,
        warm_up=False,
    ),
]
