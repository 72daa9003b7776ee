"""One change is tried: the tests that reach it run in a fork, until one of them fails.

A fork begins with everything imported and all tests collected, so a trial costs what its tests cost.
A change within functions is put into the function objects that exist. Every other change runs at
import: it is tried in a fork of a process that has imported only other people's packages.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib.abc
import importlib.machinery
import os
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import attrs
import pytest

from tests.mutants.changes import PACKAGE, Mutant, changed, source_of

MEMORY = 4 << 30  # bytes of address space: a loop that no longer ends may also collect
_QUIET = (
    "-p",
    "no:cacheprovider",
    "-o",
    "faulthandler_timeout=0",
    "--hypothesis-seed=0",
    "-q",
    "-x",
    "-s",
)
_HANGS = (10.0, 20.0)
"""A test hangs that takes these seconds and this many times as long as it did: CI machines are shared."""

_AT_IMPORT = "at import or collection"
_IMPORT_SECONDS = 3.0
"""What imports and collection usually take."""


@attrs.frozen
class Verdict:
    """What became of a change.

    Attributes:
        kind: ``noticed``, ``survived``, ``unreached`` (no test runs the line), ``same`` (the
            compiler makes the same code of it), or ``unplaced`` (no function object has the
            code, so nothing was tried).
        test: The test that noticed it.
        tried: How many tests ran.
        of: How many tests reach it.
        seconds: How long it took.
    """

    kind: str
    test: str = ""
    tried: int = 0
    of: int = 0
    seconds: float = 0.0


Attempt = Callable[[Mutant, Sequence[str], dict[str, float], float], Verdict]
"""Tries one change: with these tests, which usually take so long each, within seconds."""


@attrs.define
class _Watch:
    """The parent's view of a fork that runs tests: it hears which one has begun, and which failed."""

    tests: Sequence[str]
    usual: dict[str, float]
    limit: float
    started: int = 0

    def run(self, work: Callable[[Callable[[bytes], None]], None]) -> tuple[str, str]:
        """Fork and wait: ``("failed" | "hangs" | "passed" | "time", the test)``."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _be_a_fork(work, writing)
        os.close(writing)
        try:
            return self._listen(reading)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _listen(self, reading: int) -> tuple[str, str]:
        began, test, heard = time.monotonic(), "", b""
        hangs_at = began + 60.0  # imports and collection, where there is any
        while True:
            now = time.monotonic()
            ready, _, _ = select.select([reading], [], [], max(0.0, hangs_at - now))
            if not ready:
                return "hangs", test
            data = os.read(reading, 4096)
            if not data:  # it ended without a word: as bad as a failed test
                return "failed", test if self.started else _AT_IMPORT
            heard += data
            *lines, heard = heard.split(b"\n")
            for line in lines:
                word, _, argument = line.decode().partition(" ")
                if word == "test":
                    if time.monotonic() - began > self.limit:
                        return "time", argument
                    self.started, test = self.started + 1, argument
                    least, times = _HANGS
                    hangs_at = time.monotonic() + max(least, times * self.usual.get(test, 0.0))
                elif word == "failed":
                    return "failed", argument or test
                elif word == "passed":
                    return "passed", ""


def judge(
    tests: Sequence[str],
    usual: dict[str, float],
    limit: float,
    work: Callable[[Sequence[str], Callable[[bytes], None]], None],
) -> Verdict:
    """Run the tests with the change, until one fails twice.

    Args:
        tests: The tests that reach the change, in the order in which they are tried.
        usual: How many seconds each test takes.
        limit: Seconds after which no further test is begun.
        work: Runs the tests that it is given, in the fork.
    """
    began, left, tried = time.monotonic(), list(tests), 0

    def verdict(kind: str, test: str = "") -> Verdict:
        spent = round(time.monotonic() - began, 2)
        return Verdict(kind, test=test, tried=tried, of=len(tests), seconds=spent)

    while left:
        watch = _Watch(left, usual, limit - (time.monotonic() - began))
        outcome, test = watch.run(lambda say, now=tuple(left): work(now, say))  # type: ignore[misc]
        tried += watch.started
        if outcome in {"passed", "time"}:
            return verdict("survived")
        if outcome == "hangs" or test not in left:
            return verdict("noticed", test or "hangs")
        # On a busy machine a test may fail by itself. It has noticed the change if it fails again.
        again, _ = _Watch([test], usual, limit).run(lambda say, one=test: work((one,), say))  # type: ignore[misc]
        if again in {"failed", "hangs"}:
            return verdict("noticed", test)
        left = left[left.index(test) + 1 :]
    return verdict("survived" if tests else "unreached")


# --------------------------------------------------------------------------------- within functions


class Collected:
    """A plugin of pytest's that runs no tests of its own accord: it collects, and hands over.

    Args:
        then: Called with a function that tries one change, when all is collected.
    """

    def __init__(self, then: Callable[[Attempt], None]) -> None:
        self._then = then

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        functions = functions_by_code()
        gc.collect()
        gc.freeze()

        def attempt(
            mutant: Mutant, tests: Sequence[str], usual: dict[str, float], limit: float
        ) -> Verdict:
            pairs = list(code_changes(mutant))
            if not pairs:
                return Verdict("same")
            if not any(old in functions for old, _ in pairs):
                return Verdict("unplaced")

            def work(chosen: Sequence[str], say: Callable[[bytes], None]) -> None:
                for old, new in pairs:
                    for function in functions.get(old, ()):
                        function.__code__ = new
                _run(session, [items[test] for test in chosen], say)

            return judge([test for test in tests if test in items], usual, limit, work)

        self._then(attempt)
        return True


def code_changes(mutant: Mutant) -> Iterator[tuple[types.CodeType, types.CodeType]]:
    """The code objects that a change alters, from the outermost function inwards, and what they become."""
    file = str(PACKAGE.parent.joinpath(*mutant.module.split(".")).with_suffix(".py"))
    old = compile(ast.parse(source_of(mutant.module)), file, "exec", dont_inherit=True)
    new = compile(changed(mutant), file, "exec", dont_inherit=True)
    yield from code_differences(old, new)


def code_differences(
    old: types.CodeType, new: types.CodeType
) -> Iterator[tuple[types.CodeType, types.CodeType]]:
    """The code objects that differ, each with the one in its place, from the outermost inwards."""
    if old == new:
        return
    yield old, new
    inner_old = [const for const in old.co_consts if isinstance(const, types.CodeType)]
    inner_new = [const for const in new.co_consts if isinstance(const, types.CodeType)]
    for before, after in zip(inner_old, inner_new, strict=False):
        if before.co_name == after.co_name and before.co_freevars == after.co_freevars:
            yield from code_differences(before, after)


def functions_by_code() -> dict[types.CodeType, list[types.FunctionType]]:
    """Every function object of the package."""
    gc.unfreeze()  # what is frozen, `gc.get_objects` does not list: tests/conftest.py does that
    found: dict[types.CodeType, list[types.FunctionType]] = {}
    for one in gc.get_objects():
        if isinstance(one, types.FunctionType) and one.__code__.co_filename.startswith(
            str(PACKAGE)
        ):
            found.setdefault(one.__code__, []).append(one)
    return found


def _run(session: pytest.Session, items: list[pytest.Item], say: Callable[[bytes], None]) -> None:
    """Run collected tests, and say how it goes."""
    session.config.pluginmanager.register(_Reporter(say))
    for item, following in zip(items, [*items[1:], None], strict=True):
        say(f"test {item.nodeid}\n".encode())
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    say(b"passed\n")


# --------------------------------------------------------------------------------------- at import


def try_at_import(
    mutant: Mutant, tests: Sequence[str], usual: dict[str, float], limit: float
) -> Verdict:
    """Try a change of what runs at import. trio_duplex must not have been imported in this process."""
    assert "trio_duplex" not in sys.modules
    old = compile(ast.parse(source_of(mutant.module)), "", "exec", dont_inherit=True)
    tree = changed(mutant)
    if old == compile(tree, "", "exec", dont_inherit=True):
        return Verdict("same")

    def work(chosen: Sequence[str], say: Callable[[bytes], None]) -> None:
        sys.meta_path.insert(0, _Finder(mutant.module, tree))
        files = list(dict.fromkeys(test.partition("::")[0] for test in chosen))
        say(f"test {_AT_IMPORT}\n".encode())
        # pytest's own finder, which rewrites asserts, would be asked first, and may take our modules
        # for a plugin's.
        options = (*_QUIET, "--assert=plain")
        if pytest.main([*options, *files], plugins=[_Chosen(chosen, say)]) not in {0, 1, 5}:
            say(f"failed {_AT_IMPORT}\n".encode())

    # File by file, so that only as much is collected as is needed.
    began, tried, of = time.monotonic(), 0, len(tests)
    by_file: dict[str, list[str]] = {}
    for test in tests:
        by_file.setdefault(test.partition("::")[0], []).append(test)
    kind = "survived" if tests else "unreached"
    for in_file in by_file.values():
        left = limit - (time.monotonic() - began)
        if left <= 0:
            break
        found = judge(in_file, {**usual, _AT_IMPORT: _IMPORT_SECONDS}, left, work)
        tried += found.tried
        if found.kind == "noticed":
            return attrs.evolve(
                found, tried=tried, of=of, seconds=round(time.monotonic() - began, 2)
            )
    return Verdict(kind, tried=tried, of=of, seconds=round(time.monotonic() - began, 2))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module: the changed one."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._module, self._tree = module, tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != self._module:
            return None
        file = str(PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py"))
        return importlib.machinery.ModuleSpec(name, self, origin=file)

    def exec_module(self, module: types.ModuleType) -> None:
        assert module.__spec__ is not None
        module.__file__ = module.__spec__.origin
        code = compile(self._tree, str(module.__file__), "exec", dont_inherit=True)
        exec(code, module.__dict__)


class _Chosen:
    """A plugin of pytest's: runs the chosen tests, in the order in which they were chosen."""

    def __init__(self, chosen: Iterable[str], say: Callable[[bytes], None]) -> None:
        self._order = {test: number for number, test in enumerate(chosen)}
        self._say = say

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order),
            key=lambda item: self._order[item.nodeid],
        )

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:
            return None  # pytest says that collection failed
        _run(session, session.items, self._say)
        return True


# ------------------------------------------------------------------------------------------- both


class _Reporter:
    """A plugin of pytest's: the first failure ends the fork."""

    def __init__(self, say: Callable[[bytes], None]) -> None:
        self._say = say

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "failed":
            self._say(f"failed {report.nodeid}\n".encode())


def collect(tests: Iterable[str], plugin: Collected) -> None:
    """Import and collect these tests in this process, and hand over to the plugin."""
    pytest.main([*_QUIET, *tests], plugins=[plugin])


def _be_a_fork(work: Callable[[Callable[[bytes], None]], None], writing: int) -> NoReturn:
    os.setsid()  # what its tests start is ended with it
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        work(lambda words: _write_all(writing, words))
    except BaseException:  # noqa: BLE001 - whatever it is, the parent hears of it
        _write_all(writing, b"failed\n")
    finally:
        os._exit(0)


def _write_all(descriptor: int, words: bytes) -> None:
    while words:
        words = words[os.write(descriptor, words) :]


def import_others() -> None:
    """Import other people's packages, and none of ours, for forks to begin with.

    None that brings a plugin for pytest: pytest wants to rewrite their asserts itself.
    """
    import trustme  # noqa: F401
