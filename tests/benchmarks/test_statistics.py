"""What a handful of rounds may conclude: `benchmarks.statistics`."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics import MAX_SPREAD, Summary, pairwise, quantile, summarise

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


VALUES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([3.0, 1.0, 2.0], 0.0, 1.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([3.0, 1.0, 2.0], 1.0, 3.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.25, 2.0),
        ([0.0, 10.0], 0.9, 9.0),
    ],
)
def test_a_quantile_lies_between_the_nearest_ranks(
    values: list[float], fraction: float, expected: float
) -> None:
    assert quantile(values, fraction) == pytest.approx(expected)


@pytest.mark.parametrize(("values", "fraction"), [([], 0.5), ([1.0], -0.1), ([1.0], 1.1)])
def test_a_quantile_of_nothing_or_out_of_range_is_an_error(
    values: list[float], fraction: float
) -> None:
    with pytest.raises(ValueError):
        quantile(values, fraction)


@given(VALUES)
def test_a_summary_lies_within_its_values(values: list[float]) -> None:
    summary = summarise(values)
    assert min(values) <= summary.low <= summary.median <= summary.high <= max(values)
    assert summary.rounds == len(values)


@given(VALUES, st.floats(0.001, 1000))
def test_a_spread_has_no_unit(values: list[float], factor: float) -> None:
    scaled = [value * factor for value in values]
    assert summarise(scaled).spread == pytest.approx(summarise(values).spread, abs=1e-6)


@pytest.mark.parametrize(
    ("summary", "spread", "conclusive"),
    [
        (Summary(median=10, low=10, high=10, rounds=3), 0.0, True),
        (Summary(median=10, low=9.5, high=10.5, rounds=3), 0.1, True),
        (Summary(median=10, low=9.5, high=10.5, rounds=2), 0.1, False),
        (Summary(median=10, low=8, high=12, rounds=9), 0.4, False),
        (Summary(median=0, low=0, high=0, rounds=3), 0.0, True),
        (Summary(median=0, low=-1, high=1, rounds=3), math.inf, False),
        (Summary(median=-10, low=-10.5, high=-9.5, rounds=3), 0.1, True),
    ],
)
def test_too_wide_a_spread_concludes_nothing(
    summary: Summary, spread: float, conclusive: bool
) -> None:
    assert summary.spread == pytest.approx(spread)
    assert summary.conclusive is conclusive
    assert MAX_SPREAD < 0.4


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that is busy in one round slows both down, and the ratio does not notice."""
    ours = [100.0, 300.0, 110.0, 105.0]
    theirs = [200.0, 600.0, 220.0, 210.0]
    ratio = pairwise(ours, theirs)
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    assert not summarise(ours).conclusive
    assert ratio.conclusive


@given(VALUES)
def test_a_figure_is_once_itself(values: list[float]) -> None:
    assert pairwise(values, values) == Summary(median=1, low=1, high=1, rounds=len(values))


@pytest.mark.parametrize(("values", "base"), [([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([], [])])
def test_what_does_not_pair_is_an_error(values: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError):
        pairwise(values, base)
