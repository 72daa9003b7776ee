"""Application data: bulk each way, and small messages there and back."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.scenario import Measure, Scenario
from benchmarks.subjects import ECHO, SINK, SOURCE, Options, Subject

MB = 1024 * 1024


def bulk(handler: str, version: str) -> Measure:
    def measure(bench: Bench, subject: Subject) -> Mapping[str, float]:
        server = bench.server(subject, Options(handler=handler))
        size = (16 if bench.quick else 96) * MB
        before = server.process.settled_cpu()
        do = "send_bulk" if handler == SINK else "receive_bulk"
        bench.client.call(do, port=server.port, size=size, version=version)
        spent = server.process.settled_cpu() - before
        return {"rate": size / 1e6 / spent}

    return measure


def small_messages(bench: Bench, subject: Subject) -> Mapping[str, float]:
    server = bench.server(subject)
    count = 300 if bench.quick else 3000
    before = server.process.settled_cpu()
    answer = bench.client.call("echo", port=server.port, count=count, size=100)
    spent = server.process.settled_cpu() - before
    return {"cpu": 1e6 * spent / count, "p50": 1e6 * answer["p50"], "p99": 1e6 * answer["p99"]}


SCENARIOS = [
    *(
        Scenario(
            name=f"{name}-{tls}",
            about=f"megabytes that the server {does} for each second of its CPU, {tls.upper()}",
            units={"rate": "MB/s"},
            needs=frozenset([handler]),
            measure=bulk(handler, version),
            rounds=5,
            more_is_better=True,
        )
        for name, handler, does in (
            ("bulk-receive", SINK, "receives"),
            ("bulk-send", SOURCE, "sends"),
        )
        for tls, version in (("tls1.3", "TLSv1_3"), ("tls1.2", "TLSv1_2"))
    ),
    Scenario(
        name="echo",
        about="100 bytes there and back on an open connection: server CPU, and time",
        units={"cpu": "µs", "p50": "µs", "p99": "µs"},
        needs=frozenset([ECHO]),
        measure=small_messages,
        rounds=7,
    ),
]
