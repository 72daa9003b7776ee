"""The options that all services share, and those of the process that they run in."""

from __future__ import annotations

import ipaddress
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from trio_duplex import Limits, NamedPeer, PinnedPeer, WhenFull
from trio_duplex.cli._service.addresses import ListenAddress, listen_address
from trio_duplex.cli._service.option import option, options_of
from trio_duplex.cli._service.window import NamedWindow, window

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

WHO = "Who we are, and who may come in"
TIME = "Waiting and limits"
PROCESS = "The process"

MOST_WORKERS = 1024
"""More processes than this are a slip of the finger."""


# ------------------------------------------------------------------------------------------------ how values are read


def seconds(text: str) -> float:
    """Read 0 or more seconds, or ``inf``."""
    try:
        duration = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds") from None
    if math.isnan(duration) or duration < 0:
        raise ValueError(f"{text} is not 0 or more seconds")
    return duration


def positive_seconds(text: str) -> float:
    """Read more than 0 seconds; ``inf`` turns off what they bound."""
    duration = seconds(text)
    if not duration:
        raise ValueError("it must be more than 0 s; inf turns it off")
    return duration


def count(text: str) -> float:
    """Read a whole number of at least 1, or ``inf``."""
    if text == "inf":
        return math.inf
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ValueError(f"{text!r} is not a whole number of at least 1, or inf")
    return int(text)


def worker_count(text: str) -> int:
    """Read how many processes are to serve."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_WORKERS):
        raise ValueError(f"{text!r} is not a whole number from 1 to {MOST_WORKERS}")
    if int(text) > 1 and sys.platform == "win32":
        raise ValueError("Windows can't fork; 1 is all that it can have")
    return int(text)


def file_path(text: str) -> Path:
    """Read a path; whether the file can be read is found out when it is."""
    if not text or "\0" in text:
        raise ValueError("it names no file")
    return Path(text)


def descriptor(text: str) -> int:
    """Read the number of a file descriptor."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not the number of a file descriptor, such as 3")
    return int(text)


def network(text: str) -> Network:
    """Read an address or a network."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(f"{exc}; write an address or a network, such as 192.0.2.0/24") from None


def peer_name(text: str) -> str:
    """Read a name that a peer's certificate may bear."""
    NamedPeer(text)
    return text


def peer_pin(text: str) -> str:
    """Read a pin."""
    PinnedPeer(text)
    return text


def when_full(text: str) -> WhenFull:
    """Read what to do when ``connections`` are open."""
    try:
        return WhenFull(text)
    except ValueError:
        raise ValueError(f"{text!r} is not wait or reset") from None


def log_format(text: str) -> str:
    """Read the format of the log."""
    if text not in {"text", "json"}:
        raise ValueError(f"{text!r} is not text or json")
    return text


def alpn_name(text: str) -> str:
    """Read the name of a protocol."""
    if not (text.isascii() and 1 <= len(text) <= 255):
        raise ValueError(f"a protocol's name has 1 to 255 ASCII characters, not {text!r}")
    return text


# ------------------------------------------------------------------------------------------------ the options

_LIMITS = Limits()
_LIMIT_NAMES = {field.name for field in attrs.fields(Limits)}

LIMITS = {"connection_timeout": "handler_timeout"}
"""Limits of the library that have another name here: a handler is a word of programmers."""


@attrs.frozen(kw_only=True)
class CredentialSettings:
    """What everything that negotiates is told: who we are, and who may come in.

    Attributes:
        name: The service's name in the log: its table's in the file, or its kind.
        origins: Where each option comes from, by option name; defaults are left out.
    """

    name: str = ""
    origins: Mapping[str, str] = attrs.field(factory=dict[str, str], eq=False)

    cert: Path | None = option(
        file_path,
        metavar="FILE",
        file=True,
        group=WHO,
        help="PEM file of our certificate and its intermediates, leaf first.",
    )
    key: Path | None = option(
        file_path,
        metavar="FILE",
        file=True,
        group=WHO,
        help="PEM file of its private key, if that is not in the file of --cert.",
    )
    key_passphrase_file: Path | None = option(
        file_path,
        metavar="FILE",
        file=True,
        group=WHO,
        help="File whose first line is the passphrase of the key.",
    )
    key_passphrase_fd: int | None = option(
        descriptor,
        metavar="N",
        group=WHO,
        help="File descriptor from which to read that line once, at start.",
    )
    trust: Path | None = option(
        file_path,
        metavar="FILE",
        file=True,
        group=WHO,
        help="PEM file of the authorities that peers' certificates may come from.",
    )
    crl: tuple[Path, ...] = option(
        file_path,
        multiple=True,
        metavar="FILE",
        file=True,
        group=WHO,
        help="PEM file of revocation lists, checked in both roles. May be repeated.",
    )
    peer_name: tuple[str, ...] = option(
        peer_name,
        multiple=True,
        metavar="NAME",
        group=WHO,
        help="Admit only peers whose certificate bears one of these names: a DNS name, IP address or URI.",
    )
    peer_pin: tuple[str, ...] = option(
        peer_pin,
        multiple=True,
        metavar="PIN",
        group=WHO,
        help="Admit only peers with one of these pins: sha256: and the hash of a certificate or public key.",
    )
    anonymous_clients: bool = option(
        str,
        flag=True,
        group=WHO,
        help="Also serve TLS clients without a certificate, whoever they are.",
    )
    alpn: tuple[str, ...] = option(
        alpn_name,
        multiple=True,
        metavar="NAME",
        group=WHO,
        help="Protocol to offer and accept by ALPN, preferred first.",
    )


