"""One option of a service: its name, how it is read, its default and its help.

The options of a service are the fields of an attrs class, each made by
`option`. The command line (`_service/command.py`), the TOML file
(`_service/configuration.py`) and ``trio-duplex config`` are all made from them,
so that a name and its meaning are written once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import attrs

from trio_duplex.cli._service.addresses import UnixAddress

_KEY = "trio_duplex.option"

Parse = Callable[[str], object]


@attrs.frozen(kw_only=True)
class Option:
    """What `option` says of a field.

    Attributes:
        parse: Reads one value from text; raises ValueError with what is wrong.
        help: One or two sentences, without the default.
        metavar: What stands for the value in the help.
        multiple: May be given several times; the value is a tuple.
        flag: Takes no value; the value is a bool.
        argument: The rest of the command line, not an option.
        group: The heading in the help under which it is listed.
        short: A one-letter name, such as ``-q``.
        file: The value is a file's path: completed as one.
    """

    parse: Parse
    help: str
    metavar: str
    multiple: bool = False
    flag: bool = False
    argument: bool = False
    group: str = "Options"
    short: str | None = None
    file: bool = False


def option(
    parse: Parse,
    *,
    help: str,  # noqa: A002 - click's own word
    metavar: str = "",
    default: object = None,
    multiple: bool = False,
    flag: bool = False,
    argument: bool = False,
    group: str = "Options",
    short: str | None = None,
    file: bool = False,
) -> Any:  # noqa: ANN401 - a field specifier, as `attrs.field` is one
    """Make a field of a settings class into an option.

    The name of the option is the field's, with hyphens. See `Option` for the
    arguments; ``default`` is the value itself, not its text.
    """
    if multiple and default is None:
        default = ()
    elif flag:
        default = False
    made = Option(
        parse=parse,
        help=help,
        metavar=metavar,
        multiple=multiple,
        flag=flag,
        argument=argument,
        group=group,
        short=short,
        file=file,
    )
    return attrs.field(default=default, metadata={_KEY: made})


def options_of(settings: type[Any]) -> Iterator[tuple[str, str, Option, object]]:
    """The options of a settings class: field name, option name, option, default."""
    for field in attrs.fields(settings):
        found = field.metadata.get(_KEY)
        if found is not None:
            name = cast("str", field.name)
            yield name, option_name(name), cast("Option", found), cast("object", field.default)


def option_name(field: str) -> str:
    """The name on the command line and in the file: the field's, with hyphens."""
    return field.rstrip("_").replace("_", "-")


def read_value(made: Option, raw: object, folder: Path | None = None) -> object:
    """Read a value, from the command line's text or from what TOML made of it.

    Args:
        made: The option.
        raw: Text, a number, a bool, or a list of them.
        folder: What relative paths are relative to; None for the working directory.

    Raises:
        ValueError: It is no value of this option.
    """
    if made.flag:
        if not isinstance(raw, bool):
            raise ValueError(f"{raw!r} is neither true nor false")
        return raw
    if made.multiple:
        several = cast("Sequence[object]", raw if isinstance(raw, list | tuple) else [raw])
        return tuple(_one(made, each, folder) for each in several)
    return _one(made, raw, folder)


def _one(made: Option, raw: object, folder: Path | None) -> object:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        wanted = made.metavar or "text"
        raise ValueError(f"{raw!r} is not {wanted}")
    value = made.parse(str(raw))
    if folder is None:
        return value
    if isinstance(value, Path):
        return folder / value.expanduser()
    if isinstance(value, UnixAddress) and not value.path.startswith("@"):
        return UnixAddress(str(folder / value.path))
    return value


def show_value(value: object) -> str:
    """Write a value as the command line and the file take it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, float | int):
        return f"{value:g}" if value < 1e15 else "inf"
    return str(value)
