"""The options that all services share, and those of the process that they run in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from trio_duplex import Limits, WhenFull
from trio_duplex.cli._service.addresses import ListenAddress
from trio_duplex.cli._service.option import option, options_of
from trio_duplex.cli._service.shapes import (
    PROCESS,
    TIME,
    WHO,
    duration,
    file,
    flag,
    handshake_timeout,
    idle_timeout,
    listeners,
    number,
    several,
)
from trio_duplex.cli._service.values import (
    Network,
    alpn_name,
    descriptor,
    log_format,
    network,
    peer_name,
    peer_pin,
    seconds,
    when_full,
    worker_count,
)
from trio_duplex.cli._service.window import NamedWindow, window

_LIMITS = Limits()
_LIMIT_NAMES = {field.name for field in attrs.fields(Limits)}

LIMITS = {"connection_timeout": "handler_timeout"}
"""Limits of the library that have another name here: a handler is a word of programmers."""


@attrs.frozen(kw_only=True)
class CredentialSettings:
    """The settings for everything that negotiates: our certificate, and which peers to admit.

    Attributes:
        name: The service's name in the log: its table's in the file, or its kind.
        origins: Where each option comes from, by option name; defaults are left out.
    """

    name: str = ""
    origins: Mapping[str, str] = attrs.field(factory=dict[str, str], eq=False)

    cert: Path | None = file("PEM file of our certificate and its intermediates, leaf first.")
    key: Path | None = file("PEM file of its private key, if that is not in the file of --cert.")
    key_passphrase_file: Path | None = file("File whose first line is the passphrase of the key.")
    key_passphrase_fd: int | None = option(
        descriptor,
        metavar="N",
        group=WHO,
        help="File descriptor from which to read that line once, at start.",
    )
    no_handshake_threads: bool = flag(
        "Sign with a slow key, such as RSA-4096, on the event loop, where every connection waits "
        "for it. By default a thread signs.",
        group=WHO,
    )
    trust: Path | None = file("PEM file of the authorities that peers' certificates may come from.")
    crl: tuple[Path, ...] = file(
        "PEM file of revocation lists, checked in both roles. May be repeated.", multiple=True
    )
    peer_name: tuple[str, ...] = several(
        peer_name,
        "Admit only peers whose certificate bears one of these names: a DNS name, IP address or URI.",
        metavar="NAME",
        group=WHO,
    )
    peer_pin: tuple[str, ...] = several(
        peer_pin,
        "Admit only peers with one of these pins: sha256: and the hash of a certificate or public key.",
        metavar="PIN",
        group=WHO,
    )
    anonymous_clients: bool = flag(
        "Also serve TLS clients without a certificate, whoever they are.", group=WHO
    )
    alpn: tuple[str, ...] = several(
        alpn_name,
        "Protocol to offer and accept by ALPN, preferred first.",
        metavar="NAME",
        group=WHO,
    )


@attrs.frozen(kw_only=True)
class ServiceSettings(CredentialSettings):
    """What every service that negotiates is told."""

    listen: tuple[ListenAddress, ...] = listeners(
        "Where to listen: HOST:PORT, [V6]:PORT, unix:PATH or fd:NAME. May be repeated."
    )
    allow: tuple[Network, ...] = several(
        network,
        "Accept only peers from these networks; others are reset at once.",
        metavar="NETWORK",
        group=WHO,
    )
    deny: tuple[Network, ...] = several(
        network,
        "Reset peers from these networks at once, allowed ones too.",
        metavar="NETWORK",
        group=WHO,
    )
    window: float | NamedWindow = option(
        window,
        default=5.0,
        metavar="SECONDS|POLICY",
        group=TIME,
        help="Detection window: how long to wait for a peer's first bytes. Or a policy: silent and "
        "speaking (all peers are), remember[:SECONDS] (peers that were silent before wait less), "
        "learned (first contacts wait as long as speaking peers have shown to need).",
    )
    handshake_timeout: float = handshake_timeout()
    connections: float = number(
        "Connections at once, from accept to close; fewer by default where ulimit -n is low.",
        default=_LIMITS.connections,
    )
    when_full: WhenFull = option(
        when_full,
        default=_LIMITS.when_full,
        metavar="wait|reset",
        group=TIME,
        help="What happens to a connection beyond --connections.",
    )
    connections_per_address: float = number(
        "Connections of one remote address; then the newest is reset.",
        default=_LIMITS.connections_per_address,
    )
    connections_per_identity: float = number(
        "Connections of peers with one certificate; then the newest is refused.",
        default=_LIMITS.connections_per_identity,
    )
    pending: float = number(
        "Peers in the detection window or in line for their handshake; then the oldest makes room.",
        default=_LIMITS.pending,
    )
    pending_per_address: float = number(
        "The same for one remote address; then the newest is dropped.",
        default=_LIMITS.pending_per_address,
    )
    client_handshakes: float = number(
        "Handshakes at once as TLS client.", default=_LIMITS.client_handshakes
    )
    server_handshakes: float = number(
        "Handshakes at once as TLS server.", default=_LIMITS.server_handshakes
    )
    turn_timeout: float = duration(
        "How long a peer may wait for its turn to handshake.",
        default=_LIMITS.turn_timeout,
        parse=seconds,
    )
    greeting_patience: float = duration(
        "How long our ClientHello may go unanswered while others wait.",
        default=_LIMITS.greeting_patience,
        parse=seconds,
    )
    opening_patience: float = duration(
        "How long a handshake as TLS server may last while others wait.",
        default=_LIMITS.opening_patience,
        parse=seconds,
    )
    close_timeout: float = duration(
        "Bound of a graceful close.", default=_LIMITS.close_timeout, parse=seconds
    )
    connection_timeout: float = duration(
        "How long a connection may last in all.", default=_LIMITS.handler_timeout
    )
    idle_timeout: float = idle_timeout(default=_LIMITS.idle_timeout)
    send_timeout: float = duration(
        "End a connection whose peer takes no data for so long.", default=_LIMITS.send_timeout
    )
    keepalive: float = duration(
        "Silence after which the kernel asks whether the peer still lives.",
        default=_LIMITS.keepalive,
    )
    ack_timeout: float | None = duration(
        "How long a peer may leave unacknowledged what was sent; by default a minute more than --keepalive.",
        default=None,
    )
    unsent_bytes: float = number(
        "Bytes that the kernel holds unsent for one connection; less keeps what is written last closer to the wire.",
        default=_LIMITS.unsent_bytes,
    )

    def limits(self, most_connections: float = math.inf) -> Limits:
        """The limits of the library that these options set; the others keep their defaults.

        Args:
            most_connections: What the process has descriptors for; counts
                unless ``--connections`` says otherwise.
        """
        given: dict[str, Any] = {
            LIMITS.get(field, field): getattr(self, field)
            for field, name, _, _ in options_of(type(self))
            if name in self.origins and LIMITS.get(field, field) in _LIMIT_NAMES
        }
        if "connections" not in given and most_connections < _LIMITS.connections:
            given["connections"] = max(1, int(most_connections))
        return Limits(**given)


@attrs.frozen(kw_only=True)
class ProcessSettings:
    """What the process is told, once for all its services.

    Attributes:
        origins: Where each option comes from, by option name; defaults are left out.
    """

    origins: Mapping[str, str] = attrs.field(factory=dict[str, str], eq=False)

    log_format: str = option(
        log_format,
        default="text",
        metavar="text|json",
        group=PROCESS,
        help="The format of the log, which goes to stderr.",
    )
    verbose: bool = flag("Log health checks and port scans too.", group=PROCESS, short="-v")
    quiet: bool = flag("Log only warnings and errors.", group=PROCESS, short="-q")
    workers: int = number(
        "Processes that serve, on the same listening sockets: one for each CPU. Limits such "
        "as --connections count in each of them.",
        default=1,
        parse=worker_count,
        group=PROCESS,
    )
    drain_timeout: float = duration(
        "How long connections may go on after SIGTERM.", default=30.0, parse=seconds, group=PROCESS
    )
    reload_every: float = duration(
        "Read certificates, trust and configuration again so often; they are also read on SIGHUP.",
        default=math.inf,
        group=PROCESS,
    )
    watch: float = duration(
        "Look for changed files so often, and then read them again; inf turns it off.",
        default=5.0,
        group=PROCESS,
    )
    user: str | None = option(
        str,
        metavar="NAME",
        group=PROCESS,
        help="Become this user once addresses are bound and keys are read; only root can.",
    )
    group: str | None = option(
        str,
        metavar="NAME",
        group=PROCESS,
        help="Become this group only; the groups of --user if it is not given.",
    )
