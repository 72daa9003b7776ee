"""A model of peers: who they are, how far away, and when their first byte arrives.

The numbers are measured where they could be (docs: *Choosing a window*): most TLS stacks speak
within 5 ms; a lost ClientHello comes again after the round trip and max(0.2 s, 2 round trips),
Linux's retransmission timer, which doubles each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import attrs

from trio_duplex.windows import PeerFacts

SILENT, SPEAKING, MIXED = "silent", "speaking", "mixed"


@attrs.frozen(kw_only=True)
class World:
    """What the network and the peers are like.

    Attributes:
        addresses: How many addresses connect.
        connections: How many connections they make in all.
        loss: The rate at which packets are lost.
        burst: The rate at which the next is lost too, after one was.
        starved: The rate of speaking peers that have no CPU for two seconds.
        slow: The rate of speaking peers that start slowly, such as a cold JVM
            (0.2 s in the median).
        mixed: The rate of addresses behind which both kinds live.
        seconds_between: Wall-clock seconds from one connection to the next; an address votes
            once an hour.
        seed: Of the random numbers: the same world for every policy.
    """

    addresses: int = 2_000
    connections: int = 40_000
    loss: float = 0.01
    burst: float = 0.01
    starved: float = 0.001
    slow: float = 0.0
    mixed: float = 0.02
    seconds_between: float = 1.0
    seed: int = 1


@attrs.frozen(kw_only=True)
class Attempt:
    """One connection, as the listener meets it.

    Attributes:
        facts: What a policy may go by.
        kind: The kind of the address.
        delay: Seconds from accept to the first byte; None for a silent peer.
    """

    facts: PeerFacts
    kind: str
    delay: float | None


def retransmission(round_trip: float) -> float:
    """Seconds after which Linux sends a lost first segment again (RFC 6298, with a floor of 0.2 s)."""
    return round_trip + max(0.2, 2 * round_trip)


def attempts(world: World) -> Iterator[Attempt]:
    """Give the connections of a world, in the order in which they are accepted."""
    rng = random.Random(world.seed)
    addresses: list[tuple[str, str, float]] = []
    for number in range(world.addresses):
        draw = rng.random()
        share = (1 - world.mixed) / 2
        kind = SILENT if draw < share else SPEAKING if draw < 2 * share else MIXED
        round_trip = math.exp(rng.uniform(math.log(0.001), math.log(0.4)))
        host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        addresses.append((host, kind, round_trip))
    for number in range(world.connections):
        # Some addresses come often, most seldom.
        host, kind, round_trip = addresses[int(rng.random() ** 1.3 * world.addresses)]
        speaks = kind == SPEAKING or (kind == MIXED and rng.random() < 0.5)
        yield Attempt(
            facts=PeerFacts(
                remote_address=(host, 40_000),
                round_trip=measured_round_trip(rng, world, round_trip),
                now=number * world.seconds_between,
            ),
            kind=kind,
            delay=first_byte_delay(rng, world, round_trip) if speaks else None,
        )


def measured_round_trip(rng: random.Random, world: World, round_trip: float) -> float | None:
    """What the kernel tells of the round trip at accept; None if the SYN-ACK was sent again."""
    resent = rng.random() < 2 * world.loss  # the SYN-ACK or its ACK was lost
    measured = round_trip * (1 + rng.expovariate(20))
    return None if resent else measured


def first_byte_delay(rng: random.Random, world: World, round_trip: float) -> float:
    """Seconds from our accept to the first byte of a speaking peer."""
    delay = rng.lognormvariate(math.log(0.001), 1.0) + rng.expovariate(500)
    if rng.random() < world.starved:
        delay += 2.0
    if rng.random() < world.slow:
        delay += rng.lognormvariate(math.log(0.2), 0.7)
    chance, wait = world.loss, retransmission(round_trip)
    while rng.random() < chance:
        delay += wait
        wait, chance = 2 * wait, max(chance, world.burst)
    return delay
