"""Options of the same shape: a duration, a count, a file, a flag, addresses. Each says only what is its own."""

from __future__ import annotations

from typing import Any

from trio_duplex.cli._service.addresses import backend_address, listen_address
from trio_duplex.cli._service.option import Parse, option
from trio_duplex.cli._service.values import count, file_path, positive_seconds

WHO = "Who we are, and who may come in"
TIME = "Waiting and limits"
PROCESS = "The process"


def duration(
    help: str,  # noqa: A002 - click's own word
    *,
    default: float | None,
    parse: Parse = positive_seconds,
    group: str = TIME,
) -> Any:  # noqa: ANN401 - a field specifier, as `attrs.field` is one
    """Seconds; more than 0 unless ``parse`` says otherwise."""
    return option(parse, default=default, metavar="SECONDS", group=group, help=help)


def number(
    help: str,  # noqa: A002
    *,
    default: float,
    parse: Parse = count,
    group: str = TIME,
) -> Any:  # noqa: ANN401
    """How many of something."""
    return option(parse, default=default, metavar="N", group=group, help=help)


def file(help: str, *, multiple: bool = False) -> Any:  # noqa: A002, ANN401
    """A file, or several, that credentials are made from."""
    return option(file_path, metavar="FILE", file=True, multiple=multiple, group=WHO, help=help)


def flag(help: str, *, group: str = "Options", short: str | None = None) -> Any:  # noqa: A002, ANN401
    """Something that is done or not."""
    return option(str, flag=True, group=group, short=short, help=help)


def several(
    parse: Parse,
    help: str,  # noqa: A002
    *,
    metavar: str,
    group: str,
) -> Any:  # noqa: ANN401
    """A value that may be repeated."""
    return option(parse, multiple=True, metavar=metavar, group=group, help=help)


def listeners(help: str, *, group: str = "Options") -> Any:  # noqa: A002, ANN401
    """Where to listen; may be repeated."""
    return several(listen_address, help, metavar="ADDR", group=group)


def backends(help: str = "", *, group: str) -> Any:  # noqa: A002, ANN401
    """Where to forward to: the next is tried when one is down."""
    every = "Backend: HOST:PORT, [V6]:PORT or unix:PATH. If repeated, the next is tried when one is down."
    return several(backend_address, help or every, metavar="ADDR", group=group)


def connect_timeout(who: str, *, default: float, group: str) -> Any:  # noqa: ANN401
    """How long one that is dialled has to accept."""
    return duration(f"How long {who} has to accept a connection.", default=default, group=group)


def handshake_timeout(more: str = "from the role decision.") -> Any:  # noqa: ANN401
    """The bound of a handshake."""
    return duration(f"Bound of each handshake, {more}", default=30.0)


def idle_timeout(*, default: float) -> Any:  # noqa: ANN401
    """The bound of silence on an open connection."""
    help_ = "End a connection on which nothing was received or sent for so long."
    return duration(help_, default=default)
