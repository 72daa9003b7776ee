"""The command in front of other programs: `proxy` beside relays, `exec` beside socat, several workers."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.scenario import Measure, Scenario
from benchmarks.scenarios.memory import slope
from benchmarks.subjects import (
    ECHO,
    EXEC,
    RELAY,
    RELAYED_SOURCE,
    SINK,
    SOURCE,
    WORKERS,
    Options,
    Subject,
)

MB = 1024 * 1024


def connections(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """Dial, handshake, one byte to the backend and back, close."""
    server = bench.server(subject)
    count = 60 if bench.quick else 250
    before = server.process.settled_cpu()
    bench.client.call("exchanges", port=server.port, count=count, in_flight=4)
    return {"cpu": 1e6 * (server.process.settled_cpu() - before) / count}


def bulk(handler: str) -> Measure:
    def measure(bench: Bench, subject: Subject) -> Mapping[str, float]:
        server = bench.server(subject, Options(handler=handler))
        size = (16 if bench.quick else 96) * MB
        before = server.process.settled_cpu()
        do = "send_bulk" if handler == SINK else "receive_bulk"
        bench.client.call(do, port=server.port, size=size, version="TLSv1_3")
        return {"rate": size / 1e6 / (server.process.settled_cpu() - before)}

    return measure


def idle(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """Connections that have carried a byte, both ways, and rest."""
    count = 100 if bench.quick else 400
    with bench.fresh_server(subject, Options(window=3600.0)) as server:
        return {"memory": slope(bench.client, server, subject, "used", count, files=2)}


def processes(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """A connection for each process: what all of them took, those that have ended included."""
    server = bench.server(subject)
    count = 20 if bench.quick else 100
    before = server.process.cpu_of_all()
    bench.client.call("exchanges", port=server.port, count=count, in_flight=2)
    return {"rate": count / (server.process.cpu_of_all() - before)}


def workers(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """What two workers could serve in a second, each with a CPU for itself, and what one could.

    The load takes CPU too, on the same machine; so what the clock says is of no
    use, and what each worker spent on its connections is.
    """
    count = 100 if bench.quick else 600
    rates: dict[int, float] = {}
    share = 0.0
    for number in (2, 1):
        with bench.fresh_server(subject, Options(workers=number)) as server:
            bench.client.call("exchanges", port=server.port, count=100, in_flight=8)
            server.process.settled_cpu()
            # Workers that have not begun yet when the port opens have by now.
            each = server.process.children() if number > 1 else [server.process.popen.pid]
            before = [server.process.cpu_of(pid) for pid in each]
            bench.client.call("exchanges", port=server.port, count=count, in_flight=8)
            server.process.settled_cpu()
            spent = [
                server.process.cpu_of(pid) - was for pid, was in zip(each, before, strict=True)
            ]
            rates[number] = number * count / sum(spent)
            share = min(spent) / sum(spent) if number > 1 else share
    return {"two": rates[2], "one": rates[1], "smaller share": share}


SCENARIOS = [
    Scenario(
        name="proxy-connection",
        about="CPU of a connection that is relayed: handshake, a byte there and back, close",
        units={"cpu": "µs"},
        needs=frozenset([RELAY, ECHO]),
        measure=connections,
        rounds=5,
    ),
    *(
        Scenario(
            name=f"proxy-{name}",
            about=f"megabytes that are relayed {way}, for each second of CPU, TLS 1.3",
            units={"rate": "MB/s"},
            needs=frozenset([RELAY, ability]),
            measure=bulk(handler),
            rounds=5,
            more_is_better=True,
        )
        for name, handler, ability, way in (
            ("receive", SINK, SINK, "to the backend"),
            ("send", SOURCE, RELAYED_SOURCE, "from the backend"),
        )
    ),
    Scenario(
        name="proxy-idle",
        about="resident memory of each of 400 relayed connections that have carried a byte and rest",
        units={"memory": "kB"},
        needs=frozenset([RELAY, ECHO]),
        measure=idle,
        rounds=3,
        warm_up=False,
    ),
    Scenario(
        name="exec",
        about="connections with a process of their own (cat), for each second of CPU of all of them",
        units={"rate": "1/s"},
        needs=frozenset([EXEC]),
        measure=processes,
        rounds=5,
        more_is_better=True,
    ),
    Scenario(
        name="workers",
        about="relayed connections for each second in which every worker has a CPU for itself",
        units={"two": "1/s", "one": "1/s", "smaller share": ""},
        needs=frozenset([WORKERS]),
        measure=workers,
        rounds=5,
        warm_up=False,
        more_is_better=True,
    ),
]
