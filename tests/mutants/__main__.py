"""Try a sample of small changes, and print those that no test notices.

``python -m tests.mutants _trust _serve --sample 300`` tries 300 changes of each room. What was measured and
tried is kept in the folder of ``--state``, so the next run goes on from there; the sample of a
seed only grows. ``--again`` tries once more what survived, after ``--reach`` with the tests that
are new.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.mutants import reach, trial
from tests.mutants.changes import Mutant, modules_of, mutants_of

ROOMS = ("_trust", "_stream", "_serve")
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Measure what is not measured yet, try the sample, print what survived."""
    options = _options().parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    trial.import_others()
    measured = _measured(options)
    if options.seconds <= 0:
        return 0
    results = _Results(options.state / "results.jsonl")
    sample = [
        mutant for where in options.rooms for mutant in _sample(where, options.sample, options.seed)
    ]
    stale = {module for module in {one.module for one in sample} if measured.is_stale(module)}
    for module in sorted(stale):
        print(f"{module} was changed since it was measured: left out (--reach measures anew)")
    waiting = [
        mutant
        for mutant in sample
        if mutant.module not in stale
        and (mutant.name not in results.known or (options.again and results.is_survivor(mutant)))
    ]
    print(f"{len(sample)} changes, {len(waiting)} of them to be tried", flush=True)
    until = time.monotonic() + options.seconds
    # What only an import runs, such as a function that makes a table, no test is seen to reach.
    within = [
        mutant
        for mutant in waiting
        if mutant.in_function and measured.tests_of(mutant.module, mutant.line)
    ]
    at_import = [mutant for mutant in waiting if mutant not in within]
    _in_fork(lambda: _try_within_functions(within, measured, results, options, until))
    _try_at_import(at_import, measured, results, options, until)
    _print_report(sample, _Results(options.state / "results.jsonl"))
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("rooms", nargs="*", default=ROOMS, metavar="ROOM[/MODULE]", help="such as _trust or _serve/limits")  # fmt: skip
    parser.add_argument("--state", type=Path, default=ROOT / ".mutants", help="where results are kept")  # fmt: skip
    parser.add_argument("--sample", type=int, default=100, help="changes of each room (100)")
    parser.add_argument("--seed", type=int, default=0, help="which sample (0)")
    parser.add_argument("--seconds", type=float, default=900.0, help="begin no change after them (900)")  # fmt: skip
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for the tests of one change (30)")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="try once more what survived")
    parser.add_argument("--reach", nargs="*", metavar="TEST", help="measure these tests, or all, anew")  # fmt: skip
    return parser


def _measured(options: argparse.Namespace) -> reach.Reach:
    path = options.state / "reach.json"
    tests = options.reach
    if tests is not None or not path.exists():
        chosen = tests or [f"tests/{folder}" for folder in reach.TESTS]
        part = options.state / "measured.json"
        arguments = ["-q", "-p", "no:cacheprovider", *chosen]
        _in_fork(lambda: reach.measure(arguments).save(part))
        found = reach.Reach.load(part)
        if tests and path.exists():
            known = reach.Reach.load(path)
            known.merge(found)
            found = known
        found.save(path)
        part.unlink()
    return reach.Reach.load(path)


def _sample(where: str, number: int, seed: int) -> list[Mutant]:
    """The first changes in an order that depends on the seed, and on nothing that may be edited."""

    def order(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.name}".encode()).hexdigest()

    found = [mutant for module in modules_of(where) for mutant in mutants_of(module)]
    return sorted(found, key=order)[:number]


def _try_within_functions(
    mutants: list[Mutant], measured: reach.Reach, results: _Results, options: argparse.Namespace, until: float
) -> None:  # fmt: skip
    files = {
        test.partition("::")[0]
        for mutant in mutants
        for test in measured.tests_of(mutant.module, mutant.line)
    }
    if not files:
        return

    def then(attempt: trial.Attempt) -> None:
        for mutant in mutants:
            if time.monotonic() > until:
                return
            tests = measured.tests_of(mutant.module, mutant.line)
            results.add(mutant, attempt(mutant, tests, measured.seconds, options.limit))

    trial.collect(sorted(files), trial.Collected(then))


def _try_at_import(
    mutants: list[Mutant], measured: reach.Reach, results: _Results, options: argparse.Namespace, until: float
) -> None:  # fmt: skip
    for mutant in mutants:
        if time.monotonic() > until:
            return
        tests = measured.tests_of(mutant.module, None)
        results.add(mutant, trial.try_at_import(mutant, tests, measured.seconds, options.limit))


class _Results:
    """What became of each change, a line for each in a file that only grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[str, trial.Verdict] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            found = json.loads(line)
            name = found.pop("name")
            self.known[name] = trial.Verdict(**found)

    def is_survivor(self, mutant: Mutant) -> bool:
        return self.known[mutant.name].kind in {"survived", "unreached"}

    def add(self, mutant: Mutant, verdict: trial.Verdict) -> None:
        self.known[mutant.name] = verdict
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": mutant.name, **attrs.asdict(verdict)}) + "\n")
        if self.is_survivor(mutant):
            os.write(_stdout, f"{verdict.kind}: {mutant}\n".encode())


def _print_report(sample: list[Mutant], results: _Results) -> None:
    for room, mutants in _by_room(sample):
        tried = [mutant for mutant in mutants if mutant.name in results.known]
        kinds = Counter(results.known[mutant.name].kind for mutant in tried)
        counted = len(tried) - kinds["same"] - kinds["unplaced"]
        print(
            f"\n{room}: {counted} of {len(mutants)} tried, {kinds['noticed']} noticed"
            f" ({100 * kinds['noticed'] / max(1, counted):.1f} %)"
            f"; {kinds['unplaced']} could not be put in place"
        )
        for mutant in sorted(tried, key=lambda one: (one.module, one.line)):
            verdict = results.known[mutant.name]
            if results.is_survivor(mutant):
                print(f"  {verdict.kind} {verdict.tried}/{verdict.of}  {mutant}")


def _by_room(sample: list[Mutant]) -> Iterator[tuple[str, list[Mutant]]]:
    rooms: dict[str, list[Mutant]] = {}
    for mutant in sample:
        rooms.setdefault(mutant.module.split(".")[1], []).append(mutant)
    yield from rooms.items()


def _in_fork(work: object) -> None:
    """Do something in a process of its own: this one imports nothing of ours."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert callable(work)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"a process of the run ended with status {status}")


_stdout = 1
sys.exit(main())
