"""What is known of a peer before its role is decided, and what became of it afterwards.

Pure: the caller measures round trips and reads clocks.
"""

from __future__ import annotations

import enum
import ipaddress
from functools import lru_cache

import attrs

Address = tuple[str, int] | tuple[str, int, int, int] | str
"""As `trio_duplex.Address`; this floor knows nothing of sockets."""


@attrs.frozen(kw_only=True)
class PeerFacts:
    """What a window policy may go by: all that is known when a connection was accepted.

    Attributes:
        remote_address: The peer's end: ``(host, port)``, IPv6's four fields, a
            Unix socket's path, or None where the stream does not tell.
        local_address: Our end, likewise.
        round_trip: Seconds from our SYN-ACK to the peer's ACK, as the kernel
            measured it (``TCP_INFO``, within 1 ms of the true value); None
            where it is unknown, and where the SYN-ACK had to be sent again,
            because the path has just lost a packet.
        now: Wall-clock time in seconds since 1970, because memories outlive
            processes.
    """

    remote_address: Address | None = None
    local_address: Address | None = None
    round_trip: float | None = None
    now: float = 0.0

    @property
    def key(self) -> str | None:
        """The peer's IPv4 address or IPv6 /64, which counts as one peer; None without one."""
        # Asked once for each connection: `match` takes ten times as long.
        address = self.remote_address
        return host_key(address[0]) if isinstance(address, tuple) else None


class Conduct(enum.Enum):
    """What a peer did about the window."""

    SPOKE = "spoke"
    """Its opening came within the window."""

    LATE = "late"
    """Its opening came after the window: it crossed our ClientHello."""

    SILENT = "silent"
    """It sent nothing, or announced that it would not, and answered our ClientHello."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of one connection, for the policy that chose its window.

    Attributes:
        conduct: What the peer did.
        admitted: Whether the handshake was completed and the peer admitted.
            Without that, it is anybody's word.
        waited: Seconds from accept to the peer's first byte; for
            `Conduct.SILENT`, to the decision.
    """

    conduct: Conduct
    admitted: bool
    waited: float


@lru_cache(maxsize=4096)
def host_key(host: str) -> str | None:
    """Return what counts as one address: IPv4 as it is, IPv6 as its /64 (RFC 6177).

    IPv4 addresses that are mapped into IPv6, or embedded in the well-known NAT64
    prefix (RFC 6052 section 2.1), count as the IPv4 addresses that they are: one
    /96 would otherwise make all of them one peer.

    Returns:
        The key, or None if ``host`` is no IP address.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address in _NAT64:
        return str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return str(ipaddress.IPv6Network((address, 64), strict=False))


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
