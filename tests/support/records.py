"""TLS records as all tests read and write them: with the shipped kit's functions, not the library's.

A comment in trio_duplex/testing/__init__.py tells why there are two.
"""

from __future__ import annotations

from trio_duplex.testing._records import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    make_record,
    split_records,
)

__all__ = [
    "ALERT",
    "APPLICATION_DATA",
    "CHANGE_CIPHER_SPEC",
    "HANDSHAKE",
    "make_record",
    "plain_alerts",
    "recut",
    "split_records",
]


def recut(hello: bytes, size: int) -> bytes:
    """The same handshake messages in records of this many bytes."""
    payload = b"".join(part for _, part in split_records(hello))
    parts = (payload[start : start + size] for start in range(0, len(payload), size))
    return b"".join(make_record(HANDSHAKE, part) for part in parts)


def plain_alerts(data: bytes) -> list[int]:
    """The descriptions of the fatal alerts that are in the bytes unencrypted (RFC 8446 section 6)."""
    found = [part for kind, part in split_records(data) if kind == ALERT and len(part) == 2]
    return [description for level, description in found if level == 2]
