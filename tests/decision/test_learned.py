"""The learned window and its promise: `trio_duplex._decision.learned`."""

from __future__ import annotations

import math
import random
from functools import cache
from itertools import product
from typing import Any

import pytest

from trio_duplex._decision.learned import REST
from trio_duplex.windows import Conduct, Learned, Outcome, PeerFacts

pytestmark = pytest.mark.slow


def peer(number: int = 1, *, now: float = 0.0, rtt: float | None = 0.05) -> PeerFacts:
    host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return PeerFacts(remote_address=(host, 4711), round_trip=rtt, now=now)


def spoke(waited: float = 0.01, *, admitted: bool = True) -> Outcome:
    return Outcome(conduct=Conduct.SPOKE, admitted=admitted, waited=waited)


def late(*, admitted: bool, waited: float = 6.0) -> Outcome:
    return Outcome(conduct=Conduct.LATE, admitted=admitted, waited=waited)


def shrunk(learned: Learned, votes: int = 5_000) -> Learned:
    for number in range(votes):
        learned.learn(peer(number), spoke())
    return learned


def test_begins_at_the_cap_and_shrinks_to_the_floor() -> None:
    learned = Learned(error=1e-2)
    assert learned.choose(peer()).seconds == 5.0
    shrunk(learned)
    assert learned.choose(peer()).seconds == learned.seconds == 0.5


def test_late_peer_that_is_admitted_doubles_it() -> None:
    learned = shrunk(Learned(error=1e-2))
    learned.learn(peer(10_001), late(admitted=True))
    assert learned.seconds == 1.0
    assert learned.late_votes == 1
    for number in range(10):
        learned.learn(peer(20_000 + number), late(admitted=True))
    assert learned.seconds == 5.0


def test_peer_in_time_for_a_longer_window_may_be_late_for_the_learned_one() -> None:
    learned = shrunk(Learned(error=1e-2))
    learned.learn(peer(10_001), spoke(waited=0.7))
    assert learned.seconds == 1.0


@pytest.mark.parametrize("outcome", [spoke(admitted=False), late(admitted=False)])
def test_strangers_have_no_vote(outcome: Outcome) -> None:
    learned = Learned(error=1e-2)
    before = learned.seconds
    for number in range(1_000):
        learned.learn(peer(number), outcome)
    assert learned.seconds == before
    assert learned.votes == 0


def test_silent_peers_have_no_vote() -> None:
    learned = Learned()
    learned.learn(peer(), Outcome(conduct=Conduct.SILENT, admitted=True, waited=5.0))
    assert learned.votes == 0


def test_late_peer_that_aborted_votes_once_it_is_admitted() -> None:
    learned = shrunk(Learned(error=1e-2))
    learned.learn(peer(10_001), late(admitted=False))
    assert learned.seconds == 0.5
    learned.learn(peer(10_001), spoke())
    assert learned.seconds == 1.0


def test_one_vote_per_address_and_hour() -> None:
    learned = Learned(error=1e-2)
    for second in range(0, 3600, 10):
        learned.learn(peer(now=float(second)), spoke())
    assert learned.votes == 1
    learned.learn(peer(now=REST), spoke())
    assert learned.votes == 2


@pytest.mark.parametrize("rtt", [None])
def test_cap_applies_if_the_round_trip_is_unknown(rtt: float | None) -> None:
    assert shrunk(Learned(error=1e-2)).choose(peer(rtt=rtt)).seconds == 5.0


@cache
def many_peers() -> list[PeerFacts]:
    return [peer(number) for number in range(20_000)]


@pytest.mark.one_python
@pytest.mark.parametrize("error", [1e-2, 1e-3])
@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        *product(["lognormal", "two-point", "pareto", "growing"], range(2)),
        ("adversary", 0),  # which takes no chances
    ],
)
def test_rate_of_wrong_roles_is_bounded_for_any_distribution_below_the_cap(
    seed: int, error: float, kind: str
) -> None:
    rng, learned, wrong = random.Random(seed), Learned(error=error, floor=0.5), 0
    count = len(many_peers())
    for number, who in enumerate(many_peers()):
        match kind:
            case "lognormal":
                delay = rng.lognormvariate(-2, 1)
            case "two-point":
                delay = 0.01 if rng.random() > error else 4.9
            case "pareto":
                delay = 0.01 * rng.paretovariate(0.8)
            case "growing":
                delay = 4.9 * number / count * rng.random()
            case _:  # the worst that delays below the cap can do: each just above the window
                delay = learned.seconds * 1.001
        delay = min(delay, 4.999)
        choice = learned.choose(who)
        is_late = delay > choice.seconds
        wrong += is_late
        learned.learn(who, late(admitted=True) if is_late else spoke(delay))
    assert wrong <= error * count + math.log2(2 * 5.0 / 0.5)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"error": 0}, ValueError),
        ({"error": 0.5}, ValueError),
        ({"error": "1e-3"}, TypeError),
        ({"error": True}, TypeError),
        ({"floor": 0}, ValueError),
        ({"floor": 6}, ValueError),
        ({"cap": math.inf}, ValueError),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Learned(**arguments)
