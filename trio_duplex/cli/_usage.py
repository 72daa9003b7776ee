"""A wrong command line is one line on stderr: what is wrong, what is nearest, and which help to read."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Generator, Sequence
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from trio_duplex.cli._service.exits import Exit, ServiceError

MOST_NAMES = 3
"""How many similar names are shown at most."""

LEAST_LIKENESS = 0.5
"""How similar a name must be to be shown; 1 is equal."""


class OneLineUsageErrors(click.Command):
    """A command whose usage errors are one line, with the exit code 2; click prints four."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's
    ) -> click.Context:
        """Parse the command line.

        Raises:
            ServiceError: It is wrong.
        """
        path = str(info_name) if parent is None else f"{parent.command_path} {info_name}"
        with _in_one_line(path):
            return super().make_context(info_name, args, parent, **extra)


class OneLineUsageGroup(OneLineUsageErrors, click.Group):
    """A group that names the nearest subcommands if there is none of that name."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the subcommand.

        Raises:
            ServiceError: The command line names none.
        """
        with _in_one_line(ctx.command_path):
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand.

        Raises:
            ServiceError: There is none of that name.
        """
        known = self.list_commands(ctx)
        if ctx.resilient_parsing or args[0] in known:
            return super().resolve_command(ctx, args)
        message = f"there is no subcommand {args[0]!r}{_nearest(args[0], known)}"
        raise ServiceError(_with_help(message, ctx.command_path), Exit.USAGE)


@contextlib.contextmanager
def _in_one_line(path: str) -> Generator[None]:
    try:
        yield
    except NoArgsIsHelpError:  # which prints the whole help
        raise
    except click.UsageError as exc:
        raise ServiceError(_with_help(exc.format_message(), path), Exit.USAGE) from exc


def _with_help(message: str, path: str) -> str:
    message = message.rstrip(".")
    link = " See" if message.endswith(("?", "?)")) else "; see"
    return f"{message}{link} {path} --help"


def _nearest(name: str, known: Sequence[str]) -> str:
    """Say which of the known names are like a name, the most similar one first."""
    likely = difflib.get_close_matches(name, known, n=MOST_NAMES, cutoff=LEAST_LIKENESS)
    likely += [each for each in known if name and each.startswith(name) and each not in likely]
    if not likely:
        return ""
    *first, last = likely[:MOST_NAMES]
    return (
        f": the nearest are {', '.join(first)} and {last}" if first else f": the nearest is {last}"
    )
