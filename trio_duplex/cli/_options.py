"""Options that subcommands share, and how their values are read.

The readers are plain functions, which click takes as types; a value that they
refuse ends in a usage error (exit code 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class PemFile(click.Path):
    """A file that can be read; what can't is a usage error."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, readable=True, path_type=Path)


def seconds(value: str) -> float:
    """Read a duration: 0 or more seconds, or ``inf``."""
    try:
        duration = float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number of seconds") from None
    if math.isnan(duration) or duration < 0:
        raise click.BadParameter(f"{value} is not 0 or more seconds")
    return duration


def finite_seconds(value: str) -> float:
    """Read a duration that ends."""
    duration = seconds(value)
    if math.isinf(duration):
        raise click.BadParameter("it must end, or a silent peer waits for ever")
    return duration


def positive(value: str) -> float:
    """Read a number above 0 that ends."""
    try:
        number = float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number") from None
    if not 0 < number < math.inf:  # NaN is neither
        raise click.BadParameter(f"{value} is not a number above 0")
    return number


def host_port(value: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, with IPv6 addresses in brackets."""
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
    """Read ``HOST:PORT`` where somebody may listen: any port but 0."""
    host, port = host_port(value)
    if port == 0:
        raise click.BadParameter("nobody listens at port 0")
    return host, port


def format_host_port(host: str, port: int) -> str:
    """Write an address as `host_port` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_option(*, default: str) -> Callable[[F], F]:
    """``--listen``: where to accept peers, as `host_port` gives it."""
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
