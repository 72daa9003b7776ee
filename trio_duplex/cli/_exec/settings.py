"""The options of ``trio-duplex exec``."""

from __future__ import annotations

import re

import attrs

from trio_duplex.cli._service.option import option
from trio_duplex.cli._service.settings import ServiceSettings
from trio_duplex.cli._service.shapes import duration, number, several
from trio_duplex.cli._service.values import seconds

PROGRAM = "The program"


def variable(text: str) -> str:
    """Read the name of an environment variable, or a pattern such as ``LC_*``."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?|\*", text):
        raise ValueError(f"{text!r} is not the name of a variable, such as PATH or LC_*")
    return text


def assignment(text: str) -> tuple[str, str]:
    """Read ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def argument(text: str) -> str:
    """Read one word of the program's command line."""
    if "\0" in text:
        raise ValueError("an argument holds no NUL byte")
    return text


@attrs.frozen(kw_only=True)
class ExecSettings(ServiceSettings):
    """What the runner of programs is told."""

    program: tuple[str, ...] = option(
        argument,
        multiple=True,
        argument=True,
        metavar="PROGRAM [ARGS]...",
        help="The program and its arguments.",
    )
    pass_env: tuple[str, ...] = several(
        variable,
        "Pass this variable of our environment on, or all of a pattern such as LC_*. PATH always is.",
        metavar="NAME",
        group=PROGRAM,
    )
    env: tuple[tuple[str, str], ...] = several(
        assignment, "Set this variable for the program.", metavar="NAME=VALUE", group=PROGRAM
    )
    processes: float = number(
        "Programs at once; further connections wait for one to end.", default=100, group=PROGRAM
    )
    eof_grace: float = duration(
        "When the peer has gone: how long after the end of its input the program gets SIGTERM.",
        default=10.0,
        parse=seconds,
        group=PROGRAM,
    )
    term_grace: float = duration(
        "How long after SIGTERM it gets SIGKILL.", default=5.0, parse=seconds, group=PROGRAM
    )
