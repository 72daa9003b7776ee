"""Help texts: a subcommand's begins with an example that works; a group's says what each subcommand does."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import click

from trio_duplex.cli._usage import OneLineUsageErrors, OneLineUsageGroup


class ExampleCommand(OneLineUsageErrors):
    """A command whose help begins with an example.

    Args:
        example: The command line, as one types it.
    """

    def __init__(self, *args: Any, example: str = "", **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        self.example = example

    def get_help(self, ctx: click.Context) -> str:
        """The whole help; click leaves a blank at the end of a long usage line."""
        shown = super().get_help(ctx).replace("``", "`")  # two are for the documentation's markup
        return "\n".join(line.rstrip() for line in shown.split("\n"))

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, then what click writes."""
        if self.example:
            formatter.write("Example:\n")
            for line in folded_example(self.example, formatter.width - 2):
                formatter.write(f"  {line}\n")
            formatter.write("\n")
        super().format_help(ctx, formatter)


def folded_example(example: str, width: int) -> Iterator[str]:
    """Break a command line that does not fit so that it can still be copied.

    Args:
        example: The command line, as its author broke it.
        width: The columns that there are.

    Yields:
        Its lines: the author's, if they fit. An option and its value stay together.
    """
    lines = example.splitlines()
    if max(map(len, lines)) <= width:
        yield from lines
        return
    words = shlex.split(example.replace("\\\n", " "))
    parts: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before.startswith("--") and not word.startswith("-"):
            parts[-1] += f" {shlex.quote(word)}"
        else:
            parts.append(shlex.quote(word))
    line = parts.pop(0)
    for part in parts:
        if len(f"{line} {part} \\") > width:
            yield f"{line} \\"
            line = f"    {part}"
        else:
            line += f" {part}"
    yield line


class HelpfulGroup(OneLineUsageGroup):
    """A group that shows the first sentence of each subcommand's help whole; click cuts it at one line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, with as many lines for each as it takes."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, each.get_short_help_str(limit=10_000))
            for name, each in found
            if each is not None and not each.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
