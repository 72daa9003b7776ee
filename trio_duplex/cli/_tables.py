"""Tables for terminals, as wide as the terminal, and for pipes, with one line for each row.

A table that does not fit the terminal is written as a list with a block for each row,
because very narrow columns are hard to read. No line ends in blanks, and a pipe gets no
rules. Running text is folded, in a pipe at `PROSE_WIDTH`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from trio_duplex.cli._text import PROSE_WIDTH

PIPE_WIDTH = 10_000
"""The width of output to a pipe: wide enough for one line for each row, so that grep works."""

LEAST_FOLDED = 24
"""The least width of a folded column that is still readable."""


def new_console() -> Console:
    """Make a console on standard output that does not interpret any markup."""
    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal:
        return console
    return Console(markup=False, emoji=False, highlight=False, width=PIPE_WIDTH)


def prose_width(console: Console) -> int:
    """How wide running text may be."""
    return console.width if console.is_terminal else PROSE_WIDTH


def print_folded(
    console: Console, *parts: Text, label: Text | None = None, indent: int = 0
) -> None:
    """Print parts of a sentence, with as many on a line as fit.

    Args:
        console: Where to.
        parts: The parts. One that is wider than a line is broken between words.
        label: What stands before the first one.
        indent: The columns that the label takes; all other lines are indented as far.
    """
    start = label or Text()
    for line in _folded(console, parts, max(1, prose_width(console) - indent)):
        start.pad_right(indent - len(start))
        console.print(Text.assemble(start, line), soft_wrap=True)
        start = Text()


def _folded(console: Console, parts: Sequence[Text], width: int) -> list[Text]:
    lines: list[Text] = []
    for part in parts:
        joined = Text(", ").join([*lines[-1:], part])
        if len(joined) <= width:
            lines[-1:] = [joined]
            continue
        wrapped = part.wrap(console, width)
        for line in wrapped:
            line.rstrip()
        lines += wrapped
    return lines


@attrs.frozen
class Column:
    """A column.

    Attributes:
        title: The heading.
        right: Whether the cells are right-aligned, as numbers are.
        folds: Whether the cells are text that may continue on the next line.
        style: The style of the cells.
    """

    title: str
    right: bool = False
    folds: bool = False
    style: str = ""


class Prose:
    """Running text, folded at the terminal's width; no line ends in blanks.

    Args:
        text: The text.
    """

    def __init__(self, text: Text) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _lines(console.render_lines(self.text, options, pad=False))


class Rows:
    """A table, or a list with the same content if the table does not fit.

    Args:
        columns: The columns; the first ``names`` of them name the row.
        names: How many columns name the row. If the first cell is empty, the row belongs to what
            the row above it named.
    """

    def __init__(self, *columns: Column, names: int = 1) -> None:
        self.columns = columns
        self.names = names
        self.rows: list[Sequence[Text]] = []

    def add(self, *cells: Text | str) -> None:
        """Add a row."""
        self.rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.is_terminal and self._least_width(console, options) > options.max_width:
            for block in self._as_list(options.max_width):
                yield from _lines(console.render_lines(block, options, pad=False))
            return
        table = Table(
            box=box.SIMPLE_HEAD if console.is_terminal else None,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1) if console.is_terminal else (0, 2, 0, 0),
        )
        for column in self.columns:
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=not column.folds,
                overflow="fold",
                style=column.style,
            )
        for row in self.rows:
            table.add_row(*row)
        yield from _lines(console.render_lines(table, options, pad=False))

    def _least_width(self, console: Console, options: ConsoleOptions) -> int:
        """The columns that it takes, if what folds is folded as far as can be read."""
        total = 3 * (len(self.columns) - 1)
        for position, column in enumerate(self.columns):
            cells = [row[position] for row in self.rows if position < len(row)]
            texts = [Text(column.title), *cells]
            widest = max(Measurement.get(console, options, text).maximum for text in texts)
            total += min(widest, LEAST_FOLDED) if column.folds else widest
        return total

    def _as_list(self, width: int) -> Iterator[Text | Padding]:
        """Make a list: the titles of the columns that name the rows, then each row's name and, indented, its cells."""
        yield Text(" ".join(column.title for column in self.columns[: self.names]) + ":")
        first = Text()
        for row in self.rows:
            first = row[0] if row[0].plain else first
            names = [
                Text(cell.plain, style=column.style)
                for column, cell in zip(self.columns, [first, *row[1 : self.names]], strict=False)
                if cell.plain
            ]
            yield Text(" ").join(names)
            for line in self._cells(row, width - 2):
                yield Padding(line, (0, 0, 0, 2), expand=False)

    def _cells(self, row: Sequence[Text], width: int) -> Iterator[Text]:
        """The cells behind the names: short ones share lines, as many as fit."""
        line = Text()
        for column, cell in list(zip(self.columns, row, strict=False))[self.names :]:
            if not cell.plain:
                continue
            said = cell if column.folds else Text.assemble(f"{column.title}: ", cell)
            if line and (column.folds or len(line) + 2 + len(said) > width):
                yield line
                line = Text()
            line = Text(", ").join([line, said]) if line else said
        if line:
            yield line


def _lines(lines: Sequence[Sequence[Segment]]) -> Iterator[Segment]:
    for line in lines:
        yield from _without_trailing_blanks(line)
        yield Segment.line()


def _without_trailing_blanks(line: Sequence[Segment]) -> Iterator[Segment]:
    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    if kept:
        last = kept.pop()
        yield from kept
        yield Segment(last.text.rstrip(), last.style, last.control)
