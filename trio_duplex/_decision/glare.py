"""Glare resolved: two ClientHellos crossed, and both ends know who goes on as the client.

Theory of operation
-------------------

Each end has sent a ClientHello and has received the other's, so each holds the same two
32-byte ``random`` values. The end with the larger one stays client and drops exactly the
other's hello; the other end forgets its own hello and starts over as the server, with the hello
that it has. Nothing is sent to agree on it, and both come to the same result whenever the
bytes arrive.

The abandoned hello is in no transcript: the server's handshake begins with the hello of
the end that stays client. Forging a random therefore chooses who plays which role, at
most, and both roles make the same demands of the peer.

A hello may come in any cutting into records. What is dropped must end where a record
ends: anything that shares its last record would be TLS bytes of unknown standing, and the
connection is refused.
"""

from __future__ import annotations

import enum

import attrs

from trio_duplex._wire.records import CLIENT_HELLO_TYPE, HANDSHAKE, HEADER_SIZE, MAJOR, MAX_FRAGMENT

MOST = 64 * 1024
"""Bytes of a ClientHello that we look at for its end: as many as we take of one as server."""

_RANDOM = slice(
    6, 38
)  # in the message: after type, length and legacy_version (RFC 8446 section 4.1.2)


class Resolution(enum.Enum):
    """What two crossed ClientHellos mean for the end that asks."""

    MORE = "more"
    """More of the peer's hello is needed."""

    CLIENT = "client"
    """Our random is the larger: we stay client, and drop the peer's hello."""

    SERVER = "server"
    """The peer's random is the larger: we start over as server, with its hello."""

    SAME = "same"
    """Both randoms are the same: it is our own hello that came back."""

    MALFORMED = "malformed"
    """The hello can't be read, or something shares its last record."""


@attrs.frozen
class Crossing:
    """How two crossed ClientHellos are resolved.

    Attributes:
        resolution: What to do.
        dropped: With `Resolution.CLIENT`, how many bytes of what was received are
            the peer's hello; what follows them is the peer's answer to ours.
    """

    resolution: Resolution
    dropped: int = 0


def resolve(ours: bytes, received: bytes | bytearray) -> Crossing:
    """Resolve a crossing, as far as what has come allows.

    Args:
        ours: The ``random`` of the ClientHello that we sent, 32 bytes.
        received: What the peer sent, from its first byte on; it begins as a
            ClientHello does.

    Returns:
        The resolution; it does not change with more bytes once it is not
        `Resolution.MORE`.
    """
    message = bytearray()
    position = 0
    end = None
    while end is None:
        header = received[position : position + HEADER_SIZE]
        if len(header) < HEADER_SIZE:
            break
        length = int.from_bytes(header[3:5], "big")
        if header[0] != HANDSHAKE or header[1] != MAJOR or not 1 <= length <= MAX_FRAGMENT:
            return Crossing(Resolution.MALFORMED)
        part = received[position + HEADER_SIZE : position + HEADER_SIZE + length]
        message += part
        if message and message[0] != CLIENT_HELLO_TYPE:
            return Crossing(Resolution.MALFORMED)
        if len(message) >= 4:
            size = 4 + int.from_bytes(message[1:4], "big")
            # The record's length is known before its bytes are: judge by what it will hold.
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
        # Even where theirs is the larger: a malformed rest must be refused by both ends alike.
        return Crossing(Resolution.MORE)
    return Crossing(Resolution.CLIENT, end) if ours > theirs else Crossing(Resolution.SERVER)
