"""A subcommand that serves: made from the settings class of its kind of service.

Values stay text here and are read with the file's, in one place, so that a
wrong one is one line on stderr wherever it came from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from trio_duplex.cli._examples import ExampleCommand
from trio_duplex.cli._service.configuration import Configuration, Kind
from trio_duplex.cli._service.exits import EXIT_CODES
from trio_duplex.cli._service.option import Option, options_of, show_value
from trio_duplex.cli._service.settings import ProcessSettings
from trio_duplex.cli._service.shapes import TIME, WHO
from trio_duplex.cli._system.start import start

if TYPE_CHECKING:
    _TextType = click.ParamType[str]
else:  # generic only to type checkers before click 8.4
    _TextType = click.ParamType


class Text(_TextType):
    """Text that is read later; completed as a file's name if it is one."""

    name = "text"

    def __init__(self, *, file: bool = False) -> None:
        self._file = file

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Complete file names."""
        return [CompletionItem(incomplete, type="file")] if self._file else []


class GroupedOption(click.Option):
    """An option that stands under a heading of its own in the help."""

    def __init__(self, *declarations: str, group: str, **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(declarations, **attributes)
        self.group = group


class DescribedArgument(click.Argument):
    """An argument that the help lists with what it is; click's own can say that since 8.5."""

    group = "Arguments"

    def __init__(self, name: str, *, described: str, **attributes: Any) -> None:  # noqa: ANN401
        super().__init__([name], **attributes)
        self.described = described

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Its name and what it is."""
        return self.make_metavar(ctx), self.described


class ServiceCommand(ExampleCommand):
    """A subcommand whose help has headings.

    Args:
        exit_codes: What each exit code means, for the help.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's
        exit_codes: Mapping[str, str] = EXIT_CODES,
        **options: Any,  # noqa: ANN401 - click's
    ) -> None:
        super().__init__(*args, **options)
        self.exit_codes = exit_codes

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                group = getattr(param, "group", "Help")
                groups.setdefault(group, []).append(record)
        help_ = groups.pop("Help", [])
        groups["The process"] = groups.pop("The process", []) + help_
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
        with formatter.section("Exit codes"):
            formatter.write_dl([*self.exit_codes.items()])


def service_command(
    kind: Kind, kinds: Callable[[], Mapping[str, Kind]], *, example: str, name: str | None = None
) -> click.Command:
    """Make the subcommand of a kind of service.

    Args:
        kind: The kind.
        kinds: Every kind that a file may name; asked when the command runs with a file.
        example: A command line that works, with which the help begins.
        name: The subcommand's name, if it is not the kind's.
    """

    def run(**values: object) -> None:
        config = values.pop("config", None)
        given = given_options(click.get_current_context(), values)
        file = Path(config) if isinstance(config, str) else None
        configuration = Configuration(
            kinds={kind.name: kind} if file is None else kinds(),
            kind=kind,
            command_line=given,
            file=file,
        )
        sys.exit(start(configuration))

    return ServiceCommand(
        name or kind.name,
        callback=run,
        example=example,
        help=kind.service.__doc__,
        params=[
            *sorted(parameters_of(kind.settings), key=listed),
            GroupedOption(
                "--config",
                group="The process",
                type=Text(file=True),
                metavar="FILE",
                help="TOML file with the same options, and with several services if you like.",
            ),
            *parameters_of(ProcessSettings),
        ],
    )


def serve_command(kinds: Callable[[], Mapping[str, Kind]], *, example: str) -> click.Command:
    """Make the subcommand that runs every service of a file, of whatever kinds.

    Args:
        kinds: Every kind that a file may name; asked when the command runs.
        example: A command line that works, with which the help begins.
    """

    def run(file: str, **values: object) -> None:
        given = given_options(click.get_current_context(), values)
        sys.exit(start(Configuration(kinds(), None, given, Path(file))))

    return ServiceCommand(
        "serve",
        callback=run,
        example=example,
        help="Run all services of a configuration FILE in one process.",
        params=[
            DescribedArgument(
                "file",
                described="TOML file; trio-duplex config FILE checks it.",
                type=Text(file=True),
                metavar="FILE",
            ),
            *parameters_of(ProcessSettings),
        ],
    )


def parameters_of(settings: type[Any]) -> Sequence[click.Parameter]:
    """The parameters of a subcommand that a settings class describes."""
    return [
        _parameter(field, name, made, default)
        for field, name, made, default in options_of(settings)
    ]


def listed(param: click.Parameter) -> int:
    """What to list first: where to listen, then what only this kind has, then what all have."""
    group = getattr(param, "group", "Options")
    return {"Arguments": 0, "Options": 1, WHO: 3, TIME: 4}.get(group, 2)


def _parameter(field: str, name: str, made: Option, default: object) -> click.Parameter:
    if made.argument:
        return DescribedArgument(
            field, described=made.help, nargs=-1, type=Text(), metavar=made.metavar
        )
    shown = ""
    if not made.flag and not made.multiple and default is not None:
        shown = f"  [default: {show_value(default)}]"
    declarations = [f"--{name}", field]
    if made.short:
        declarations.insert(0, made.short)
    if made.flag:
        return GroupedOption(
            *declarations, group=made.group, is_flag=True, default=None, help=made.help
        )
    return GroupedOption(
        *declarations,
        group=made.group,
        type=Text(file=made.file),
        multiple=made.multiple,
        metavar=made.metavar,
        help=made.help + shown,
    )


def given_options(ctx: click.Context, values: Mapping[str, object]) -> dict[str, object]:
    """What the command line really said, by option name."""
    names = {param.name: param for param in ctx.command.params}
    given: dict[str, object] = {}
    for field, value in values.items():
        # click 8.2 says of an argument that may be left out that the command line gave it: as ().
        given_here = ctx.get_parameter_source(field) is click.core.ParameterSource.COMMANDLINE
        if given_here and value != ():
            assert field in names
            given[field.rstrip("_").replace("_", "-")] = value
    return given
