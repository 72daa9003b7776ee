"""Which failures are a health check's, or a port scan's, rather than a peer's that could not come in.

A load balancer tries every few seconds, for ever, whether a port answers, and none
of these attempts is of interest. One that connects and hangs up is known by that.
One that sends something first is known here, by how it leaves, by what it sends, or
because the operator said so.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import cast

from trio_duplex._errors import DuplexError, HandshakeError, LimitError, NotTLSError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Probe(enum.Enum):
    """How a failed negotiation looks like a health check or a port scan."""

    HUNG_UP = "hung_up"
    """The peer began a handshake and left in the middle of it, without an alert."""

    HTTP = "http"
    """The peer sent an HTTP request of the kind that health checks send."""

    MUTED = "muted"
    """The peer is in one of ``muted_networks``."""

    def __str__(self) -> str:
        return self.value


_HTTP_CHECK = re.compile(
    # Nothing else has asked in HTTP 1.0, without a host, for years; and browsers say GET or POST.
    rb"(OPTIONS|HEAD) \S+ HTTP/1|GET \S+ HTTP/1\.0\r?\n"
    # Paths and agents of Kubernetes, and of the clouds' load balancers.
    rb"|GET (?s:.*)(health|probe|ready|alive|GoogleHC)",
    re.IGNORECASE,
)


class MutedNetworks:
    """The networks whose peers are not worth a line of the log.

    Args:
        networks: In CIDR notation, or single addresses.

    Raises:
        ValueError: One is no network, or has host bits set.
        TypeError: They are not several.
    """

    def __init__(self, networks: Iterable[str | Network] = ()) -> None:
        self._networks = _parsed(networks)
        self._contains = lru_cache(maxsize=1024)(self._looked_up)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, peer: str | None) -> bool:
        host = host_of(peer) if self._networks else None
        return host is not None and self._contains(host)

    def _looked_up(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:  # the path of a Unix socket
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _parsed(networks: object) -> tuple[Network, ...]:
    if isinstance(networks, str | bytes) or not isinstance(networks, Iterable):
        raise TypeError(f"muted_networks must be several networks, in a list, not {networks!r}")
    return tuple(map(ipaddress.ip_network, cast("Iterable[str | Network]", networks)))


def probe_of(error: Exception, *, muted: bool) -> Probe | None:
    """How a failed negotiation looks like a health check, or None if it does not.

    A peer that leaves before its opening is complete has an error of its own,
    `PeerClosedError`. What is our own fault, or a limit's, is never a probe.
    """
    if isinstance(error, LimitError) or not isinstance(error, DuplexError):
        return None
    if muted:
        return Probe.MUTED
    match error:
        case HandshakeError(hung_up=True):
            return Probe.HUNG_UP
        case NotTLSError(received=received) if _HTTP_CHECK.match(received):
            return Probe.HTTP
        case _:
            return None


def host_of(peer: str | None) -> str | None:
    """The address in an event's ``peer``, without the port: what a firewall bans."""
    if peer is None or peer.startswith(("/", "@")):
        return peer
    return peer.rpartition(":")[0].strip("[]") or peer
