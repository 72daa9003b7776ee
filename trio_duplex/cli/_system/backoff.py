"""How long to wait before the next try: longer after each failure, and at random."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs


@attrs.define(kw_only=True)
class Backoff:
    """Counts failures, and gives a delay with full jitter.

    A hub that restarts is dialled by its whole fleet at once. Delays that are
    drawn evenly from 0 to a bound, which doubles, spread the fleet out; fixed
    ones would not.

    Args:
        first: The bound after one failure, in seconds.
        most: The bound that it grows to, in seconds.
        uniform: Draws a number between two.
    """

    first: float
    most: float
    uniform: Callable[[float, float], float] = random.uniform
    failures: int = attrs.field(init=False, default=0)

    def failed(self, *, after: int = 0) -> None:
        """Count a failure.

        Args:
            after: How many had come before, if a success since then has turned
                out to be none.
        """
        self.failures = max(self.failures, after) + 1

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0

    @property
    def bound(self) -> float:
        """The most that `delay` may be now, in seconds; 0 without a failure."""
        if not self.failures:
            return 0.0
        # The exponent is bounded, because a float is.
        return float(min(self.most, self.first * 2.0 ** min(self.failures - 1, 60)))

    def delay(self) -> float:
        """Seconds to wait before the next try."""
        return self.uniform(0.0, self.bound) if self.failures else 0.0
