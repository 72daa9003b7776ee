"""What we want to reach: each goal a ratio of two figures, or a figure, with a bound."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence

import attrs

from benchmarks.costs import GROUPS, INTERMEDIATES
from benchmarks.results import Key, Run
from benchmarks.statistics import Summary

NAMES = {"trio": "bare Trio", "anyio": "AnyIO on Trio", "haproxy": "HAProxy"}

MIN_ROUNDS = 3
"""Rounds that a ratio needs; fewer say nothing about the noise in it."""


class Verdict(enum.Enum):
    """How a goal stands."""

    MET = "met"
    MISSED = "MISSED"
    DOUBTFUL = "too few rounds, or too far apart, to tell"
    UNKNOWN = "not measured"


@attrs.frozen
class Goal:
    """A bound on a figure, or on the ratio of two.

    Attributes:
        about: What it says.
        key: The figure.
        bound: The bound.
        base: What it is divided by; None to bound the figure itself.
        at_least: Whether the bound is a lower one.
    """

    about: str
    key: Key
    bound: float
    base: Key | None = None
    at_least: bool = False

    def measured(self, run: Run) -> Summary | None:
        """The ratio or figure that counts."""
        if self.base is None:
            return run.summary(self.key)
        return run.ratio(self.key, self.base)

    def holds(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    def verdict(self, run: Run) -> Verdict:
        """How it stands: by the median, unless the quartiles disagree about it widely."""
        summary = self.measured(run)
        if summary is None:
            return Verdict.UNKNOWN
        met = self.holds(summary.median)
        if self.base is not None and summary.rounds < MIN_ROUNDS:
            return Verdict.DOUBTFUL
        agreed = self.holds(summary.low) == self.holds(summary.high) == met
        if not agreed and not summary.conclusive:
            return Verdict.DOUBTFUL
        return Verdict.MET if met else Verdict.MISSED

    @property
    def sign(self) -> str:
        """The bound as text."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


def _against(
    other: str, scenario: str, figure: str, bound: float, about: str, *, at_least: bool = False
) -> Goal:
    return Goal(
        about, Key(scenario, figure, "duplex"), bound, Key(scenario, figure, other), at_least
    )


def _bulk() -> Iterator[Goal]:
    for way, bounds in (
        ("receive", {"trio": 1.5, "anyio": 1.05, "haproxy": 1.2}),
        ("send", {"trio": 1.2, "anyio": 0.95}),
    ):
        for version in ("1.2", "1.3"):
            for other, bound in bounds.items():
                yield _against(
                    other,
                    f"bulk-{way}-tls{version}",
                    "rate",
                    bound,
                    f"bulk {way}, TLS {version}, against {NAMES[other]}",
                    at_least=True,
                )


def _echo() -> Iterator[Goal]:
    for other, bound in (("trio", 0.60), ("anyio", 0.95)):
        about = f"CPU for an echo of 100 bytes, against {NAMES[other]}"
        yield _against(other, "echo", "cpu", bound, about)
    yield _against("trio", "echo", "p99", 0.85, "p99 of that echo, against bare Trio")


def _fairness() -> Iterator[Goal]:
    for scenario, about in (
        ("fair-one-byte", "beside 28 one-byte answers a second"),
        ("fair-one-byte-many", "beside 280 of them from 250 addresses"),
        ("fair-mute", "beside 260 mute peers a second from one address"),
        ("fair-mute-many", "beside 260 mute peers a second from 250 addresses"),
    ):
        for kind in ("silent", "speaking"):
            served = Key(scenario, f"{kind} in", "duplex")
            yield Goal(f"{kind} peers that get in, {about}, %", served, 100, at_least=True)
    worst = Key("fair-one-byte", "silent worst", "duplex")
    yield Goal("the slowest silent peer, beyond its window, s", worst, 2.0)
    for kind in ("silent", "speaking"):
        fleet = f"fleet-{kind}"
        served = Key(fleet, "served", "duplex")
        yield Goal(f"{kind} devices of a slow fleet that are served, %", served, 100, at_least=True)
        times = Key(fleet, "against endless patience", "duplex")
        yield Goal("the time of all, against a server with endless patience", times, 2.0)


def _costs() -> Iterator[Goal]:
    for role in ("server", "client"):
        for group in GROUPS:
            key = Key("costs", f"{role}: {group}", "duplex")
            yield Goal(f"as TLS {role}, a hello for {group} beyond an ordinary one, ms", key, 2.0)
        for length in INTERMEDIATES:
            key = Key("costs", f"{role}: {length} intermediates", "duplex")
            yield Goal(f"as TLS {role}, a chain of {length} intermediates likewise, ms", key, 5.0)


