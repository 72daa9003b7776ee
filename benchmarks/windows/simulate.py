"""Run windows and policies over a world of peers, and tell what silent peers wait and who gets the wrong role."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import attrs

from benchmarks.windows.model import Attempt, World, attempts
from trio_duplex.windows import (
    Choice,
    Conduct,
    Fixed,
    Learned,
    Outcome,
    PeerMemory,
    WindowPolicy,
)

FIXED = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0)

POLICIES: dict[str, Callable[[], WindowPolicy]] = {
    **{f"fixed {seconds:g} s": (lambda seconds=seconds: Fixed(seconds)) for seconds in FIXED},  # type: ignore[misc]
    "memory": PeerMemory,
    "learned": Learned,
    "memory, learned first": lambda: PeerMemory(otherwise=Learned()),
}


@attrs.frozen(kw_only=True)
class Result:
    """What a policy did to a world.

    Attributes:
        policy: Its name.
        median: Seconds that a silent peer waited, in the median.
        mean: The same on average.
        p90: The same that 90 % did not exceed.
        first: The median of the first contacts of an address.
        known: The median of all other contacts.
        speaking: How many connections spoke.
        wrong: How many of them got the wrong role.
        wrong_known: Those of them whose address was given a short window.
        microseconds: CPU for each choice and its outcome.
    """

    policy: str
    median: float
    mean: float
    p90: float
    first: float
    known: float
    speaking: int
    wrong: int
    wrong_known: int
    microseconds: float

    @property
    def wrong_rate(self) -> float:
        """Wrong roles for each speaking connection."""
        return self.wrong / self.speaking if self.speaking else 0.0


def simulate(name: str, policy: WindowPolicy, connections: Sequence[Attempt]) -> Result:
    """Let a policy choose the window of each connection, and tell it what became of it."""
    waits: list[float] = []
    first: list[float] = []
    known: list[float] = []
    speaking = wrong = wrong_known = 0
    seen: set[object] = set()
    began = time.process_time()
    for attempt in connections:
        choice = policy.choose(attempt.facts)
        assert isinstance(choice, Choice)
        if attempt.delay is None:
            policy.learn(
                attempt.facts,
                Outcome(conduct=Conduct.SILENT, admitted=True, waited=choice.seconds),
            )
            waits.append(choice.seconds)
            (known if attempt.facts.key in seen else first).append(choice.seconds)
        else:
            late = attempt.delay > choice.seconds
            speaking += 1
            wrong += late
            wrong_known += late and choice.remembered
            conduct = Conduct.LATE if late else Conduct.SPOKE
            # What a server tells: the opening at once, and the admission where there was one.
            for admitted in (False,) if late else (False, True):
                outcome = Outcome(conduct=conduct, admitted=admitted, waited=attempt.delay)
                policy.learn(attempt.facts, outcome)
        seen.add(attempt.facts.key)
    spent = time.process_time() - began
    waits.sort()
    return Result(
        policy=name,
        median=statistics.median(waits),
        mean=statistics.fmean(waits),
        p90=waits[int(0.9 * (len(waits) - 1))],
        first=statistics.median(first),
        known=statistics.median(known),
        speaking=speaking,
        wrong=wrong,
        wrong_known=wrong_known,
        microseconds=1e6 * spent / len(connections),
    )


def compare(world: World, names: Iterable[str] = POLICIES) -> list[Result]:
    """Run each policy over the same connections."""
    connections = [*attempts(world)]
    return [simulate(name, POLICIES[name](), connections) for name in names]


def table(results: Iterable[Result]) -> str:
    """Write results as a Markdown table."""
    lines = [
        "| window | silent peers wait: median | mean | 90 % | first contact | later | wrong roles in 10,000 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {result.policy} | {result.median:.2f} s | {result.mean:.2f} s | {result.p90:.2f} s "
        f"| {result.first:.2f} s | {result.known:.2f} s | {10_000 * result.wrong_rate:.1f} |"
        for result in results
    ]
    return "\n".join(lines)
