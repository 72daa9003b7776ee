"""The TLS record header: its sizes and numbers (RFC 8446 section 5.1)."""

from __future__ import annotations

HANDSHAKE = 0x16
MAJOR = 3
HEADER_SIZE = 5
MAX_FRAGMENT = 2**14  # RFC 8446, section 5.1; OpenSSL: DATA_LENGTH_TOO_LONG
CLIENT_HELLO_TYPE = 1
SERVER_HELLO_TYPE = 2


def head(data: bytes | bytearray | memoryview, size: int) -> bytes:
    """Return the first bytes of a buffer, without a copy of the whole buffer."""
    return memoryview(data)[:size].tobytes()
