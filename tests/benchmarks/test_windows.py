"""The model of windows, and what it says: `benchmarks.windows`."""

from __future__ import annotations

import pytest

from benchmarks.windows.model import MIXED, SILENT, SPEAKING, World, attempts
from benchmarks.windows.simulate import POLICIES, Result, compare, table

WORLD = World(addresses=300, connections=6_000)


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {result.policy: result for result in compare(WORLD)}


def test_a_world_is_the_same_each_time() -> None:
    assert [*attempts(WORLD)] == [*attempts(WORLD)]


def test_kinds_behave_as_they_are_called() -> None:
    for attempt in attempts(WORLD):
        match attempt.kind:
            case "silent":
                assert attempt.delay is None
            case "speaking":
                assert attempt.delay is not None
    assert {attempt.kind for attempt in attempts(WORLD)} == {SILENT, SPEAKING, MIXED}


@pytest.mark.slow
def test_longer_windows_cost_more_and_err_less(results: dict[str, Result]) -> None:
    fixed = [results[name] for name in POLICIES if name.startswith("fixed")]
    assert [result.median for result in fixed] == sorted(result.median for result in fixed)
    assert [result.wrong for result in fixed] == sorted(
        (result.wrong for result in fixed), reverse=True
    )


def test_memory_waits_little_and_errs_no_more_than_the_full_window(
    results: dict[str, Result],
) -> None:
    memory, full = results["memory"], results["fixed 5 s"]
    assert memory.median < 0.5
    assert memory.first == 5.0
    assert memory.wrong - full.wrong <= memory.wrong_known <= 3


def test_learned_window_is_shorter_for_first_contacts(results: dict[str, Result]) -> None:
    assert results["learned"].mean < 5.0
    assert results["memory, learned first"].mean < results["memory"].mean


def test_table_has_a_row_for_each_policy(results: dict[str, Result]) -> None:
    assert len(table(results.values()).splitlines()) == 2 + len(POLICIES)
