"""The options of ``trio-duplex connect``."""

from __future__ import annotations

import math

import attrs

from trio_duplex import Role
from trio_duplex.cli._service.addresses import (
    ListenAddress,
    TcpAddress,
    backend_address,
    listen_address,
)
from trio_duplex.cli._service.option import option
from trio_duplex.cli._service.settings import CredentialSettings
from trio_duplex.cli._service.shapes import TIME, duration, flag, handshake_timeout, idle_timeout
from trio_duplex.cli._service.values import seconds
from trio_duplex.cli._service.window import NamedWindow, window

EITHER = "either"

LISTENING_WINDOW = 5.0
"""Seconds: that of every listener."""


def dialled_address(text: str) -> TcpAddress:
    """Read where to connect to."""
    address = backend_address(text, forms="HOST:PORT or [V6]:PORT")
    if not isinstance(address, TcpAddress):
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8443")
    return address


def role(text: str) -> Role | None:
    """Read a role; None leaves it to the peer."""
    if text == EITHER:
        return None
    try:
        return Role(text)
    except ValueError:
        raise ValueError(f"{text!r} is not client, server or either") from None


@attrs.frozen(kw_only=True)
class ConnectSettings(CredentialSettings):
    """What one connection is told."""

    target: tuple[TcpAddress, ...] = option(
        dialled_address,
        multiple=True,
        argument=True,
        metavar="[HOST:PORT]",
        help="Where to connect to.",
    )
    role: Role | None = option(
        role,
        default=Role.CLIENT,
        metavar="client|server|either",
        help="The TLS role that we play; either takes the one that the peer leaves us.",
    )
    announce: bool = flag(
        "With --role server, say so first: a listener that understands the announcement does "
        "not wait for the end of its detection window."
    )
    listen: ListenAddress | None = option(
        listen_address,
        metavar="ADDR",
        help="Be the other end: accept one connection at HOST:PORT, [V6]:PORT, unix:PATH or fd:NAME, "
        "in the role that the peer leaves us unless --role says otherwise.",
    )
    no_half_close: bool = flag(
        "At the end of standard input, do not tell the peer that it was the end."
    )
    verbose: bool = flag(
        "Tell on stderr what was decided, who the peer is, and how that was verified.", short="-v"
    )
    wait: float = duration(
        "Try again for so long while nobody listens there; with --listen, how long to wait for "
        "somebody, where 0 is for ever.",
        default=0.0,
        parse=seconds,
    )
    window: float | NamedWindow | None = option(
        window,
        metavar="SECONDS|POLICY",
        group=TIME,
        help="Detection window: how long to wait for the peer's first bytes, where the role is left to "
        f"it. Or a policy, as for a service.  [default: {LISTENING_WINDOW:g} with --listen; else 0: we "
        "speak at once, and if the peer does too, the two settle who is the TLS client]",
    )
    connect_timeout: float = duration(
        "How long the name's lookup and the TCP connection may take.", default=math.inf
    )
    handshake_timeout: float = handshake_timeout(
        "which as TLS server must cover the listener's window too."
    )
    idle_timeout: float = idle_timeout(default=math.inf)
