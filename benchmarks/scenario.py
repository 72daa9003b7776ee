"""What a scenario is: a measurement of one subject in one round, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from benchmarks.bench import Bench
from benchmarks.subjects import Subject

Measure = Callable[[Bench, Subject], Mapping[str, float]]


@attrs.frozen(kw_only=True)
class Scenario:
    """One thing that is measured of every subject that is able to do it.

    Attributes:
        name: As on the command line and in the results.
        about: What is measured, and how: one sentence.
        units: The figures that `measure` gives, and the unit of each.
        needs: The abilities that a subject must have.
        measure: One round for one subject. It is called once for each subject
            in each round.
        rounds: How often, in a full run.
        warm_up: Whether the first round is thrown away.
        more_is_better: Whether the figures are rates rather than costs.
        slow: Whether it is left out of ``--quick``: its length is its point.
    """

    name: str
    about: str
    units: Mapping[str, str]
    needs: frozenset[str]
    measure: Measure
    rounds: int = 7
    warm_up: bool = True
    more_is_better: bool = False
    slow: bool = False

    def can_measure(self, subject: Subject) -> bool:
        """Whether the subject is able to do what is measured."""
        return self.needs <= subject.abilities
