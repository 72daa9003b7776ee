"""Options that subcommands share, and the functions that parse their values.

Click accepts plain functions as types. If such a function refuses a value, the
command ends with a usage error (exit code 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class PemFile(click.Path):
    """A readable file. If it can't be read, that is a usage error."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, readable=True, path_type=Path)


def seconds(value: str) -> float:
    """Parse a duration: 0 or more seconds, or ``inf``."""
    try:
        duration = float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number of seconds") from None
    if math.isnan(duration) or duration < 0:
        raise click.BadParameter(f"{value} is not 0 or more seconds")
    return duration


def finite_seconds(value: str) -> float:
    """Parse a finite duration."""
    duration = seconds(value)
    if math.isinf(duration):
        raise click.BadParameter("it must be finite, or a silent peer would wait for ever")
    return duration


def positive(value: str) -> float:
    """Parse a finite number above 0."""
    try:
        number = float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number") from None
    if not 0 < number < math.inf:  # this also refuses NaN
        raise click.BadParameter(f"{value} is not a number above 0")
    return number


def host_port(value: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``, with IPv6 addresses in brackets."""
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or (":" in host and not bracketed):
        raise click.BadParameter(
            f"{value!r} is not HOST:PORT, such as 127.0.0.1:8443 or [::1]:8443"
        )
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise click.BadParameter(f"{port!r} is not a port, 0 to 65535")
    return host, int(port)


def dialled_host_port(value: str) -> tuple[str, int]:
    """Parse ``HOST:PORT`` for dialling: any port except 0."""
    host, port = host_port(value)
    if port == 0:
        raise click.BadParameter("nobody listens at port 0")
    return host, port


def format_host_port(host: str, port: int) -> str:
    """Format an address in the form that `host_port` parses."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_option(*, default: str) -> Callable[[F], F]:
    """``--listen``: the address to accept peers on, parsed by `host_port`."""
    return click.option(
        "--listen",
        type=host_port,
        default=default,
        show_default=True,
        metavar="HOST:PORT",
        help="Where to listen; port 0 takes a free one.",
    )


def window_option(
    *,
    default: str,
    type: Callable[[str], float] = seconds,  # noqa: A002 - click's own word
) -> Callable[[F], F]:
    """``--window``: the detection window, in seconds."""
    return click.option(
        "--window",
        type=type,
        default=default,
        show_default=True,
        metavar="SECONDS",
        help="Detection window: how long to wait for a peer's first bytes.",
    )
