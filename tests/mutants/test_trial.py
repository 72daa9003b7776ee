from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pytest

from tests.mutants.changes import PACKAGE, mutants_of
from tests.mutants.trial import code_changes, functions_by_code, judge
from trio_duplex._decision import glare, reflection

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


Say = Callable[[bytes], None]


@pytest.mark.parametrize("module", [glare, reflection])
def test_every_change_within_functions_can_be_put_into_function_objects(module: object) -> None:
    gc.freeze()
    try:
        functions = functions_by_code()
        found = [one for one in mutants_of(module.__name__) if one.in_function]  # type: ignore[attr-defined]
        assert found
        for mutant in found:
            pairs = list(code_changes(mutant))
            assert not pairs or any(old in functions for old, _ in pairs)
    finally:
        gc.unfreeze()


def outcomes(script: dict[str, list[str]]) -> Callable[[Sequence[str], Say], None]:
    """Plays tests in a fork: what becomes of each is by how often it has run, which a fork can't count."""

    def work(chosen: Sequence[str], say: Say) -> None:
        for test in chosen:
            say(f"test {test}\n".encode())
            # A second run is of one test only.
            what = script[test][len(chosen) == 1 and len(script[test]) > 1]
            if what == "fails":
                say(f"failed {test}\n".encode())
            elif what == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "slow":
                time.sleep(0.3)
        say(b"passed\n")

    return work


@pytest.mark.parametrize(
    ("script", "kind", "test"),
    [
        ({"a": ["passes"], "b": ["passes"]}, "survived", ""),
        ({"a": ["passes"], "b": ["fails"], "c": ["fails"]}, "noticed", "b"),
        ({"a": ["fails", "passes"], "b": ["passes"], "c": ["passes"]}, "survived", ""),
        ({"a": ["fails", "passes"], "b": ["passes"], "c": ["fails"]}, "noticed", "c"),
        ({"a": ["passes"], "b": ["dies"]}, "noticed", "b"),
        ({}, "unreached", ""),
    ],
)
def test_a_change_is_noticed_by_a_test_that_fails_twice(
    script: dict[str, list[str]], kind: str, test: str
) -> None:
    found = judge(list(script), {}, 60.0, outcomes(script))
    assert (found.kind, found.test) == (kind, test)


AT_IMPORT = """
import sys
from tests.mutants.changes import PACKAGE, mutants_of
from tests.mutants.trial import import_others, try_at_import

import_others()
(doubled,) = (
    one for one in mutants_of("trio_duplex._serve.limits") if (one.before, one.after) == ("18000", "36000")
)
assert not doubled.in_function
for test in sys.argv[1:]:
    print(try_at_import(doubled, [test], {test: 0.1}, 60.0).kind)
"""


def test_a_change_of_what_runs_at_import_is_what_tests_see() -> None:
    """Not the module as it is, which pytest's own finder would give them."""
    file = "tests/serve/test_limits.py"
    tests = (
        f"{file}::test_the_defaults_are_derived_from_the_limit_of_open_files[1000000-18000-15000-1000]",
        f"{file}::test_invalid_when_full",
    )
    made = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, *tests],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.split() == ["noticed", "survived"]


def test_the_time_for_a_change_is_bounded() -> None:
    script = {str(number): ["slow"] for number in range(100)}
    found = judge(list(script), {}, 0.5, outcomes(script))
    assert found.kind == "survived"
    assert 1 <= found.tried < 100
    assert found.of == 100
