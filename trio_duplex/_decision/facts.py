"""What is known about a peer before its role is decided, and the outcome of its connection.

Pure: the caller measures round trips and reads clocks.
"""

from __future__ import annotations

import enum

import attrs

from trio_duplex._decision.hosts import host_key

Address = tuple[str, int] | tuple[str, int, int, int] | str
"""The same as `trio_duplex.Address`, which this room can't import: it knows nothing about sockets."""


@attrs.frozen(kw_only=True)
class PeerFacts:
    """What a window policy can base its choice on: all that is known of a new connection.

    Attributes:
        remote_address: The address of the peer's end: ``(host, port)``, the four
            fields of IPv6, the path of a Unix socket, or None if the stream does
            not say.
        local_address: The address of our end, in the same form.
        round_trip: Seconds from our SYN-ACK to the peer's ACK, as the kernel
            measured it (``TCP_INFO``, within 1 ms of the true value). None if it
            is unknown, or if the SYN-ACK had to be sent again: the path has then
            just lost a packet, and the measurement means nothing.
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
        # This runs for each connection, and a `match` statement takes ten times as long.
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
    """The outcome of one connection, for the policy that chose its window.

    Attributes:
        conduct: What the peer did.
        admitted: Whether the handshake was completed and the peer admitted. If
            not, any stranger may have been behind the connection.
        waited: Seconds from accept to the peer's first byte; for
            `Conduct.SILENT`, to the decision.
    """

    conduct: Conduct
    admitted: bool
    waited: float
