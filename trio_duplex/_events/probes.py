"""Recognising failures that are health checks or port scans, and not peers that could not come in.

A load balancer checks every few seconds whether a port answers, and none of these
connections is of interest. If it connects and hangs up at once, the negotiation fails
with a `PeerClosedError`, which is enough to recognise it. If it sends something first,
it is recognised here: by how it leaves, by what it sends, or because the operator has
muted its network.
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
    # Only health checks still use HTTP 1.0 without a host, and browsers begin with GET or POST.
    rb"(OPTIONS|HEAD) \S+ HTTP/1|GET \S+ HTTP/1\.0\r?\n"
    # Paths and agents of Kubernetes, and of load balancers in clouds.
    rb"|GET (?s:.*)(health|probe|ready|alive|GoogleHC)",
    re.IGNORECASE,
)


class MutedNetworks:
    """The networks whose peers are logged only at DEBUG.

    Args:
        networks: Networks in CIDR notation, or single addresses.

    Raises:
        ValueError: A network can't be parsed, or has host bits set.
        TypeError: ``networks`` is a single string, or not iterable.
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
    """Return how a failed negotiation looks like a health check, or None if it does not.

    There is no value for a peer that leaves before its opening is complete, because
    it has an error of its own, `PeerClosedError`. A failure that is our own fault,
    or due to a limit, is never a probe.
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
    """Return the address in an event's ``peer`` without the port, as a firewall needs it."""
    if peer is None or peer.startswith(("/", "@")):
        return peer
    return peer.rpartition(":")[0].strip("[]") or peer
