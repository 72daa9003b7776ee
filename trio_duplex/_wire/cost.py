"""Refusing a hello that would cost too much CPU, before OpenSSL sees it.

OpenSSL offers and accepts finite-field groups up to ffdhe8192, and Python has no
setting to turn them off. (`set_ecdh_curve` leaves only one group, so each client
that prefers another one would need an additional round trip.) One ClientHello of
1.1 KB with a key share of ffdhe8192 costs 85 ms of CPU, and a HelloRetryRequest
that asks us for such a share costs 104 ms, each before any certificate has been
seen. An ordinary handshake costs under 1 ms.

The other way to make a hello expensive is to put very long lists into it. OpenSSL
looks up each key share in the list of groups: 64 KiB of groups and shares cost
73 ms. 64 KiB of names of authorities cost 5 ms, 64 KiB of cipher suites 4 ms.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Mapping

import attrs

from trio_duplex._wire.alerts import ALERT_HANDSHAKE_FAILURE, ALERT_ILLEGAL_PARAMETER
from trio_duplex._wire.records import CLIENT_HELLO_TYPE

# RFC 7919 section 2: this range is for finite fields; five of them are defined.
FINITE_FIELD_GROUPS = range(0x100, 0x200)
_FFDHE = {0x100: 2048, 0x101: 3072, 0x102: 4096, 0x103: 6144, 0x104: 8192}

# Extensions (RFC 8446 section 4.2)
SERVER_NAME = 0
_SUPPORTED_GROUPS = 10
_SUPPORTED_VERSIONS = 43
_CERTIFICATE_AUTHORITIES = 47
_KEY_SHARE = 51
_TLS_1_3 = b"\x03\x04"

_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The ``random`` that makes a ServerHello a HelloRetryRequest (RFC 8446 section 4.1.3)."""

MAX_SUITES = 1024
"""The most cipher suites in a ClientHello: three times as many as are registered."""

MAX_ENTRIES = 512
"""The most groups, or signature algorithms, in a ClientHello: ten times as many as are registered."""

MAX_SHARES = 32
"""The most key shares in a ClientHello. Real TLS clients send one to three."""

MAX_AUTHORITIES = 1024
"""The most names of authorities in a ClientHello. A system has some 150 roots."""

_LISTS = {
    _SUPPORTED_GROUPS: "groups",
    13: "signature algorithms",
    50: "signature algorithms for certificates",
}
_LOOKED_AT = {*_LISTS, SERVER_NAME, _SUPPORTED_VERSIONS, _CERTIFICATE_AUTHORITIES, _KEY_SHARE}
_HEAD = struct.Struct(">HH").unpack_from  # of an extension, or of a key share: kind and length


@attrs.frozen
class Objection:
    """Why a hello is not given to OpenSSL.

    Attributes:
        alert: The AlertDescription to send to the peer.
        seen: What the hello asks for.
        advice: What to do about it.
        summary: What is wrong with it, in one clause.
    """

    alert: int
    seen: str
    advice: str
    summary: str = "the peer's hello asks for more than a handshake may cost"


def object_to_client_hello(message: bytes, usable: Container[int]) -> Objection | None:
    """Return why we should not answer a ClientHello; None if it is cheap enough.

    A ClientHello that can't be parsed is not an objection. OpenSSL refuses it, and
    that is cheap: it parses the whole message before it computes anything.

    Args:
        message: The ClientHello, including its header of four bytes.
        usable: The groups that our OpenSSL can use. OpenSSL takes the peer's first
            key share whose group is among them. If there is none, it asks (with a
            HelloRetryRequest) for the first of the peer's groups that is.
    """
    found = extensions(message)
    if found is None:
        return None
    suites = _number(message, 39 + message[38]) // 2
    if suites > MAX_SUITES:
        return _too_many(suites, "cipher suites")
    return _object_to_lists(found) or _object_to_choice(found, usable)


