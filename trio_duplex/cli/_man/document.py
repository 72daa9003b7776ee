"""What the help of a command says, as parts: made by the code that prints ``--help``.

So a manual page can't say anything else than the help does, whatever kind of command it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import attrs
import click

Rows: TypeAlias = list[tuple[str, str]]


@attrs.frozen
class Section:
    """A heading and what is under it.

    Attributes:
        heading: As in the help, or empty for what is before the first one.
        paragraphs: Running text, and examples with their line ends.
        rows: Options and what they do.
    """

    heading: str
    paragraphs: list[str] = attrs.field(factory=list[str])
    rows: Rows = attrs.field(factory=list[tuple[str, str]])


@attrs.frozen
class Document:
    """The help of one command.

    Attributes:
        name: All its words: ``trio-duplex rendezvous hub``.
        summary: What it does, in a line.
        usage: The words behind the name.
        example: A command line that works, or empty.
        sections: The rest, in the order of the help.
    """

    name: str
    summary: str
    usage: str
    example: str
    sections: list[Section]


class _Recorder(click.HelpFormatter):
    """Notes what click would have formatted."""

    def __init__(self) -> None:
        super().__init__(width=10_000)
        self.usage = ""
        self.example = ""
        self.sections = [Section("")]

    def write(self, string: str) -> None:
        """Only examples are written without another method; the rest was noted by then."""
        if string.startswith("  ") and not self.usage:
            self.example += string

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Note the usage."""
        del prog, prefix
        self.usage = args

    def write_heading(self, heading: str) -> None:
        """Begin a section."""
        self.sections.append(Section(heading))

    def write_text(self, text: str) -> None:
        """Note running text, which may be several paragraphs."""
        parts = [part for part in text.split("\n\n") if part.strip()]
        self.sections[-1].paragraphs.extend(parts)

    def write_dl(
        self,
        rows: Iterable[tuple[str, str]],
        col_max: int = 30,
        col_spacing: int = 2,
    ) -> None:
        """Note options."""
        del col_max, col_spacing
        self.sections[-1].rows.extend(rows)


def document(command: click.Command, context: click.Context) -> Document:
    """The help of a command, in parts."""
    recorder = _Recorder()
    command.format_help(context, recorder)
    return Document(
        name=context.command_path,
        summary=command.get_short_help_str(limit=200).rstrip("."),
        usage=recorder.usage,
        example="\n".join(line[2:] for line in recorder.example.splitlines()),
        sections=[each for each in recorder.sections if each.paragraphs or each.rows],
    )


def documents(command: click.Command, name: str) -> Iterator[Document]:
    """The help of a command and of all its subcommands, each group before what is in it."""
    context = click.Context(command, info_name=name, **command.context_settings)
    yield from _documents(command, context)


def _documents(command: click.Command, context: click.Context) -> Iterator[Document]:
    yield document(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                settings = inner.context_settings
                below = click.Context(inner, parent=context, info_name=name, **settings)
                yield from _documents(inner, below)
