"""Tables on terminals of all widths, and in pipes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from trio_duplex.cli._tables import Column, Prose, Rows, print_folded

pytestmark = pytest.mark.slow


SENTENCE = "the quick brown fox jumps over the lazy dog and comes back to tell"


def shown(width: int, *, terminal: bool) -> list[str]:
    rows = Rows(
        Column("check", style="bold"),
        Column("milliseconds", right=True),
        Column("what was found", folds=True),
    )
    rows.add("validity", "12", SENTENCE)
    rows.add("names", "", "a.example")
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=terminal, color_system=None).print(rows)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [200, 80, 50, 30])
@pytest.mark.parametrize("terminal", [True, False])
def test_no_line_ends_in_blanks_or_is_too_long(width: int, terminal: bool) -> None:
    lines = shown(width, terminal=terminal)
    assert [line for line in lines if line != line.rstrip() or len(line) > width] == []


def test_a_pipe_gets_a_line_for_each_row_and_no_rule() -> None:
    lines = shown(10_000, terminal=False)
    assert lines[0].split() == ["check", "milliseconds", "what", "was", "found"]
    assert lines[1].endswith(SENTENCE)
    assert len(lines) == 3


def test_a_terminal_that_is_too_narrow_gets_a_list() -> None:
    lines = shown(40, terminal=True)
    assert lines[:2] == ["check:", "validity"]
    assert "  milliseconds: 12" in lines
    assert "names" in lines
    words = " ".join(line.strip() for line in lines)
    assert SENTENCE in words  # whole words, each in its place


def test_a_list_says_the_names_of_its_columns_and_of_each_row() -> None:
    numbers = [Column(title, right=True) for title in ("p50", "p90", "max")]
    rows = Rows(Column("ms from when due"), Column("until"), *numbers, names=2)
    rows.add("speaking", "connected", "1.2", "-", "12345.6")
    rows.add("", "handshake", "1.4", "-", "1.5")
    file = io.StringIO()
    Console(file=file, width=30, force_terminal=True, color_system=None).print(rows)
    assert file.getvalue().splitlines() == [
        "ms from when due until:",
        "speaking connected",
        "  p50: 1.2, p90: -",
        "  max: 12345.6",
        "speaking handshake",
        "  p50: 1.4, p90: -, max: 1.5",
    ]


def test_folded_prose_does_not_end_in_blanks() -> None:
    file = io.StringIO()
    console = Console(file=file, width=30, force_terminal=True, color_system=None)
    console.print(Prose(Text(SENTENCE)))
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (40, ["ok    one, two words, three"]),
        (22, ["ok    one, two words", "      three"]),
        (12, ["ok    one", "      two", "      words", "      three"]),
    ],
)
def test_folded_text_is_indented(width: int, expected: list[str]) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    parts = map(Text, ["one", "two words", "three"])
    print_folded(console, *parts, label=Text("ok"), indent=6)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("arguments", [["certs", "lab", "a.example"], ["demo"], ["--help"]])
def test_a_full_disk(arguments: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "trio_duplex", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            timeout=120,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "trio-duplex: can't write standard output: No space left on device\n"
