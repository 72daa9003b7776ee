"""Handshakes in the server role: what a connection costs from accept to close."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bench import Bench
from benchmarks.scenario import Measure, Scenario
from benchmarks.subjects import FLOOR, HANDSHAKE, SHARED_PORT, Options, Subject, free_port


def handshakes(version: str) -> Measure:
    def measure(bench: Bench, subject: Subject) -> Mapping[str, float]:
        server = bench.server(subject, Options(handler=HANDSHAKE_HANDLER.get(subject.name, "echo")))
        count = 60 if bench.quick else 250
        before = server.process.settled_cpu()
        answer = bench.client.call(
            "handshakes", port=server.port, count=count, in_flight=4, version=version
        )
        spent = server.process.settled_cpu() - before
        return {"cpu": 1e6 * spent / count, "client": 1e6 * answer["cpu"] / count}

    return measure


HANDSHAKE_HANDLER = {"haproxy": HANDSHAKE, "nginx": HANDSHAKE}
"""What can end a connection by itself does, and is spared the backend."""


def floor(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """Two of them at once: beside each server, too, a client is at work on another CPU.

    Where CPUs are two threads of one core, that costs each of them a third.
    """
    count = "60" if bench.quick else "300"
    server = bench.server(subject)
    with bench.fresh_server(subject) as other, ThreadPoolExecutor() as beside:
        beside.submit(other.process.ask, count)
        return {"cpu": 1e6 * float(server.process.ask(count))}


def two_processes(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """Two processes listen on one port, and then one of the two alone."""
    count = 100 if bench.quick else 400
    costs = []
    share = 0.5
    for processes in (2, 1):
        port = free_port()
        servers = [
            subject.start(bench.place(), Options(port=port)).process for _ in range(processes)
        ]
        try:
            bench.client.call("handshakes", port=port, count=subject.warm_up * 3, in_flight=4)
            before = [server.settled_cpu() for server in servers]
            bench.client.call("handshakes", port=port, count=count, in_flight=4)
            spent = [
                server.settled_cpu() - was for server, was in zip(servers, before, strict=True)
            ]
        finally:
            for server in servers:
                server.stop()
        costs.append(1e6 * sum(spent) / count)
        if processes == 2:
            share = min(spent) / sum(spent)
    return {"cpu of two": costs[0], "cpu of one": costs[1], "smaller share": share}


SCENARIOS = [
    Scenario(
        name="handshake",
        about="server CPU from accept to close, for one full TLS 1.3 handshake; 4 at a time",
        units={"cpu": "µs", "client": "µs"},
        needs=frozenset([HANDSHAKE]),
        measure=handshakes("TLSv1_3"),
        rounds=9,
    ),
    Scenario(
        name="handshake-floor",
        about="CPU of the server's half of a TLS 1.3 handshake, in memory",
        units={"cpu": "µs"},
        needs=frozenset([FLOOR]),
        measure=floor,
        rounds=9,
    ),
    Scenario(
        name="handshake-tls1.2",
        about="the same with TLS 1.2",
        units={"cpu": "µs", "client": "µs"},
        needs=frozenset([HANDSHAKE]),
        measure=handshakes("TLSv1_2"),
        rounds=3,
        warm_up=False,
    ),
    Scenario(
        name="two-processes",
        about="server CPU for a handshake, two processes on one port (SO_REUSEPORT) and one",
        units={"cpu of two": "µs", "cpu of one": "µs", "smaller share": ""},
        needs=frozenset([SHARED_PORT]),
        measure=two_processes,
        rounds=5,
        warm_up=False,
    ),
]
