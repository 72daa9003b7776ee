"""What a run says: `benchmarks.results`, `benchmarks.goals`, `benchmarks.report`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.goals import GOALS, Goal, Verdict
from benchmarks.report import MOST_COLUMNS, compare, markdown, number, report, shown
from benchmarks.results import Key, Run
from benchmarks.scenarios import SCENARIOS
from benchmarks.statistics import Summary
from benchmarks.subjects import SUBJECTS

CPU = Key("handshake", "cpu", "duplex")
BASE = Key("handshake", "cpu", "trio")


def run_of(*rounds: tuple[float, float]) -> Run:
    run = Run(machine={"machine": "a test"}, units={"handshake": {"cpu": "µs"}})
    for ours, theirs in rounds:
        run.add("handshake", "duplex", {"cpu": ours})
        run.add("handshake", "trio", {"cpu": theirs})
    return run


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = run_of((1.0, 2.0), (3.0, 4.5))
    run.skipped["go"] = "go is not there"
    path = tmp_path / "run.json"
    path.write_text(run.to_json())
    assert Run.load(path) == run


@pytest.mark.parametrize("text", ["[]", "{}", json.dumps({"format": 0}), "no JSON"])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Run.from_json(text)


def test_a_run_knows_what_is_in_it() -> None:
    run = run_of((1.0, 2.0), (3.0, 4.0))
    assert run.rounds[CPU] == [1.0, 3.0]
    assert list(run.scenarios()) == ["handshake"]
    assert list(run.figures("handshake")) == ["cpu"]
    assert list(run.subjects("handshake", "cpu")) == ["duplex", "trio"]
    assert run.summary(Key("handshake", "cpu", "go")) is None


def test_who_is_dropped_leaves_nothing() -> None:
    run = run_of((1.0, 2.0))
    run.add("echo", "trio", {"cpu": 1.0})
    run.drop("handshake", "trio")
    assert set(run.rounds) == {CPU, Key("echo", "cpu", "trio")}


@pytest.mark.parametrize(
    ("ours", "base"), [([1.0, 2.0], [1.0]), ([1.0], [0.0]), ([1.0], []), ([], [1.0])]
)
def test_rounds_that_do_not_pair_give_no_ratio(ours: list[float], base: list[float]) -> None:
    run = Run(machine={})
    run.rounds = {CPU: ours, BASE: base}
    assert run.ratio(CPU, BASE) is None


@pytest.mark.parametrize(
    ("rounds", "verdict"),
    [
        ([(70.0, 100.0), (71.0, 100.0), (72.0, 100.0)], Verdict.MET),
        ([(90.0, 100.0), (91.0, 100.0), (92.0, 100.0)], Verdict.MISSED),
        # The quartiles stand on both sides of the bound: near it, the median decides...
        ([(79.0, 100.0), (79.5, 100.0), (81.0, 100.0)], Verdict.MET),
        # ...and far from it, nothing does.
        ([(40.0, 100.0), (79.0, 100.0), (150.0, 100.0)], Verdict.DOUBTFUL),
        # Noise that stays on one side concludes all the same.
        ([(20.0, 100.0), (40.0, 100.0), (60.0, 100.0)], Verdict.MET),
        ([(70.0, 100.0), (71.0, 100.0)], Verdict.DOUBTFUL),
        ([], Verdict.UNKNOWN),
    ],
)
def test_a_goal_is_met_missed_or_left_open(
    rounds: list[tuple[float, float]], verdict: Verdict
) -> None:
    assert Goal("", CPU, 0.8, BASE).verdict(run_of(*rounds)) is verdict


def test_a_goal_can_bound_from_below_and_the_figure_itself() -> None:
    run = run_of((50.0, 100.0), (50.0, 100.0), (50.0, 100.0))
    assert Goal("", CPU, 50.0).verdict(run) is Verdict.MET
    assert Goal("", CPU, 49.0).verdict(run) is Verdict.MISSED
    assert Goal("", CPU, 0.5, BASE, at_least=True).verdict(run) is Verdict.MET
    assert Goal("", CPU, 0.6, BASE, at_least=True).verdict(run) is Verdict.MISSED


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.about)
def test_every_goal_is_about_something_that_is_measured(goal: Goal) -> None:
    for key in (goal.key, goal.base):
        if key is not None:
            scenario = SCENARIOS[key.scenario]
            assert key.figure in scenario.units
            assert scenario.can_measure(SUBJECTS[key.subject])


def test_the_report_shows_figures_misses_and_who_was_left_out() -> None:
    run = run_of((150.0, 100.0), (150.0, 100.0), (150.0, 100.0))
    run.skipped["go"] = "go is not there"
    text = report(run, {"handshake": "how much"})
    for fact in ("a test", "SKIPPED go", "how much", "150", "100", "0.667", "MISSED"):
        assert fact in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.012345, "0.0123"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (-2.5, "-2.50"),
    ],
)
def test_three_digits_count(value: float, text: str) -> None:
    assert number(value) == text


def test_one_round_is_shown_as_one() -> None:
    assert "once" in shown(Summary(median=1, low=1, high=1, rounds=1))


@pytest.mark.parametrize(
    ("now", "counts"),
    [([200.0, 201.0, 202.0], True), ([99.0, 101.0, 103.0], False), ([200.0], False)],
)
def test_a_difference_counts_where_the_quartiles_are_apart(now: list[float], counts: bool) -> None:
    then = Run(machine={}, rounds={CPU: [98.0, 100.0, 102.0]})
    text = compare(Run(machine={}, rounds={CPU: now}), then)
    assert ("within the spread" not in text) is counts


def test_a_table_with_many_figures_has_a_row_for_each() -> None:
    keys = [Key("costs", f"figure {number}", "duplex") for number in range(MOST_COLUMNS + 1)]
    lines = markdown(Run(machine={}, rounds={key: [1.0] for key in keys}), {}).splitlines()
    assert "| | duplex |" in lines
    assert [line for line in lines if line.startswith("| figure ")][1:] == [
        f"| {key.figure} | 1.00 (once) |" for key in keys
    ]


def test_only_what_both_runs_have_is_compared() -> None:
    other = Run(machine={}, rounds={BASE: [1.0]})
    assert compare(run_of(), other) == ""
    assert compare(Run(machine={}, rounds={CPU: [1.0]}), other) == ""


def test_the_docs_get_the_same_as_tables() -> None:
    run = run_of((1.0, 2.0), (1.0, 2.0), (1.0, 2.0))
    run.skipped["go"] = "go is not there"
    text = markdown(run, {"handshake": "what it costs"})
    lines = text.splitlines()
    assert "| not measured: go | go is not there |" in lines
    assert "**handshake**: what it costs" in lines
    assert "| | cpu, µs |" in lines
    assert "| duplex | 1.00 (1.00 to 1.00) |" in lines
    assert "| trio | 2.00 (2.00 to 2.00); 2.00 x |" in lines
    (goal,) = [goal for goal in GOALS if goal.key == CPU and goal.base == BASE]
    assert f"| {goal.about} | {goal.sign} | 0.500 (0.500 to 0.500) | met |" in lines
    # All goals are in it, also those of which nothing is known.
    assert sum(line.count(goal.sign) > 0 for goal in GOALS for line in lines) >= len(GOALS)
