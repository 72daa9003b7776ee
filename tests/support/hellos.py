"""ClientHellos and ServerHellos made by hand, which ask for what no honest peer would."""

from __future__ import annotations

import os
import struct

P256, P384, P521, X25519, X448 = 23, 24, 25, 29, 30
FINITE = (256, 257, 258, 259, 260)
HYBRID = 0x11EC  # X25519MLKEM768
GREASE = 0x0A0A
USABLE = frozenset([P256, P384, P521, X25519, X448, *FINITE])
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


def vector(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">H", kind) + vector(data)


def numbers(*values: int) -> bytes:
    return b"".join(struct.pack(">H", value) for value in values)


def hello(
    groups: tuple[int, ...] | None = (X25519,),
    shares: tuple[int, ...] | None = (X25519,),
    *,
    versions: bytes = b"\x03\x04",
    suites: bytes = b"\x13\x01",
    extra: bytes = b"",
    session_id: bytes = b"",
) -> bytes:
    extensions = extension(43, bytes([len(versions)]) + versions)
    extensions += extension(13, vector(b"\x04\x03\x08\x04"))
    if groups is not None:
        extensions += extension(10, vector(numbers(*groups)))
    if shares is not None:
        entries = b"".join(numbers(group) + vector(b"k" * 32) for group in shares)
        extensions += extension(51, vector(entries))
    extensions += extra
    body = b"\x03\x03" + os.urandom(32) + bytes([len(session_id)]) + session_id
    body += vector(suites) + b"\x01\x00" + vector(extensions)
    return b"\x01" + len(body).to_bytes(3, "big") + body


def server_hello(group: int | None, *, retry: bool = False, key: bytes = b"k" * 32) -> bytes:
    extensions = extension(43, b"\x03\x04")
    if group is not None:
        extensions += extension(51, numbers(group) + (b"" if retry else vector(key)))
    random = RETRY if retry else os.urandom(32)
    body = b"\x03\x03" + random + b"\x00" + b"\x13\x01" + b"\x00" + vector(extensions)
    return b"\x02" + len(body).to_bytes(3, "big") + body
