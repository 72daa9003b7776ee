from __future__ import annotations

import ast

import pytest

from tests.mutants.changes import (
    changed_source,
    modules_of,
    mutants_of,
    mutants_of_source,
    source_of,
)
from tests.mutants.trial import code_differences

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


WORDS = '''
"""A docstring."""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    LIMIT = 3
class Peer:
    """A docstring."""
    age: "int | None"
    def __repr__(self):
        return f"<{self.age + 1}>" if self.age else "nobody"
def told(peer: "1 + 1") -> "2":
    """A docstring."""
    assert peer is not None
    return cast("Peer | None", peer)
'''


def test_words_are_left_as_they_are() -> None:
    assert [(one.before, one.after) for one in mutants_of_source(WORDS, "m")] == [
        ("return cast('Peer | None', peer)", "return None")
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = b < c", {"b <= c"}),
        ("a = b and c", {"b or c"}),
        ("a = not b", {"b"}),
        ("a = b in (1, 2)", {"b not in (1, 2)", "(1,)", "(2,)", "2", "3"}),
        ("a = 5", {"6"}),
        ("a = 16384", {"32768"}),
        ("a = True", {"False"}),
        ("a = b'x'", {"b'x\\x00'"}),
        ("a = {1: b, 3: c}", {"{3: c}", "{1: b}", "2", "4"}),
        ("a = frozenset({b, c})", {"{b}", "{c}"}),
        ("if a: b.c()", {"True", "False", ""}),
        ("a(b, shield=c)", {"", "shield=None"}),
        ("raise Gone(f'{a + b}', seen=c)", {"", "seen=None"}),
        ("_log.info('%s', a + b, extra=c)", {""}),
        ("try: a\nexcept (B, C): d.e()", {"(B,)", "(C,)", ""}),
        ("def f(a=1):\n    return a", {"2", "return None"}),
        ("x: list[int] = y + 1", {"y - 1", "2"}),
        ("def f(x):\n    return x[-1:]", {"return None", "2"}),
        ("a = b if c else d", {"b", "d"}),
        ("isinstance(a, B | None)", {""}),
    ],
)
def test_changes(source: str, expected: set[str]) -> None:
    mutants = mutants_of_source(source, "m")
    assert {one.after for one in mutants} == expected
    changed = {ast.unparse(changed_source(source, one)) for one in mutants}
    assert len(changed) == len(mutants)
    assert ast.unparse(ast.parse(source)) not in changed


def test_every_change_of_a_room_compiles_and_has_its_own_name() -> None:
    mutants = [one for module in modules_of("_decision") for one in mutants_of(module)]
    assert len({one.name for one in mutants}) == len(mutants) > 300
    for one in mutants[::10]:
        compile(changed_source(source_of(one.module), one), one.module, "exec")


def test_a_name_outlives_changes_elsewhere() -> None:
    (here,) = mutants_of_source("def f():\n    a.b()", "m")
    _, there = mutants_of_source("def e():\n    a.b()\n\ndef f():\n    a.b()", "m")
    assert here.name == there.name


def test_code_that_differs_from_the_outermost_function_inwards() -> None:
    source = "def f():\n    def g(x):\n        return x < 1\n    return g\ndef h():\n    return 2"
    mutant = next(one for one in mutants_of_source(source, "m") if one.after == "x <= 1")
    differences = code_differences(
        compile(source, "m", "exec"), compile(changed_source(source, mutant), "m", "exec")
    )
    assert [old.co_name for old, _ in differences] == ["<module>", "f", "g"]
