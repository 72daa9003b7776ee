"""A pending peer as bytes: what must be known of it until its role is decided.

The garbage collector does not track bytes, and one object takes less than the numbers and
strings in it would: 15,000 peers wait at once, and most of them have nothing more to them.
"""

from __future__ import annotations

import enum
import struct

import attrs

from trio_duplex._sockets.address import Address

_HEAD = struct.Struct("=BQdHII")
"""The kind of the address, number, time of entry, port, flow label, scope; the host or path follows."""


class _Kind(enum.IntEnum):
    NONE = 0
    PATH = 1
    IPV4 = 2
    IPV6 = 3


@attrs.frozen
class Pending:
    """A peer whose role is not decided, as `pack` was told.

    Attributes:
        number: Of the connection.
        entered: When it was accepted, on Trio's clock.
        remote: The peer's address.
    """

    number: int
    entered: float
    remote: Address | None


def pack(number: int, entered: float, remote: Address | None) -> bytes:
    """Pack what is known of a pending peer into bytes."""
    if isinstance(remote, tuple):
        if len(remote) == 2:
            head = _HEAD.pack(_Kind.IPV4, number, entered, remote[1], 0, 0)
        else:
            head = _HEAD.pack(_Kind.IPV6, number, entered, remote[1], remote[2], remote[3])
        return head + remote[0].encode()
    kind = _Kind.NONE if remote is None else _Kind.PATH
    return _HEAD.pack(kind, number, entered, 0, 0, 0) + (remote or "").encode(
        "utf-8", "surrogatepass"
    )


def unpack(packed: bytes) -> Pending:
    """Unpack the bytes that `pack` has made."""
    kind, number, entered, port, flow, scope = _HEAD.unpack_from(packed)
    text = packed[_HEAD.size :].decode("utf-8", "surrogatepass")
    remote: Address | None = None
    if kind == _Kind.IPV4:
        remote = (text, port)
    elif kind == _Kind.IPV6:
        remote = (text, port, flow, scope)
    elif kind == _Kind.PATH:
        remote = text
    return Pending(number, entered, remote)
