"""Delays grow, are drawn anew each time, and end with a success."""

from __future__ import annotations

import math

import pytest

from trio_duplex.cli._system.backoff import Backoff


def test_no_failure_no_delay() -> None:
    assert Backoff(first=0.5, most=30).delay() == 0


def test_bound_doubles_up_to_the_most() -> None:
    backoff = Backoff(first=0.5, most=3, uniform=lambda _, high: high)
    delays: list[float] = []
    for _ in range(5):
        backoff.failed()
        delays.append(backoff.delay())
    assert delays == [0.5, 1, 2, 3, 3]
    backoff.succeeded()
    assert backoff.delay() == 0
    backoff.failed()
    assert backoff.delay() == 0.5


def test_jitter_is_full() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    backoff = Backoff(first=2, most=30, uniform=draw)
    backoff.failed()
    assert backoff.delay() == 0
    assert drawn == [(0, 2)]


def test_two_agents_do_not_dial_at_the_same_time() -> None:
    one, other = Backoff(first=1, most=30), Backoff(first=1, most=30)
    for backoff in (one, other):
        backoff.failed()
    assert [one.delay() for _ in range(5)] != [other.delay() for _ in range(5)]


def test_success_that_was_none_is_forgotten() -> None:
    backoff = Backoff(first=1, most=100, uniform=lambda _, high: high)
    for _ in range(3):
        backoff.failed()
    before = backoff.failures
    backoff.succeeded()
    backoff.failed(after=before)
    assert backoff.delay() == 8


@pytest.mark.parametrize("most", [30.0, math.inf])
def test_many_failures_are_no_overflow(most: float) -> None:
    backoff = Backoff(first=0.5, most=most)
    for _ in range(5_000):
        backoff.failed()
    assert 0 <= backoff.delay() <= most
