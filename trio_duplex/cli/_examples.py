"""Help texts: a subcommand's begins with an example that works; a group's says what each subcommand does."""

from __future__ import annotations

from typing import Any

import click


class ExampleCommand(click.Command):
    """A command whose help begins with an example.

    Args:
        example: The command line, as one types it.
    """

    def __init__(self, *args: Any, example: str = "", **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        self.example = example

    def get_help(self, ctx: click.Context) -> str:
        """The whole help; click leaves a blank at the end of a long usage line."""
        return "\n".join(line.rstrip() for line in super().get_help(ctx).split("\n"))

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, then what click writes."""
        if self.example:
            formatter.write("Example:\n")
            formatter.write("".join(f"  {line}\n" for line in self.example.splitlines()))
            formatter.write("\n")
        super().format_help(ctx, formatter)


class HelpfulGroup(click.Group):
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
