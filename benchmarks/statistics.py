"""What a handful of noisy rounds may conclude: medians, spreads, pairwise ratios.

Pure functions over numbers. Rounds are interleaved (every subject once in each
round), so a busy minute of the machine hits all subjects alike, and the ratio
of two figures *of the same round* is steadier than the ratio of their medians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

MAX_SPREAD = 0.15
"""Interquartile range over median from which a figure concludes nothing. Two
runs of the same program differ by 2 to 5 % on a quiet machine."""


@attrs.frozen
class Summary:
    """What several rounds say about one figure.

    Attributes:
        median: The middle of the rounds, in the figure's own unit.
        low: The first quartile.
        high: The third quartile.
        rounds: How many rounds there were.
    """

    median: float
    low: float
    high: float
    rounds: int

    @property
    def spread(self) -> float:
        """Interquartile range over median; infinite where the median is zero."""
        if self.high == self.low:
            return 0.0
        return (self.high - self.low) / abs(self.median) if self.median else math.inf

    @property
    def conclusive(self) -> bool:
        """Whether the rounds agree well enough, and are enough, to say anything."""
        return self.rounds >= 3 and self.spread <= MAX_SPREAD


def quantile(values: Sequence[float], fraction: float) -> float:
    """Interpolate linearly between the two nearest ranks.

    Args:
        values: At least one, in any order.
        fraction: From 0 (the least) to 1 (the greatest).

    Raises:
        ValueError: There are no values, or the fraction is out of range.
    """
    if not values:
        raise ValueError("no values, no quantile")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be from 0 to 1, not {fraction!r}")
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarise(values: Sequence[float]) -> Summary:
    """Sum up the rounds of one figure.

    Raises:
        ValueError: There are no values.
    """
    return Summary(
        median=quantile(values, 0.5),
        low=quantile(values, 0.25),
        high=quantile(values, 0.75),
        rounds=len(values),
    )


def pairwise(values: Sequence[float], base: Sequence[float]) -> Summary:
    """Sum up the ratios of the rounds of two figures, round by round.

    Raises:
        ValueError: They do not have the same number of rounds, or a base is zero.
    """
    if len(values) != len(base):
        raise ValueError(f"{len(values)} rounds do not pair with {len(base)}")
    if 0 in base:
        raise ValueError("a figure of zero is no base for a ratio")
    return summarise([value / other for value, other in zip(values, base, strict=True)])
