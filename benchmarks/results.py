"""The figures of a run, as they are kept in a file. Pure, but for reading and writing it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.statistics import Summary, pairwise, summarise

FORMAT = 1
"""Of the file; a reader refuses others."""


@attrs.frozen(order=True)
class Key:
    """Which figure: of which scenario, called what, of which subject."""

    scenario: str
    figure: str
    subject: str


@attrs.define
class Run:
    """One run: where and when, and the rounds of every figure.

    Attributes:
        machine: What `machine.describe` says.
        units: The unit of each figure, by scenario and figure.
        rounds: The values of each figure, in the order of the rounds.
        skipped: Subjects that were not measured, and why.
    """

    machine: Mapping[str, str]
    units: dict[str, dict[str, str]] = attrs.field(factory=dict)
    rounds: dict[Key, list[float]] = attrs.field(factory=dict)
    skipped: dict[str, str] = attrs.field(factory=dict)

    def add(self, scenario: str, subject: str, figures: Mapping[str, float]) -> None:
        """Add one round of one subject."""
        for figure, value in figures.items():
            self.rounds.setdefault(Key(scenario, figure, subject), []).append(value)

    def drop(self, scenario: str, subject: str) -> None:
        """Forget all rounds of a subject in a scenario."""
        for key in [
            key for key in self.rounds if (key.scenario, key.subject) == (scenario, subject)
        ]:
            del self.rounds[key]

    def summary(self, key: Key) -> Summary | None:
        """Sum up a figure, if it was measured."""
        values = self.rounds.get(key)
        return summarise(values) if values else None

    def ratio(self, key: Key, base: Key) -> Summary | None:
        """Pair the rounds of two figures, if both were measured."""
        values, others = self.rounds.get(key), self.rounds.get(base)
        if not values or not others or len(values) != len(others) or 0 in others:
            return None
        return pairwise(values, others)

    def subjects(self, scenario: str, figure: str) -> Sequence[str]:
        """Who was measured, in the order of measuring."""
        return [
            key.subject for key in self.rounds if (key.scenario, key.figure) == (scenario, figure)
        ]

    def scenarios(self) -> Sequence[str]:
        """What was measured, in that order."""
        return list(dict.fromkeys(key.scenario for key in self.rounds))

    def figures(self, scenario: str) -> Sequence[str]:
        """The figures of a scenario, in order."""
        return list(dict.fromkeys(key.figure for key in self.rounds if key.scenario == scenario))

    def to_json(self) -> str:
        """Write it as JSON."""
        return json.dumps(
            {
                "format": FORMAT,
                "machine": dict(self.machine),
                "units": self.units,
                "skipped": self.skipped,
                "rounds": [
                    {**attrs.asdict(key), "values": values} for key, values in self.rounds.items()
                ],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Run:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is of another format, or none of ours.
        """
        data: Any = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a file of results in format {FORMAT}")
        run = cls(machine=data["machine"], units=data["units"], skipped=data["skipped"])
        for entry in data["rounds"]:
            values = entry.pop("values")
            run.rounds[Key(**entry)] = [float(value) for value in values]
        return run

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a file; see `from_json`."""
        return cls.from_json(path.read_text())
