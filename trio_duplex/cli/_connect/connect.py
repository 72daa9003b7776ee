"""The subcommand ``trio-duplex connect``: one connection, with standard input and output as its other end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import click
import trio

from trio_duplex import CertificateRejectedError, Connection, DuplexError, Role
from trio_duplex.cli._connect.exits import EXIT_CODES, ConnectExit, exit_code
from trio_duplex.cli._connect.reach import accepted_role, reach
from trio_duplex.cli._connect.report import report
from trio_duplex.cli._connect.settings import ConnectSettings
from trio_duplex.cli._connect.standard import OutputError, StandardStreams, copy
from trio_duplex.cli._run import run
from trio_duplex.cli._service.command import ServiceCommand, given_options, listed, parameters_of
from trio_duplex.cli._service.configuration import command_line_settings
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.facts import Facts
from trio_duplex.cli._service.material import make_credentials
from trio_duplex.cli._text import plain

HELP = """Connect to HOST:PORT in either TLS role, and copy standard input and output.

The end of standard input is told to the peer (close_notify), and what it still
sends is copied until it finishes too. Like ``openssl s_client``, but it can
also be the TLS server of the connection that it dials (--role server), and with
--listen the end that is dialled.
"""


LAST_INPUT = 1.0
"""Seconds that the end of standard input may take to come, and to be sent, once the peer has finished."""


def _connect(**values: object) -> None:
    given = given_options(click.get_current_context(), values)
    settings = command_line_settings(ConnectSettings, given, name="connect")
    for defect in _contradictions(settings):
        raise ServiceError(f"connect: {defect}; see trio-duplex connect --help", Exit.USAGE)
    sys.exit(run(lambda: _main(settings)))


def _contradictions(settings: ConnectSettings) -> Iterator[str]:
    """What options say that do not go together."""
    if len(settings.target) != (1 if settings.listen is None else 0):
        yield "give either HOST:PORT or --listen ADDR"
    if settings.announce and settings.role is not Role.SERVER:
        yield "--announce says that we will be the TLS server: give --role server too"
    if settings.announce and settings.listen is not None:
        yield "--announce is for the end that dials, and --listen is not"
    role = accepted_role(settings)
    if settings.window is not None and role is not None:
        yield f"--window waits for the peer to choose, and our role is {role}: leave it out, or give --role either"


connect = ServiceCommand(
    "connect",
    callback=_connect,
    example=(
        "trio-duplex connect 127.0.0.1:8443 -v \\\n"
        "    --cert node.pem --key node.key --trust ca.pem"
    ),
    help=HELP,
    params=sorted(parameters_of(ConnectSettings), key=listed),
    exit_codes=EXIT_CODES,
)


async def _main(settings: ConnectSettings) -> int:
    credentials = make_credentials(settings)
    try:
        connection = await reach(settings, credentials, _tell)
    except DuplexError as exc:
        _tell(str(exc))
        return exit_code(exc)
    connection.idle_timeout = settings.idle_timeout
    if settings.verbose:
        for line in report(Facts.of(connection), settings):
            _tell(line)
    try:
        async with connection:
            await _copy_both_ways(connection, half_close=not settings.no_half_close)
    except CertificateRejectedError as exc:
        _tell(str(exc))
        return exit_code(exc)
    except trio.BrokenResourceError as exc:
        _tell(str(exc) or "the connection broke")
        return ConnectExit.CUT
    except OutputError as exc:
        if str(exc):
            _tell(str(exc))
        return ConnectExit.CUT
    if settings.verbose:
        _tell(f"ended: {connection.bytes_received} bytes received, {connection.bytes_sent} sent")
    return ConnectExit.ENDED


async def _copy_both_ways(connection: Connection, *, half_close: bool) -> None:
    """Copy until the peer has finished. If we finish first, send it a close_notify."""
    standard = StandardStreams()
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def to_peer() -> None:
            try:
                await copy(standard, connection)
                if half_close:
                    await connection.send_eof()
            except trio.BrokenResourceError as exc:
                failures.append(exc)  # what we receive may tell the reason better

        async def from_peer() -> None:
            try:
                await copy(connection, standard)
            except (trio.BrokenResourceError, OutputError) as exc:
                failures.insert(0, exc)
            # Standard input that is there to its end is still sent; a terminal's has no end.
            patience = LAST_INPUT if half_close and not os.isatty(0) else 0.0
            nursery.cancel_scope.deadline = trio.current_time() + patience

        nursery.start_soon(to_peer)
        nursery.start_soon(from_peer)
    if failures:
        raise failures[0]


def _tell(line: str) -> None:
    click.echo(f"trio-duplex: {plain(line)}", err=True)
