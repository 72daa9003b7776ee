"""The subcommand ``trio-duplex config``: check a configuration file, and print what is in force."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click
from rich.text import Text

from trio_duplex.cli._examples import ExampleCommand
from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._service.configuration import COMMAND_LINE, Configuration
from trio_duplex.cli._service.exits import Exit
from trio_duplex.cli._service.option import options_of, show_value
from trio_duplex.cli._service.settings import ProcessSettings, ServiceSettings
from trio_duplex.cli._tables import Column, Rows, new_console


@click.command(cls=ExampleCommand, example="trio-duplex config trio-duplex.toml")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--changed", is_flag=True, help="Leave out what has its default.")
def config(file: Path, changed: bool) -> None:
    """Check a configuration FILE, and print what would be in force.

    Each option is printed with its value and where that comes from. The exit code
    is 0, or 2 if something is wrong with the file; each defect is one line.
    """
    plan, defects = Configuration(kinds=all_kinds(), kind=None, file=file).defects()
    if defects:
        for defect in defects:
            click.echo(f"trio-duplex: {defect}", err=True)
        sys.exit(int(Exit.USAGE))
    table = Rows(
        Column("service"),
        Column("option", style="bold"),
        Column("value", folds=True),
        Column("origin", folds=True),
        names=2,
    )
    for row in _rows("", plan.process, changed=changed):
        table.add(*row)
    for service in plan.services:
        for row in _rows(service.name, service.settings, changed=changed):
            table.add(*row)
    new_console().print(table)


def _rows(
    service: str, settings: ServiceSettings | ProcessSettings, *, changed: bool
) -> Iterator[tuple[Text, Text, Text, Text]]:
    for field, name, _, _ in options_of(type(settings)):
        origin = settings.origins.get(name)
        if origin is None and changed:
            continue
        value = getattr(settings, field)
        several = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
        shown = " ".join(map(show_value, several))
        assert origin != COMMAND_LINE
        yield Text(service), Text(name), Text(shown or "-"), Text(origin or "default")
