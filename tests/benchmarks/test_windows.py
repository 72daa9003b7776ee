"""The model of windows, and what it says: `benchmarks.windows`."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from benchmarks.windows import costs, first_byte, glare, real
from benchmarks.windows.model import MIXED, SILENT, SPEAKING, World, attempts, retransmission
from benchmarks.windows.simulate import POLICIES, Result, compare, table

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


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


# ------------------------------------------------------------------------------------------ the real path


def test_peers_of_the_path_in_the_model() -> None:
    """Without loss nobody errs, and known silent peers wait for four round trips."""
    seen = real.play(World(loss=0.0, starved=0.0), round_trip=0.1, peers=4, each=40)
    found = real.sum_up(seen, 4, 0.1)
    assert 0.4 <= found.silent_median < 0.45
    assert (found.full, found.wrong_speaking, found.wrong_changing) == (0.0, 0, 0)
    assert found.changes == 8  # each of four became a speaking peer twice
    lossy = real.sum_up(real.play(World(loss=0.3), 0.1, peers=20, each=40), 20, 0.1)
    assert 0.2 < lossy.lost < 0.4
    assert 1 <= lossy.worst <= 2  # once for each change of kind


def test_sum_of_the_path() -> None:
    speaking = [real.Seen("late", 5.0), real.Seen("spoke", 0.65), real.Seen("spoke", 0.001)]
    seen = {
        real.host("silent", 0): [real.Seen("silent", seconds) for seconds in (5, 5, 5, 0.4, 5)],
        real.host("speaking", 0): speaking,
        real.host("changing", 0): [real.Seen("silent", 5.0)] * 10 + [real.Seen("late", 0.4)],
        real.host("changing", 1): [real.Seen("failed", 0.0)],
    }
    assert real.sum_up(seen, 2, 0.1) == real.Measured(
        silent_median=2.7,
        full=0.5,
        wrong_speaking=1,
        wrong_changing=1,
        worst=1,
        changes=2 * (11 // real.TURN // 2),
        lost=2 / 3,
        again=(5.0 + 0.65) / 2 / retransmission(0.1),
        failed=1,
    )
    comparison = real.Comparison(
        round_trip=0.1, loss=0.01, real=real.sum_up(seen, 2, 0.1), model=real.sum_up({}, 2, 0.1)
    )
    assert comparison.bound == pytest.approx(0.55)
    measured, modelled, failed = real.table([comparison]).splitlines()[2:5]
    assert "2.700 s" in measured
    assert "model" in modelled
    assert failed == ""


# ---------------------------------------------------------------------------------- simultaneous dials


def test_sum_of_meetings() -> None:
    def told(*rows: tuple[str, bool]) -> dict[int, dict[str, Any]]:
        return {
            number: {"what": what, "crossed": crossed}
            for number, (what, crossed) in enumerate(rows)
        }

    near = told(
        ("GlareError", False),  # opposite a legacy client
        ("client", False),  # opposite a legacy server
        ("client", True),
        ("server", True),
        ("client", False),
        ("hung", False),
        ("client", True),
    )
    far = told(
        ("SSLError", False),
        ("legacy server", False),
        ("server", True),
        ("client", True),
        ("server", False),
        ("client", False),
        ("client", True),  # not opposite: counts as not connected
    )
    found = glare.sum_up(near, far, pairs=8, legacy=0.2)
    assert found == glare.Meetings(
        pairs=6,
        connected=3,
        crossed=2,
        near_client=1,
        uncrossed_near_client=1,
        legacy={glare.CLIENT: {"GlareError": 1}, glare.SERVER: {"client": 1}},
        hung=1,
    )
    assert found.deviations == 0
    assert "3 of 6" in str(found)


def test_legacy_ends_are_spread_evenly() -> None:
    kinds = Counter(glare.kind(number, 0.1) for number in range(1_000))
    assert kinds == {glare.NEAR: 900, glare.CLIENT: 50, glare.SERVER: 50}
    assert {glare.kind(number, 0.0) for number in range(100)} == {glare.NEAR}


# -------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("name", costs.POLICIES)
def test_cost_of_a_decision(name: str) -> None:
    found = costs.cost(name, peers=200, rounds=1)
    assert 0 < found.choose < 200  # far above the goal: it is not this machine that is tested
    assert "µs a decision" in str(found)


def test_size_of_a_remembered_peer() -> None:
    found = costs.size(peers=2_000)
    assert 50 < found.memory < costs.GOAL_MEMORY
    assert 10 < found.disk < costs.GOAL_DISK
    assert len({*costs.hosts(100_000)}) == 100_000


# --------------------------------------------------------------------------------------------- first byte


def test_percentile() -> None:
    assert first_byte.percentile(range(1, 101), 0.99) == 99
    assert first_byte.percentile([3.0], 0.5) == 3.0
    assert math.isnan(first_byte.percentile([], 0.5))


@pytest.mark.skipif(sys.platform != "linux", reason="peers dial from all of 127/8")
def test_dial_to_first_byte_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.windows", "first-byte"]
    done = subprocess.run(
        [*command, "--pending", "5", "--dials", "5"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for kind in ("5 pending", "announced: ", "by rule: ", "remembered: ", "first contact: "):
        assert kind in done.stdout
    (remembered,) = re.findall(r"remembered: ([0-9.]+) ms", done.stdout)
    assert (
        100 <= float(remembered) < 1000
    )  # it was remembered: the window here is 1 s; a median, so one may be late
