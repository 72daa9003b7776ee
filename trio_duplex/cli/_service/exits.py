"""How a service ends: its exit codes, and the one line that says why.

Every subcommand that serves uses the same codes; `EXIT_CODES` is what their
``--help`` shows.
"""

from __future__ import annotations

import enum
from typing import IO, Any, cast

import click


class Exit(enum.IntEnum):
    """The exit codes of a service."""

    STOPPED = 0
    FAILED = 1
    USAGE = 2
    CREDENTIALS = 3
    ADDRESS = 4


EXIT_CODES: dict[str, str] = {
    "0": "stopped by SIGTERM or SIGINT, connections drained",
    "1": "failed while serving",
    "2": "the command line or the configuration file is wrong",
    "3": "a certificate, key, trust file or CRL can't be used",
    "4": "an address can't be had: in use, not ours, not resolved, not permitted",
    "130, 143": "ended at once by a second SIGINT or SIGTERM",
}


def first_error(error: BaseException) -> BaseException:
    """An exception itself, or the first one in a group, however deep."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        error = group.exceptions[0]
    return error


class ServiceError(click.ClickException):
    """A service can't start, or can't go on: one line, and an exit code.

    Args:
        message: What is wrong, and what to do about it.
        code: The exit code.
    """

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """The exit code, as click asks for it."""
        return int(self.code)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the one line, on stderr."""
        click.echo(f"trio-duplex: {self.format_message()}", file=file, err=file is None)
