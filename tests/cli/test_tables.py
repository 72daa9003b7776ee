"""Tables on terminals of all widths, and in pipes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from trio_duplex.cli._tables import Column, Rows

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
    assert lines[0] == "validity"
    assert "  milliseconds: 12" in lines
    assert "names" in lines
    words = " ".join(line.strip() for line in lines)
    assert SENTENCE in words  # whole words, each in its place


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
