"""What attackers spend, and what honest peers get meanwhile; and fleets that are slow, and redial."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.bench import Bench
from benchmarks.processes import ROOT
from benchmarks.scenario import Measure, Scenario
from benchmarks.subjects import MUTE, SILENT_ROLE, Options, Running, Subject

WINDOW = 1.0
"""Seconds of the detection window here: shorter than by default, and so is the run."""

FEW_FILES = 1024
"""What ``ulimit -n`` is where nobody has set it."""

ENDLESS = {"greeting_patience": math.inf, "opening_patience": math.inf}


class Peers:
    """A process of `benchmarks.fairness_peers`."""

    def __init__(self, bench: Bench, server: Running, kind: str, **options: object) -> None:
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.fairness_peers", kind),
                *(str(bench.place().folder), str(server.port), json.dumps(options)),
            ],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )

    def result(self) -> dict[str, Any]:
        """Wait for it to end, and take what it tells."""
        told, _ = self._popen.communicate(timeout=110)
        result: dict[str, Any] = json.loads(told)
        return result


def attacked(rate: float, addresses: int, *, answer: str = "", files: int = 0) -> Measure:
    """An attack, and honest peers of both kinds that come while it lasts."""

    def measure(bench: Bench, subject: Subject) -> Mapping[str, float]:
        seconds = 4 if bench.quick else 20
        options = Options(window=WINDOW, limits="{}", files=files)
        with bench.fresh_server(subject, options) as server:
            cpu = server.process.cpu()
            attack = Peers(
                bench,
                server,
                "attack",
                rate=rate,
                seconds=seconds + 5,
                addresses=addresses,
                answer=answer,
            )
            honest = Peers(bench, server, "honest", rate=4, seconds=seconds).result()
            spent = attack.result()
            used = server.process.cpu() - cpu
        return {
            "attack dials": spent["dials"],
            "attack bytes": spent["bytes"],
            "attack held": spent["held"],
            "attack cpu": 1e3 * spent["cpu"] / (seconds + 5),
            "server cpu": 1e3 * used / (seconds + 5),
            **_of("silent", honest, "server", WINDOW),
            **_of("speaking", honest, "client", 0.0),
        }

    return measure


def _of(name: str, honest: Mapping[str, Any], role: str, window: float) -> dict[str, float]:
    took = sorted(honest["took"][role])
    failed = honest["failed"][role]
    return {
        f"{name} in": 100 * len(took) / (len(took) + failed),
        f"{name} median": took[len(took) // 2] - window if took else float("inf"),
        f"{name} worst": took[-1] - window if took else float("inf"),
    }


def slow_fleet(role: str, delay: float) -> Measure:
    """A fleet whose devices are slow, on our server and on one with endless patience."""

    def measure(bench: Bench, subject: Subject) -> Mapping[str, float]:
        figures: dict[str, float] = {}
        times = []
        devices = 100 if bench.quick else 5000
        for patience in ({}, ENDLESS):
            # In a quick run about as many for each turn as in earnest.
            few = {"client_handshakes": 16, "server_handshakes": 60} if bench.quick else {}
            limits = json.dumps(patience | few)
            with bench.fresh_server(subject, Options(window=WINDOW, limits=limits)) as server:
                found = Peers(
                    bench,
                    server,
                    "fleet",
                    role=role,
                    devices=devices,
                    delay=delay,
                    backoff=0.5,
                    seconds=60,
                ).result()
            times.append(found["seconds"])
            if not figures:
                figures = {
                    "served": 100 * found["served"] / devices,
                    "seconds": found["seconds"],
                    "dials of each": found["dials"] / devices,
                }
        return {**figures, "against endless patience": times[0] / times[1]}

    return measure


UNITS = {
    "attack dials": "/s",
    "attack bytes": "B/s",
    "attack held": "",
    "attack cpu": "ms/s",
    "server cpu": "ms/s",
    "silent in": "%",
    "silent median": "s beyond the window",
    "silent worst": "s beyond the window",
    "speaking in": "%",
    "speaking median": "s",
    "speaking worst": "s",
}

SCENARIOS = [
    *(
        Scenario(
            name=name,
            about=about,
            units=UNITS,
            needs=frozenset([MUTE, SILENT_ROLE]),
            measure=measure,
            rounds=1,
            warm_up=False,
        )
        for name, about, measure in (
            (
                "fair-one-byte",
                "28 peers a second from one address that answer our ClientHello with one byte",
                attacked(28, 1, answer="16"),
            ),
            (
                "fair-one-byte-many",
                "280 peers a second from 250 addresses that answer our ClientHello with one byte",
                attacked(280, 250, answer="16"),
            ),
            (
                "fair-mute",
                "260 peers a second from one address that never answer, at ulimit -n 1024",
                attacked(260, 1, files=FEW_FILES),
            ),
            (
                "fair-mute-many",
                "260 peers a second from 250 addresses that never answer, at ulimit -n 1024",
                attacked(260, 250, files=FEW_FILES),
            ),
        )
    ),
    *(
        Scenario(
            name=f"fleet-{kind}",
            about=f"5,000 {kind} devices that take {delay:g} s to answer and redial after 0.5 s, "
            "until all are served",
            units={
                "served": "%",
                "seconds": "s",
                "dials of each": "",
                "against endless patience": "times",
            },
            needs=frozenset([MUTE, SILENT_ROLE]),
            measure=slow_fleet(role, delay),
            rounds=1,
            warm_up=False,
        )
        for kind, role, delay in (("silent", "server", 0.8), ("speaking", "client", 4.0))
    ),
]
