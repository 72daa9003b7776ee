"""What policies cost: CPU for each decision, and memory and disk for each remembered peer."""

from __future__ import annotations

import itertools
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs

from trio_duplex.windows import (
    SILENT,
    ByNetwork,
    Conduct,
    Fixed,
    Learned,
    Outcome,
    PeerFacts,
    PeerMemory,
    WindowPolicy,
)

PEERS = 100_000
CALLS = 100_000  # in a round
AT_ONCE = 250  # calls that are timed together
NOW = 1.8e9
SILENCE = Outcome(conduct=Conduct.SILENT, admitted=True, waited=5.0)

POLICIES: dict[str, Callable[[], WindowPolicy]] = {
    "seconds": lambda: Fixed(5.0),
    "rules by network": lambda: ByNetwork({"10.1.0.0/16": SILENT, "10.2.0.0/16": 1.0}),
    "memory": PeerMemory,
    "learned": Learned,
    "rules, memory and learned": lambda: ByNetwork(
        {"10.200.0.0/16": SILENT}, otherwise=PeerMemory(otherwise=Learned())
    ),
}
GOAL_MICROSECONDS, GOAL_MEMORY, GOAL_DISK = 2.0, 400.0, 100.0


@attrs.frozen(kw_only=True)
class Cost:
    """What one policy costs.

    Attributes:
        policy: Its name.
        peers: How many different peers connect in turn.
        choose: Microseconds of CPU for a decision.
        learn: The same for an outcome.
    """

    policy: str
    peers: int
    choose: float
    learn: float

    def __str__(self) -> str:
        return (
            f"{self.policy} ({self.peers} peers): {self.choose:.2f} µs a decision "
            f"(goal {GOAL_MICROSECONDS:g}), {self.learn:.2f} an outcome"
        )


@attrs.frozen(kw_only=True)
class Size:
    """What a remembered peer takes.

    Attributes:
        peers: How many were remembered.
        memory: Bytes for each.
        disk: Bytes of the saved file for each.
    """

    peers: int
    memory: float
    disk: float

    def __str__(self) -> str:
        return (
            f"a remembered peer of {self.peers}: {self.memory:.0f} B in memory (goal {GOAL_MEMORY:g}), "
            f"{self.disk:.0f} B on disk (goal {GOAL_DISK:g})"
        )


def hosts(count: int) -> Iterator[str]:
    """Give so many addresses, half of them IPv4."""
    for number in range(count):
        middle, last = number >> 8 & 255, number & 255
        if number % 2:
            yield f"2001:db8:{(number >> 16) + 1:x}:{number & 0xFFFF:x}:5054:ff:fe12:3456"
        else:
            yield f"10.{number >> 16}.{middle}.{last}"


def cost(name: str, peers: int, rounds: int = 5) -> Cost:
    """Let peers connect in turn, again and again; the quickest round counts."""
    policy = POLICIES[name]()
    for _ in range(3):
        for facts in facts_of(hosts(peers)):
            policy.learn(facts, SILENCE)
    choose, learn = policy.choose, policy.learn
    return Cost(
        policy=name,
        peers=peers,
        choose=min(_microseconds(choose, peers) for _ in range(rounds)),
        learn=min(_microseconds(lambda facts: learn(facts, SILENCE), peers) for _ in range(rounds)),
    )


def facts_of(some: Iterable[str]) -> list[PeerFacts]:
    """Make the facts of these peers, as at an accept."""
    return [
        PeerFacts(remote_address=(host, 40_000), round_trip=0.001 * (number % 300), now=NOW)
        for number, host in enumerate(some)
    ]


def _microseconds(call: Callable[[PeerFacts], object], peers: int) -> float:
    spent = 0.0
    times = max(1, CALLS // peers)
    for _ in range(times):
        everybody = hosts(peers)
        # A policy is asked right after the facts were made, so they are in the processor's cache then.
        while some := facts_of(itertools.islice(everybody, AT_ONCE)):
            began = time.process_time()
            for facts in some:
                call(facts)
            spent += time.process_time() - began
    return 1e6 * spent / (times * peers)


def size(peers: int) -> Size:
    """Remember so many peers, and weigh them."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        memory = PeerMemory(most=peers)
        for _ in range(3):
            for host in hosts(peers):  # text of its own each time, as a socket gives it
                memory.learn(PeerFacts(remote_address=(host, 40_000), now=NOW), SILENCE)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "peers.json")
        memory.save(file)
        disk = file.stat().st_size
    return Size(peers=peers, memory=(after - before) / peers, disk=disk / peers)