GOALS: Sequence[Goal] = (
    _against("trio", "handshake", "cpu", 0.80, "CPU per handshake, against bare Trio"),
    Goal(
        "the same, both without session tickets",
        Key("handshake", "cpu", "duplex"),
        0.95,
        Key("handshake", "cpu", "trio-no-tickets"),
    ),
    _against("asyncio", "handshake", "cpu", 1.00, "CPU per handshake, against asyncio"),
    _against("uvloop", "handshake", "cpu", 1.15, "CPU per handshake, against uvloop"),
    Goal(
        "CPU per handshake, against the OpenSSL floor",
        Key("handshake", "cpu", "duplex"),
        1.7,
        Key("handshake-floor", "cpu", "floor"),
    ),
    Goal("memory per silent peer of 5,000, kB", Key("memory-pending", "memory", "duplex"), 0.6),
    Goal("CPU per accepted and pending peer, µs", Key("crowd", "cpu", "duplex"), 25),
    Goal("memory per silent peer of 15,000, kB", Key("crowd", "memory", "duplex"), 0.6),
    _against(
        "trio", "memory-idle", "memory", 0.90, "memory per idle connection, against bare Trio"
    ),
    *_bulk(),
    *_echo(),
    _against(
        "trio",
        "accept-to-handler",
        "p99",
        1.0,
        "accept-to-handler p99 at 200 handshakes/s, against bare Trio",
    ),
    _against(
        "trio", "latency", "p99", 1.0, "dial-to-echo p99 at 200 handshakes/s, against bare Trio"
    ),
    Goal(
        "CPU per handshake beside 10,000 open, against beside 100",
        Key("growth", "10,000", "duplex"),
        1.2,
        Key("growth", "100", "duplex"),
    ),
    Goal(
        "CPU per handshake of two processes on one port, against one",
        Key("two-processes", "cpu of two", "duplex"),
        1.05,
        Key("two-processes", "cpu of one", "duplex"),
    ),
    Goal(
        "the smaller share of the two processes",
        Key("two-processes", "smaller share", "duplex"),
        0.40,
        at_least=True,
    ),
    Goal(
        "CPU per proxied connection, against stunnel",
        Key("proxy-connection", "cpu", "proxy"),
        1.0,
        Key("proxy-connection", "cpu", "stunnel"),
    ),
    *(
        Goal(
            f"bulk per CPU second, proxied {way} the backend, against HAProxy",
            Key(f"proxy-{name}", "rate", "proxy"),
            0.7,
            Key(f"proxy-{name}", "rate", "haproxy"),
            at_least=True,
        )
        for name, way in (("receive", "to"), ("send", "from"))
    ),
    Goal(
        "memory per idle proxied connection, against stunnel",
        Key("proxy-idle", "memory", "proxy"),
        1.0,
        Key("proxy-idle", "memory", "stunnel"),
    ),
    Goal(
        "processes per CPU second, exec against socat",
        Key("exec", "rate", "exec"),
        0.5,
        Key("exec", "rate", "socat"),
        at_least=True,
    ),
    Goal(
        "connections of two workers on two CPUs, against one",
        Key("workers", "two", "proxy"),
        1.7,
        Key("workers", "one", "proxy"),
        at_least=True,
    ),
    Goal(
        "a healthy client's p99 beside 15,000 silent peers, against alone",
        Key("crowd", "p99 beside", "duplex"),
        1.5,
        Key("crowd", "p99 before", "duplex"),
    ),
    Goal("memory under 500 mute peers a second, MB", Key("mute", "memory", "duplex"), 100),
    Goal(
        "a speaking client's p99 beside them, against before",
        Key("mute", "p99 beside", "duplex"),
        1.5,
        Key("mute", "p99 before", "duplex"),
    ),
    Goal(
        "the same, with gc.set_threshold as docs/limits advises",
        Key("mute", "p99 beside", "duplex-calm"),
        2.0,
        Key("mute", "p99 before", "duplex-calm"),
    ),
    Goal("files left open after them", Key("mute", "files left", "duplex"), 0),
    Goal("files left open after garbage", Key("garbage", "files left", "duplex"), 0),
    Goal("log lines for 20,000 pieces of garbage", Key("garbage", "log lines", "duplex"), 100),
    *_fairness(),
    *_costs(),
)
