"""TLS records: reading and writing their headers (RFC 8446 section 5.1).

This is the only place where the library reads or writes a whole header. `classify`
(in `opening`) also judges headers of which only a part has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA, HEARTBEAT = 0x14, 0x15, 0x16, 0x17, 0x18
MAJOR = 3
HEADER_SIZE = 5
MAX_FRAGMENT = 2**14  # RFC 8446, section 5.1; OpenSSL: DATA_LENGTH_TOO_LONG
CLIENT_HELLO_TYPE = 1
SERVER_HELLO_TYPE = 2


class Header(NamedTuple):
    """The header of a record.

    Attributes:
        kind: The content type.
        major: The first byte of the version: 3 in all TLS versions.
        length: How many bytes follow the header.
    """

    kind: int
    major: int
    length: int


def read_header(data: bytes | bytearray, position: int = 0) -> Header | None:
    """Read the header that begins at a position; return None if it is not whole."""
    if len(data) < position + HEADER_SIZE:
        return None
    return Header(data[position], data[position + 1], data[position + 3] << 8 | data[position + 4])


def read_records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the content type and the contents of each record that is whole."""
    position = 0
    while (header := read_header(data, position)) is not None:
        position += HEADER_SIZE
        end = position + header.length
        if end > len(data):
            return
        yield header.kind, data[position:end]
        position = end


def write_record(kind: int, contents: bytes) -> bytes:
    """Make a record, of at most `MAX_FRAGMENT` bytes of contents, with the version that all have."""
    return bytes([kind, MAJOR, 3]) + len(contents).to_bytes(2, "big") + contents


def head(data: bytes | bytearray | memoryview, size: int) -> bytes:
    """Return the first bytes of a buffer, without a copy of the whole buffer."""
    return memoryview(data)[:size].tobytes()
