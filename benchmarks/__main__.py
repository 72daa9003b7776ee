"""``python -m benchmarks``: list, run, compare and plot."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.results import Run
from benchmarks.runner import run
from benchmarks.scenarios import SCENARIOS
from benchmarks.subjects import SUBJECTS


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    options = _parser().parse_args(arguments)
    options.function(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.set_defaults(function=list_all)
    commands = parser.add_subparsers(title="commands")

    listing = commands.add_parser("list", help="what there is to measure (the default)")
    listing.set_defaults(function=list_all)

    running = commands.add_parser("run", help="measure, and print figures and goals")
    running.set_defaults(function=run_some)
    running.add_argument("--scenario", action="append", choices=SCENARIOS, metavar="NAME")
    running.add_argument("--subject", action="append", choices=SUBJECTS, metavar="NAME")

    fairness = commands.add_parser(
        "fairness",
        help="what attackers spend, and what honest peers of each kind get meanwhile; slow fleets: "
        "7 minutes, on a machine that does nothing else",
    )
    fairness.set_defaults(
        function=run_some,
        scenario=[name for name in SCENARIOS if name.startswith(("fair-", "fleet-"))],
        subject=["duplex"],
    )

    showing = commands.add_parser("show", help="print, compare or plot a former run")
    showing.set_defaults(function=show)
    showing.add_argument("file", type=Path)
    for command in (running, fairness):
        command.add_argument("--quick", action="store_true", help="under 2 minutes; proves nothing")
        command.add_argument("--output", type=Path, metavar="FILE", help="write the rounds as JSON")
    for command in (running, fairness, showing):
        command.add_argument(
            "--against", type=Path, metavar="FILE", help="compare with a former run"
        )
        command.add_argument("--plots", type=Path, metavar="FOLDER", help="draw SVG plots")
        command.add_argument("--markdown", type=Path, metavar="FILE", help="write tables")
    return parser


def list_all(options: argparse.Namespace) -> None:
    """Say what there is."""
    del options
    print("Scenarios")
    for scenario in SCENARIOS.values():
        print(f"  {scenario.name:<20} {scenario.about}")
    print("Subjects")
    for subject in SUBJECTS.values():
        missing = subject.missing()
        absent = f"  [absent: {missing}]" if missing else ""
        print(f"  {subject.name:<20} {subject.about}{absent}")
    print("Measure with: python -m benchmarks run [--quick] [--scenario NAME] [--subject NAME]")


def run_some(options: argparse.Namespace) -> None:
    """Measure."""
    before = Run.load(options.against) if options.against else None

    def keep(results: Run) -> None:
        if options.output:
            options.output.write_text(results.to_json())

    results = run(
        [SCENARIOS[name] for name in options.scenario or SCENARIOS],
        [SUBJECTS[name] for name in options.subject or SUBJECTS],
        quick=options.quick,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        keep=keep,
    )
    _tell(results, before, options)
    if options.quick:
        print("A quick run shows that everything works. Its figures prove nothing.")
    if results.skipped and os.environ.get("CI") == "true":
        sys.exit(f"not measured, and CI is to measure everything: {', '.join(results.skipped)}")


def show(options: argparse.Namespace) -> None:
    """Print a former run."""
    before = Run.load(options.against) if options.against else None
    _tell(Run.load(options.file), before, options)


def _tell(results: Run, before: Run | None, options: argparse.Namespace) -> None:
    about = {name: scenario.about for name, scenario in SCENARIOS.items()}
    print(report.report(results, about))
    if before is not None:
        print("\nAgainst the former run")
        print(report.compare(results, before))
    if options.markdown is not None:
        options.markdown.write_text(report.markdown(results, about), encoding="utf-8")
        print(f"written: {options.markdown}")
    if options.plots is not None:
        from benchmarks.plots import draw

        for path in draw(results, options.plots):
            print(f"drawn: {path}")


if __name__ == "__main__":
    main()
