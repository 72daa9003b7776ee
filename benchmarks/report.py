"""What a run says, as text: tables, goals, and the comparison with another run. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from benchmarks.goals import GOALS, Goal, Verdict
from benchmarks.results import Key, Run
from benchmarks.statistics import Summary

MOST_COLUMNS = 6
"""How many figures a table shows beside each other; a page is some 90 letters wide."""

BASE = "duplex"
"""Whom the others are compared with, in the tables."""


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def shown(summary: Summary) -> str:
    """The median, and the quartiles that it lies between."""
    if summary.rounds == 1:
        return f"{number(summary.median)} (once)"
    return f"{number(summary.median)} ({number(summary.low)} to {number(summary.high)})"


def scenario_table(run: Run, scenario: str) -> Iterator[str]:
    """The figures of one scenario, a line for each subject and figure."""
    for figure in run.figures(scenario):
        unit = run.units.get(scenario, {}).get(figure, "")
        yield f"  {figure}{f', {unit}' if unit else ''}"
        for subject in run.subjects(scenario, figure):
            key = Key(scenario, figure, subject)
            summary = run.summary(key)
            assert summary is not None
            ratio = run.ratio(key, Key(scenario, figure, BASE))
            times = f"{number(ratio.median)} x" if ratio and subject != BASE else ""
            doubt = "" if summary.conclusive or summary.rounds < 3 else "  spread too wide to tell"
            yield f"    {subject:<16} {shown(summary):<34} {times:>9}{doubt}"


def goal_line(goal: Goal, run: Run) -> str:
    """One goal, and how it stands."""
    verdict = goal.verdict(run)
    summary = goal.measured(run)
    value = shown(summary) if summary else ""
    return f"  {goal.about:<66} {goal.sign:>7}  {value:<24} {verdict.value}"


def report(run: Run, about: Mapping[str, str]) -> str:
    """Everything that a run says.

    Args:
        run: The run.
        about: What each scenario measures, by name.
    """
    lines = [f"{name}: {value}" for name, value in run.machine.items()]
    for subject, reason in run.skipped.items():
        lines.append(f"SKIPPED {subject}: {reason}")
    for scenario in run.scenarios():
        lines += ["", f"{scenario}: {about.get(scenario, '')}", *scenario_table(run, scenario)]
    goals = [goal for goal in GOALS if goal.key.scenario in run.scenarios()]
    lines += ["", "Goals", *(goal_line(goal, run) for goal in goals)]
    missed = [goal for goal in goals if goal.verdict(run) is Verdict.MISSED]
    lines.append(f"  missed: {len(missed)} of {len(goals)}")
    if left_out := len(GOALS) - len(goals):
        lines.append(f"  {left_out} goals are of other scenarios")
    return "\n".join(lines)


def markdown(run: Run, about: Mapping[str, str]) -> str:
    """The same as tables in Markdown, for the docs; `report` says what the arguments are."""
    lines = ["## Where", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in run.machine.items()]
    lines += [f"| not measured: {name} | {reason} |" for name, reason in run.skipped.items()]
    lines += ["", "## Goals", "", "| figure | goal | measured | verdict |", "|---|---|---|---|"]
    for goal in GOALS:
        summary = goal.measured(run)
        value = shown(summary) if summary else ""
        lines.append(f"| {goal.about} | {goal.sign} | {value} | {goal.verdict(run).value} |")
    lines += ["", "## Figures"]
    for scenario in run.scenarios():
        lines += [
            "",
            f"**{scenario}**: {about.get(scenario, '')}",
            "",
            *_scenario_rows(run, scenario),
        ]
    return "\n".join([*lines, ""])


def _scenario_rows(run: Run, scenario: str) -> Iterator[str]:
    """A row for each subject; or for each figure, if there are too many of them for columns."""
    figures = run.figures(scenario)
    heads = [_head(run, scenario, figure) for figure in figures]
    subjects = list(dict.fromkeys(s for f in figures for s in run.subjects(scenario, f)))
    cells = [[_cell(run, Key(scenario, each, subject)) for each in figures] for subject in subjects]
    rows, columns = subjects, heads
    if len(heads) > MOST_COLUMNS:
        rows, columns = heads, subjects
        cells = [list(column) for column in zip(*cells, strict=True)]
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for row, shown_cells in zip(rows, cells, strict=True):
        yield f"| {row} | {' | '.join(shown_cells)} |"


def _head(run: Run, scenario: str, figure: str) -> str:
    unit = run.units.get(scenario, {}).get(figure, "")
    return f"{figure}, {unit}" if unit else figure


def _cell(run: Run, key: Key) -> str:
    """A figure, and how it compares with ours."""
    summary = run.summary(key)
    if summary is None:
        return ""
    ratio = run.ratio(key, Key(key.scenario, key.figure, BASE)) if key.subject != BASE else None
    return shown(summary) + (f"; {number(ratio.median)} x" if ratio else "")


def compare(new: Run, old: Run) -> str:
    """How the medians of our own figures differ from those of another run.

    The rounds of two runs do not pair, so a difference counts only where their
    quartiles do not overlap.
    """
    return "\n".join(_differences(new, old, sorted(new.rounds.keys() & old.rounds.keys())))


def _differences(new: Run, old: Run, keys: Iterable[Key]) -> Iterator[str]:
    for key in keys:
        now, then = new.summary(key), old.summary(key)
        assert now is not None
        assert then is not None
        if not then.median:
            continue
        change = now.median / then.median - 1
        apart = now.low > then.high or now.high < then.low
        verdict = "" if apart and min(now.rounds, then.rounds) >= 3 else "  (within the spread)"
        name = f"{key.scenario}, {key.figure}, {key.subject}"
        yield f"{name:<52} {number(then.median):>9} -> {number(now.median):<9} {change:+.1%}{verdict}"
