"""The header of the PROXY protocol, version 1 and 2: who came, told to a backend before the data.

Written after HAProxy's ``proxy-protocol.txt``, section 2. Pure: addresses and
facts in, bytes out. Version 2 carries what is known of TLS in the TLVs of
section 2.2, and what only we know in one of the application's own
(`ROLE_TYPE`).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

import attrs

from trio_duplex import Address, Reason, Role

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

ALPN_TYPE, AUTHORITY_TYPE, CRC32C_TYPE, TLS_TYPE = 0x01, 0x02, 0x03, 0x20
VERSION_SUBTYPE, CN_SUBTYPE, CIPHER_SUBTYPE = 0x21, 0x22, 0x23

ROLE_TYPE = 0xE7
"""Our own TLV. Its value is ASCII, ``name=value`` pairs with a space between:
``role=server reason=spoke``, where the role is ours (``server`` or ``client``)
and the reason is why we took it. Readers must skip names that they do not know.
The number is one of the sixteen for applications (section 2.2.8), and none of
those that the large cloud providers use (0xE0, 0xEA, 0xEE)."""

LONGEST_TEXT = 1024
"""Bytes of a name that is told. A longer one is left out: a name that is cut
could be another's name. X.520 allows 64 in a common name, DNS 253."""

_OVER_TLS, _CERTIFICATE_NOW, _CERTIFICATE_IN_SESSION = 0x01, 0x02, 0x04
_UNIX_PATH_SIZE = 108


@attrs.frozen(kw_only=True)
class TLSFacts:
    """What version 2 tells of TLS.

    Attributes:
        role: The TLS role that we play; the peer plays the other.
        reason: Why.
        version: Such as ``TLSv1.3``.
        cipher: OpenSSL's name of the cipher suite.
        verified: Whether the peer presented a certificate. One that did and
            was not verified has no connection, so that this is both.
        resumed: Whether the certificate was presented earlier in the session,
            and not on this connection.
        common_name: That of the certificate, if it has one.
        alpn: The protocol that was agreed on by ALPN.
        authority: The name that the peer asked for by SNI.
    """

    role: Role
    reason: Reason
    version: str
    cipher: str
    verified: bool
    resumed: bool = False
    common_name: str | None = None
    alpn: str | None = None
    authority: str | None = None


def encode_v1(source: Address | None, destination: Address | None) -> bytes:
    """Encode one line of text: addresses and ports, nothing of TLS.

    What is not TCP over IP is ``UNKNOWN``, which a receiver must accept (section 2.1).
    """
    ends = _ip_ends(source, destination)
    if ends is None:
        return b"PROXY UNKNOWN\r\n"
    (from_ip, from_port), (to_ip, to_port) = ends
    return f"PROXY TCP{from_ip.version} {from_ip} {to_ip} {from_port} {to_port}\r\n".encode()


def encode_v2(
    source: Address | None,
    destination: Address | None,
    tls: TLSFacts | None = None,
) -> bytes:
    """Encode the binary header, with its checksum.

    Args:
        source: The peer's end.
        destination: The end that the peer reached. Addresses of two IP versions
            are both told as IPv6.
        tls: What is known of TLS; None to tell nothing of it.
    """
    family, addresses = _addresses(source, destination)
    tlvs = b"" if tls is None else b"".join(_tlvs(tls))
    tail = bytes(addresses) + tlvs + _tlv(CRC32C_TYPE, bytes(4))
    header = SIGNATURE + struct.pack("!BBH", 0x21, family, len(tail)) + tail
    # The checksum is that of the header with zeros in its place, which is at the end (2.2.3).
    return header[:-4] + struct.pack("!I", crc32c(header))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) as in RFC 4960, appendix B, bit by bit from a table."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()


def _tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def _tlvs(tls: TLSFacts) -> Iterable[bytes]:
    if tls.alpn:
        yield _tlv(ALPN_TYPE, tls.alpn.encode())
    yield from _text(AUTHORITY_TYPE, tls.authority)
    bits = _OVER_TLS
    if tls.verified:
        bits |= (
            _CERTIFICATE_IN_SESSION if tls.resumed else _CERTIFICATE_NOW | _CERTIFICATE_IN_SESSION
        )
    # `verify` is 0 only where a certificate was presented and found good (2.2.6).
    value = struct.pack("!BI", bits, 0 if tls.verified else 1)
    value += _tlv(VERSION_SUBTYPE, tls.version.encode())
    value += b"".join(_text(CN_SUBTYPE, tls.common_name if tls.verified else None))
    value += _tlv(CIPHER_SUBTYPE, tls.cipher.encode())
    yield _tlv(TLS_TYPE, value)
    yield _tlv(ROLE_TYPE, f"role={tls.role.value} reason={tls.reason.value}".encode())


def _text(kind: int, text: str | None) -> Iterable[bytes]:
    encoded = (text or "").encode("utf-8", "backslashreplace")
    if 0 < len(encoded) <= LONGEST_TEXT:
        yield _tlv(kind, encoded)


IPEnd = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def _addresses(source: Address | None, destination: Address | None) -> tuple[int, bytes]:
    """The family's byte and the block of addresses; of the unspecified family it is empty."""
    ends = _ip_ends(source, destination)
    if ends is not None:
        (from_ip, from_port), (to_ip, to_port) = ends
        ports = struct.pack("!HH", from_port, to_port)
        return 0x11 if from_ip.version == 4 else 0x21, from_ip.packed + to_ip.packed + ports
    paths = [_unix_path(end) for end in (source, destination)]
    if any(paths) and all(path is not None and len(path) <= _UNIX_PATH_SIZE for path in paths):
        return 0x31, b"".join((path or b"").ljust(_UNIX_PATH_SIZE, b"\0") for path in paths)
    return 0x00, b""


def _unix_path(address: Address | None) -> bytes | None:
    """A path as the kernel has it; empty for the unnamed end of most clients."""
    match address:
        case None:
            return b""
        case str() if address.startswith("@"):  # Linux's abstract namespace
            return b"\0" + address[1:].encode("utf-8", "surrogateescape")
        case str():
            return address.encode("utf-8", "surrogateescape")
        case _:
            return None


def _ip_ends(source: Address | None, destination: Address | None) -> tuple[IPEnd, IPEnd] | None:
    """Both ends in one version of IP, or None where one is not IP."""
    ours, theirs = _ip_end(source), _ip_end(destination)
    if ours is None or theirs is None:
        return None
    if ours[0].version != theirs[0].version:
        return _as_ipv6(ours), _as_ipv6(theirs)
    return ours, theirs


def _ip_end(address: Address | None) -> IPEnd | None:
    if address is None or isinstance(address, str):
        return None
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    # A listener of both versions sees IPv4 in IPv6's clothes; its peer does not.
    return getattr(ip, "ipv4_mapped", None) or ip, address[1]


def _as_ipv6(end: IPEnd) -> IPEnd:
    ip, port = end
    return (ipaddress.IPv6Address(f"::ffff:{ip}"), port) if ip.version == 4 else end
