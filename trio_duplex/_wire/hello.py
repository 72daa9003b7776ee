"""Finding a ClientHello in TLS records, however it was cut into them."""

from __future__ import annotations

from trio_duplex._wire.records import (
    CLIENT_HELLO_TYPE,
    HANDSHAKE,
    HEADER_SIZE,
    MAJOR,
    MAX_FRAGMENT,
    head,
)

# Handshake header (4), legacy_version (2), random (32).
_RANDOM_START = 6
_RANDOM_END = 38
# The most that can precede the random's last byte: each of the 38 bytes in a
# record of its own, after 32 empty records each. OpenSSL gives up at 33 empty
# ones in a row (MAX_EMPTY_RECORDS), so this hides nothing from us, yet
# bounds what a peer can make us look at.
_RANDOM_LOOK = _RANDOM_END + HEADER_SIZE * _RANDOM_END * (1 + 32)


def client_hello_random(data: bytes | bytearray | memoryview) -> bytes | None:
    """Find the ``random`` of the ClientHello at the start of *data*.

    The message is put together from any fragmentation into records. This is
    how a ClientHello of our own is known again when somebody relays it to us,
    re-cut or not, so it must see through whatever OpenSSL sees through, which
    includes empty records between fragments.

    Args:
        data: TLS records, received or sent so far, from the first byte on.

    Returns:
        The 32 bytes (RFC 8446, section 4.1.2); ``None`` if there is not enough
        of the ClientHello yet, or if *data* is something else. Looks at 6308
        bytes at most, and usually at 43.
    """
    data = head(data, _RANDOM_LOOK)
    payload = bytearray()
    position = 0
    while len(payload) < _RANDOM_END:
        header = data[position : position + HEADER_SIZE]
        if len(header) < HEADER_SIZE or header[1] != MAJOR:
            return None
        length = int.from_bytes(header[3:5], "big")
        # An empty record of another type carries nothing and hides nothing
        # (OpenSSL 3.0 skips an empty ChangeCipherSpec there).
        if length > MAX_FRAGMENT or (length and header[0] != HANDSHAKE):
            return None
        position += HEADER_SIZE
        payload += data[position : position + length]
        position += length
    body_length = int.from_bytes(payload[1:4], "big")
    if payload[0] != CLIENT_HELLO_TYPE or body_length < _RANDOM_END - 4:
        return None
    return bytes(payload[_RANDOM_START:_RANDOM_END])


def random_may_follow(hello: bytes) -> bool:
    """Whether more bytes may yet bring the ``random`` of a ClientHello into view.

    Its last byte is the 38th of the message, and at worst each stands in a
    record of its own. Only an empty record can move it further, or one of
    another kind in between: RFC 8446 section 5.1 and RFC 5246 section 6.2.1
    forbid both, but OpenSSL lets empty ones pass. So who needs more has
    something to hide, or is no TLS client.

    Args:
        hello: All that has come so far, without a ``random`` that we can find.
    """
    position = 0
    while position < len(hello):
        header = hello[position : position + 5]
        if header[0] != 0x16 or header[1:2] not in (b"", b"\x03"):
            return False
        length = int.from_bytes(header[3:5], "big")
        if len(header) == 5 and not 1 <= length <= 2**14:
            return False
        position += 5 + length
    return len(hello) < 38 * 6
