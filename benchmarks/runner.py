"""Runs scenarios: every subject once in each round, so that noise hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.report import BASE
from benchmarks.results import Run
from benchmarks.scenario import Scenario
from benchmarks.subjects import Subject

QUICK_ROUNDS = 1

ROUNDS_OF_A_PROCESS = 3
"""After so many, servers are started anew: two processes of one program differ by some
3 %, by where their memory happens to lie, for as long as they live."""

QUICK_FOR_ALL = frozenset(["handshake", "bulk-receive-tls1.3"])
"""Scenarios that a quick run tries on every subject: each then shows that it starts and serves."""

QUICK_SUBJECTS = frozenset([BASE, "trio", "floor", "proxy", "exec"])
"""Subjects of all other scenarios of a quick run."""


def run(
    scenarios: Sequence[Scenario],
    subjects: Sequence[Subject],
    *,
    quick: bool,
    say: Callable[[str], object],
    keep: Callable[[Run], object] = lambda _: None,
) -> Run:
    """Run them all.

    Args:
        scenarios: What to measure, in order.
        subjects: Whom; one whose program is not there is skipped, loudly.
        quick: Small and few rounds: shows that it works, and proves nothing.
        say: Told what goes on.
        keep: Given the results so far after each scenario: a run that is broken off is not lost.
    """
    results = Run(machine=machine.describe())
    present = []
    for subject in subjects:
        missing = subject.missing()
        if missing is None:
            present.append(subject)
        else:
            results.skipped[subject.name] = f"{missing} is not there"
            say(f"SKIPPED {subject.name}: {missing} is not there")
    with Bench(quick=quick) as bench:
        for scenario in scenarios:
            able = [subject for subject in present if scenario.can_measure(subject)]
            if quick and scenario.name not in QUICK_FOR_ALL:
                able = [subject for subject in able if subject.name in QUICK_SUBJECTS]
            if not able or (quick and scenario.slow):
                continue
            started = time.monotonic()
            try:
                _run_one(bench, scenario, able, results)
            finally:
                if not quick:  # then the next scenario need not start the same ones
                    bench.stop_servers()
            results.units[scenario.name] = dict(scenario.units)
            keep(results)
            say(f"{scenario.name}: {len(able)} subjects, {time.monotonic() - started:.0f} s")
    return results


def _run_one(bench: Bench, scenario: Scenario, subjects: Sequence[Subject], results: Run) -> None:
    rounds = min(QUICK_ROUNDS, scenario.rounds) if bench.quick else scenario.rounds
    first = -1 if scenario.warm_up and not bench.quick else 0
    able = list(subjects)
    for turn in range(first, rounds):
        if turn > 0 and turn % ROUNDS_OF_A_PROCESS == 0:
            bench.stop_servers()
        # Forwards and backwards, so that nobody always follows the same neighbour.
        for subject in able if turn % 2 == 0 else able[::-1]:
            try:
                figures = scenario.measure(bench, subject)
            except (RuntimeError, OSError) as exc:  # TimeoutError among them
                if subject.name == BASE:
                    raise
                # One that fails is left out altogether: its rounds would no longer pair.
                results.drop(scenario.name, subject.name)
                results.skipped[f"{subject.name} in {scenario.name}"] = f"it failed: {exc}"
                able = [other for other in able if other is not subject]
            else:
                if turn >= 0:
                    results.add(scenario.name, subject.name, figures)
