"""Resolving glare: after two ClientHellos have crossed, which end goes on as the client.

Theory of operation
-------------------

Each end has sent a ClientHello and has received the other's, so each holds the same two
32-byte ``random`` values. The end with the larger value stays client, and drops exactly the
bytes of the other's hello. The other end abandons its own hello and starts over as the
server, with the hello that it has received. The ends exchange nothing to agree on this, and
come to the same result no matter when the bytes arrive.

The abandoned hello is not part of any handshake transcript: the server's handshake begins
with the hello of the end that stays client. So the most that a peer can achieve by forging
its random is to choose the roles, and both roles make the same demands of the peer.

A hello may be cut into records in any way, but the dropped hello must end where a record
ends. Any bytes behind it in the same record would belong neither to the hello nor to the
peer's answer to ours, so such a connection is refused.
"""

from __future__ import annotations

import enum

import attrs

from trio_duplex._wire.records import (
    CLIENT_HELLO_TYPE,
    HANDSHAKE,
    HEADER_SIZE,
    MAJOR,
    MAX_FRAGMENT,
    read_header,
)

MOST = 64 * 1024
"""The longest ClientHello that is resolved, in bytes: as long as we accept in the server role."""

_RANDOM = slice(6, 38)
"""Where a hello has its random: after type, length and legacy_version (RFC 8446 section 4.1.2)."""


class Resolution(enum.Enum):
    """What two crossed ClientHellos mean for the end that asks."""

    MORE = "more"
    """More of the peer's hello is needed."""

    CLIENT = "client"
    """Our random is larger: we stay client, and drop the peer's hello."""

    SERVER = "server"
    """The peer's random is larger: we start over as server, with its hello."""

    SAME = "same"
    """Both randoms are the same: our own hello has come back."""

    MALFORMED = "malformed"
    """The hello can't be parsed, or its last record holds more than the hello."""


@attrs.frozen
class Crossing:
    """How two crossed ClientHellos are resolved.

    Attributes:
        resolution: What to do.
        dropped: For `Resolution.CLIENT`, how many of the received bytes are the
            peer's hello. The bytes after them are the peer's answer to ours.
    """

    resolution: Resolution
    dropped: int = 0


def resolve(ours: bytes, received: bytes | bytearray) -> Crossing:
    """Resolve a crossing from the bytes received so far.

    Args:
        ours: The ``random`` of the ClientHello that we sent, 32 bytes.
        received: What the peer sent, from its first byte on. It begins like a
            ClientHello.

    Returns:
        The resolution. Once it is not `Resolution.MORE`, more bytes do not
        change it.
    """
    message = bytearray()
    position = 0
    end = None
    while end is None:
        header = read_header(received, position)
        if header is None:
            break
        kind, major, length = header
        if kind != HANDSHAKE or major != MAJOR or not 1 <= length <= MAX_FRAGMENT:
            return Crossing(Resolution.MALFORMED)
        part = received[position + HEADER_SIZE : position + HEADER_SIZE + length]
        message += part
        if message and message[0] != CLIENT_HELLO_TYPE:
            return Crossing(Resolution.MALFORMED)
        if len(message) >= 4:
            size = 4 + int.from_bytes(message[1:4], "big")
            # Judge by the length in the record's header. Its bytes need not have come yet.
            if size < _RANDOM.stop or size > MOST or len(message) - len(part) + length > size:
                return Crossing(Resolution.MALFORMED)
            if len(message) == size:
                end = position + HEADER_SIZE + length
        if len(part) < length:
            break
        position += HEADER_SIZE + length
    theirs = bytes(message[_RANDOM])
    if len(theirs) < 32:
        return Crossing(Resolution.MORE)
    if theirs == ours:
        return Crossing(Resolution.SAME)
    if end is None:
        # Wait for the end of the hello even if the peer's random is larger: if the rest turns
        # out to be malformed, both ends must refuse it.
        return Crossing(Resolution.MORE)
    return Crossing(Resolution.CLIENT, end) if ours > theirs else Crossing(Resolution.SERVER)