def _object_to_lists(found: Mapping[int, bytes]) -> Objection | None:
    for kind, what in _LISTS.items():
        if (length := len(found.get(kind, b""))) > 2 * MAX_ENTRIES + 2:
            return _too_many(length // 2 - 1, what)
    authorities = found.get(_CERTIFICATE_AUTHORITIES, b"")
    if len(authorities) > MAX_AUTHORITIES and _has_too_many_names(authorities):
        return _too_many(MAX_AUTHORITIES, "names of authorities or more")
    return None


def _object_to_choice(found: Mapping[int, bytes], usable: Container[int]) -> Objection | None:
    shares = found.get(_KEY_SHARE)
    if shares is None or _TLS_1_3 not in found.get(_SUPPORTED_VERSIONS, b""):
        return None  # with our cipher suites, OpenSSL does not use finite fields in TLS 1.2
    for number, group in enumerate(_groups_of(shares)):
        if number == MAX_SHARES:
            return _too_many(MAX_SHARES, "key shares or more")
        if group in usable:
            return _object_to_group(group)
    for group in _entries(found.get(_SUPPORTED_GROUPS, b"")):
        if group in usable:  # we would send a HelloRetryRequest
            return _object_to_group(group)
    return None


def object_to_server_hello(message: bytes) -> Objection | None:
    """Return why we should not go on after a ServerHello or HelloRetryRequest; None if we may."""
    share = (extensions(message) or {}).get(_KEY_SHARE, b"")
    # A HelloRetryRequest names only the group; in a ServerHello the key share follows it.
    return _object_to_group(_number(share, 0)) if len(share) >= 2 else None


def is_retry(flight: bytes, start: int = 0) -> bool:
    """Whether the message that begins at offset ``start`` is a HelloRetryRequest."""
    return flight[start + 6 : start + 38] == _RETRY


def selects_tls_1_3(message: bytes) -> bool:
    """Whether a ServerHello selects TLS 1.3, which it does in an extension (RFC 8446 section 4.2.1)."""
    return (extensions(message) or {}).get(_SUPPORTED_VERSIONS) == _TLS_1_3


def named_groups(message: bytes) -> tuple[int, ...]:
    """Return the groups that a ClientHello names, in its order."""
    return tuple(_entries((extensions(message) or {}).get(_SUPPORTED_GROUPS, b"")))


def extensions(message: bytes) -> dict[int, bytes] | None:
    """Return the extensions of a hello that this package looks at, by their type.

    Reading stops at the first extension that is longer than what is left of the message.

    Returns:
        The contents by extension type; None if the message ends before its extensions.
    """
    found: dict[int, bytes] = {}
    try:
        # RFC 8446 section 4.1.2: header, version, random and session id, then lists of cipher suites
        # and of compression methods. Section 4.1.3: a ServerHello has one of each instead of a list.
        position = 39 + message[38]
        if message[0] == CLIENT_HELLO_TYPE:
            position += 2 + (message[position] << 8 | message[position + 1])
            position += message[position] + 3
        else:
            position += 5
    except IndexError:
        return None
    size = len(message)
    while position + 4 <= size:
        kind, length = _HEAD(message, position)
        position += 4
        if position + length > size:
            break
        if kind in _LOOKED_AT:
            found[kind] = message[position : position + length]
        position += length
    return found


def _groups_of(shares: bytes) -> Iterator[int]:
    position, size = 2, len(shares)
    while position + 4 < size:
        group, length = _HEAD(shares, position)
        yield group
        position += 4 + length


def _entries(extension: bytes) -> Iterator[int]:
    """Read a list of two-byte numbers that has its length in front."""
    return (_number(extension, at) for at in range(2, len(extension) - 1, 2))


def _object_to_group(group: int) -> Objection | None:
    if group not in FINITE_FIELD_GROUPS:
        return None
    name = f"ffdhe{_FFDHE[group]}" if group in _FFDHE else f"finite-field group {group:#x}"
    return Objection(
        ALERT_HANDSHAKE_FAILURE,
        f"a hello that leads to a key exchange over {name}",
        "set the peer to prefer an elliptic curve, such as X25519 or P-256: finite fields cost "
        "up to a hundred times as much, and trio_duplex never uses them",
    )


def _too_many(number: int, what: str) -> Objection:
    return Objection(
        ALERT_ILLEGAL_PARAMETER,
        f"a ClientHello with {number} {what}",
        "real TLS clients do not send so many: find out what this peer is",
    )


def _has_too_many_names(extension: bytes) -> bool:
    position, number = 2, 0
    while position < len(extension) and number <= MAX_AUTHORITIES:
        position += 2 + _number(extension, position)
        number += 1
    return number > MAX_AUTHORITIES


def _number(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 2], "big")
