"""Which test reaches which line, how long each takes: measured once, by coverage's contexts."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import attrs
import coverage
import pytest

from tests.mutants.changes import PACKAGE, source_of

TESTS = ("trust", "serve", "stream", "tls", "sockets", "events", "decision", "wire", "fuzz")
"""The folders whose tests run the package in their own process. What the command's tests start
is another process, in which no change is seen."""


@attrs.define
class Reach:
    """What was measured.

    Attributes:
        seconds: How long each test that passed took.
        lines: The tests that reach a line, by module and line.
        sources: The digest of each module's source when it was measured.
    """

    seconds: dict[str, float] = attrs.field(factory=dict)
    lines: dict[str, dict[int, list[str]]] = attrs.field(factory=dict)
    sources: dict[str, str] = attrs.field(factory=dict)

    def is_stale(self, module: str) -> bool:
        """Whether a module was changed since its lines were measured."""
        return self.sources.get(module) != digest(module)

    def tests_of(self, module: str, line: int | None) -> list[str]:
        """The tests that reach a line, or any line of the module, in the order in which to try them.

        Those of the module's own test file come first, then those of its room, then
        the others: from each test file in turn its quickest, because files differ in what
        they look at, and the tests of one file do less.
        """
        lines = self.lines.get(module, {})
        reaching = lines.get(line, []) if line is not None else _union(lines.values())
        room, name = module.split(".")[1:3] if module.count(".") > 1 else ("", module)
        own_room = f"tests/{room.strip('_')}/"
        own = f"{own_room}test_{name}"
        by_file: dict[str, list[str]] = {}
        for test in sorted((test for test in reaching if test in self.seconds), key=self._took):
            by_file.setdefault(test.partition("::")[0], []).append(test)
        turns = {test: turn for tests in by_file.values() for turn, test in enumerate(tests)}

        def order(test: str) -> tuple[int, int, float]:
            near = 0 if test.startswith(own) else 1 if test.startswith(own_room) else 2
            return near, turns[test], self.seconds[test]

        return sorted(turns, key=order)

    def _took(self, test: str) -> float:
        return self.seconds[test]

    def merge(self, other: Reach) -> None:
        """Take in what was measured of some test files: it replaces what was known of them."""
        files = {test.partition("::")[0] for test in other.seconds}
        for test in [test for test in self.seconds if test.partition("::")[0] in files]:
            del self.seconds[test]
        self.seconds |= other.seconds
        for module in {*self.lines, *other.lines}:
            known = self.lines.setdefault(module, {})
            found = other.lines.get(module, {})
            for line in {*known, *found}:
                others = (
                    test for test in known.get(line, ()) if test.partition("::")[0] not in files
                )
                known[line] = sorted({*others, *found.get(line, ())})

    def save(self, path: Path) -> None:
        """Write it down; tests by number, for there are millions of pairs."""
        numbers = {test: number for number, test in enumerate(self.seconds)}
        path.write_text(
            json.dumps(
                {
                    "tests": list(self.seconds.items()),
                    "lines": {
                        module: {
                            line: [numbers[test] for test in tests if test in numbers]
                            for line, tests in lines.items()
                        }
                        for module, lines in self.lines.items()
                    },
                    "sources": self.sources,
                }
            ),
            encoding="utf-8",
        )

    @classmethod
    def load(cls, path: Path) -> Reach:
        """Read what `save` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        names = [test for test, _ in found["tests"]]
        return cls(
            seconds=dict(found["tests"]),
            lines={
                module: {
                    int(line): [names[number] for number in tests] for line, tests in lines.items()
                }
                for module, lines in found["lines"].items()
            },
            sources=found["sources"],
        )


def digest(module: str) -> str:
    """What tells one source of a module from another."""
    return hashlib.sha256(source_of(module).encode()).hexdigest()[:16]


def measure(arguments: Iterable[str]) -> Reach:
    """Run tests under coverage. trio_duplex must not have been imported in this process.

    SIGTERM ends it behind the test that runs, and what was measured by then is returned.

    Args:
        arguments: The arguments for pytest.
    """
    measured = coverage.Coverage(
        data_file=None, config_file=False, branch=False, include=[f"{PACKAGE}/*"]
    )
    observer = _Observer(measured)
    signal.signal(signal.SIGTERM, observer.stop)
    measured.start()
    pytest.main([*arguments], plugins=[observer])
    measured.stop()
    data = measured.get_data()
    found = Reach(
        seconds={test: s for test, s in observer.seconds.items() if test not in observer.failed}
    )
    for file in data.measured_files():
        parts = Path(file).relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts)
        found.sources[module] = digest(module) if parts[-1] != "__init__" else ""
        found.lines[module] = {
            line: sorted(test for test in contexts if test in found.seconds)
            for line, contexts in data.contexts_by_lineno(file).items()
        }
    return found


class _Observer:
    """A plugin of pytest's: coverage's context is the test that runs."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self._stop = False

    def stop(self, *_: object) -> None:
        self._stop = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._measured.switch_context(item.nodeid)
        began = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = round(time.perf_counter() - began, 4)
            self._measured.switch_context("")
            if self._stop:
                item.session.shouldstop = "told to stop"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.failed.add(report.nodeid)


def _union(lists: Iterable[list[str]]) -> list[str]:
    return list({test for tests in lists for test in tests})
