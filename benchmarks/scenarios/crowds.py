"""Speaking peers at a steady rate, alone and beside a crowd of silent ones: what they wait for."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.scenario import Measure, Scenario
from benchmarks.subjects import CROWD, ECHO, TIMED, Options, Subject


def latency(crowd: int) -> Measure:
    def measure(bench: Bench, subject: Subject) -> Mapping[str, float]:
        silent = min(crowd, 500) if bench.quick else crowd
        with bench.fresh_server(subject, Options(window=3600.0)) as server:
            port = server.port
            bench.client.call("handshakes", port=port, count=subject.warm_up * 2, in_flight=4)
            if silent:
                bench.client.call("hold", port=port, count=silent)
                server.process.wait_for_files(silent)
            answer = bench.client.call(
                "speak_at", port=port, rate=200, seconds=1 if bench.quick else 3
            )
            return {name: 1e3 * answer[name] for name in ("p50", "p90", "p99")}

    return measure


def accept_to_handler(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """From accept to the handler's authenticated stream, by the server's own clock."""
    with bench.fresh_server(subject, Options(timed=True)) as server:
        port = server.port
        bench.client.call("handshakes", port=port, count=subject.warm_up * 2, in_flight=4)
        server.process.ask_times()
        bench.client.call("speak_at", port=port, rate=200, seconds=1 if bench.quick else 3)
        answer = server.process.ask_times()
        return {name: 1e3 * seconds for name, seconds in answer.items()}


SCENARIOS = [
    Scenario(
        name="accept-to-handler",
        about="from accept to the handler's authenticated stream, at 200 new connections a second",
        units={"p50": "ms", "p90": "ms", "p99": "ms"},
        needs=frozenset([TIMED]),
        measure=accept_to_handler,
        rounds=5,
        warm_up=False,
    ),
    Scenario(
        name="latency",
        about="time from dial to the first echo at 200 new connections a second",
        units={"p50": "ms", "p90": "ms", "p99": "ms"},
        needs=frozenset([ECHO]),
        measure=latency(0),
        rounds=3,
        warm_up=False,
    ),
    Scenario(
        name="latency-crowd",
        about="the same, beside 5,000 silent peers",
        units={"p50": "ms", "p90": "ms", "p99": "ms"},
        needs=frozenset([ECHO, CROWD]),
        measure=latency(5000),
        rounds=3,
        warm_up=False,
    ),
]