@attrs.frozen(kw_only=True)
class ServiceSettings(CredentialSettings):
    """What every service that negotiates is told."""

    listen: tuple[ListenAddress, ...] = option(
        listen_address,
        multiple=True,
        metavar="ADDR",
        help="Where to listen: HOST:PORT, [V6]:PORT, unix:PATH or fd:NAME. May be repeated.",
    )
    allow: tuple[Network, ...] = option(
        network,
        multiple=True,
        metavar="NETWORK",
        group=WHO,
        help="Accept only peers from these networks; others are reset at once.",
    )
    deny: tuple[Network, ...] = option(
        network,
        multiple=True,
        metavar="NETWORK",
        group=WHO,
        help="Reset peers from these networks at once, allowed ones too.",
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
    handshake_timeout: float = option(
        positive_seconds,
        default=30.0,
        metavar="SECONDS",
        group=TIME,
        help="Bound of each handshake, from the role decision.",
    )
    connections: float = option(
        count,
        default=_LIMITS.connections,
        metavar="N",
        group=TIME,
        help="Connections at once, from accept to close; fewer by default where ulimit -n is low.",
    )
    when_full: WhenFull = option(
        when_full,
        default=_LIMITS.when_full,
        metavar="wait|reset",
        group=TIME,
        help="What happens to a connection beyond --connections.",
    )
    connections_per_address: float = option(
        count,
        default=_LIMITS.connections_per_address,
        metavar="N",
        group=TIME,
        help="Connections of one remote address; then the newest is reset.",
    )
    connections_per_identity: float = option(
        count,
        default=_LIMITS.connections_per_identity,
        metavar="N",
        group=TIME,
        help="Connections of peers with one certificate; then the newest is refused.",
    )
    pending: float = option(
        count,
        default=_LIMITS.pending,
        metavar="N",
        group=TIME,
        help="Peers in the detection window or in line for their handshake; then the oldest makes room.",
    )
    pending_per_address: float = option(
        count,
        default=_LIMITS.pending_per_address,
        metavar="N",
        group=TIME,
        help="The same for one remote address; then the newest is dropped.",
    )
    client_handshakes: float = option(
        count,
        default=_LIMITS.client_handshakes,
        metavar="N",
        group=TIME,
        help="Handshakes at once as TLS client.",
    )
    server_handshakes: float = option(
        count,
        default=_LIMITS.server_handshakes,
        metavar="N",
        group=TIME,
        help="Handshakes at once as TLS server.",
    )
    turn_timeout: float = option(
        seconds,
        default=_LIMITS.turn_timeout,
        metavar="SECONDS",
        group=TIME,
        help="How long a peer may wait for its turn to handshake.",
    )
    greeting_patience: float = option(
        seconds,
        default=_LIMITS.greeting_patience,
        metavar="SECONDS",
        group=TIME,
        help="How long our ClientHello may go unanswered while others wait.",
    )
    opening_patience: float = option(
        seconds,
        default=_LIMITS.opening_patience,
        metavar="SECONDS",
        group=TIME,
        help="How long a handshake as TLS server may last while others wait.",
    )
    close_timeout: float = option(
        seconds,
        default=_LIMITS.close_timeout,
        metavar="SECONDS",
        group=TIME,
        help="Bound of a graceful close.",
    )
    connection_timeout: float = option(
        positive_seconds,
        default=_LIMITS.handler_timeout,
        metavar="SECONDS",
        group=TIME,
        help="How long a connection may last in all.",
    )
    idle_timeout: float = option(
        positive_seconds,
        default=_LIMITS.idle_timeout,
        metavar="SECONDS",
        group=TIME,
        help="End a connection on which nothing was received or sent for so long.",
    )
    send_timeout: float = option(
        positive_seconds,
        default=_LIMITS.send_timeout,
        metavar="SECONDS",
        group=TIME,
        help="End a connection whose peer takes no data for so long.",
    )
    keepalive: float = option(
        positive_seconds,
        default=_LIMITS.keepalive,
        metavar="SECONDS",
        group=TIME,
        help="Silence after which the kernel asks whether the peer still lives.",
    )
    ack_timeout: float | None = option(
        positive_seconds,
        metavar="SECONDS",
        group=TIME,
        help="How long a peer may leave unacknowledged what was sent; by default a minute more than --keepalive.",
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
    verbose: bool = option(
        str, flag=True, short="-v", group=PROCESS, help="Log health checks and port scans too."
    )
    quiet: bool = option(
        str, flag=True, short="-q", group=PROCESS, help="Log only warnings and errors."
    )
    workers: int = option(
        worker_count,
        default=1,
        metavar="N",
        group=PROCESS,
        help="Processes that serve, on the same listening sockets: one for each CPU. Limits such "
        "as --connections count in each of them.",
    )
    drain_timeout: float = option(
        seconds,
        default=30.0,
        metavar="SECONDS",
        group=PROCESS,
        help="How long connections may go on after SIGTERM.",
    )
    reload_every: float = option(
        positive_seconds,
        default=math.inf,
        metavar="SECONDS",
        group=PROCESS,
        help="Read certificates, trust and configuration again so often; they are also read on SIGHUP.",
    )
    watch: float = option(
        positive_seconds,
        default=5.0,
        metavar="SECONDS",
        group=PROCESS,
        help="Look for changed files so often, and then read them again; inf turns it off.",
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
