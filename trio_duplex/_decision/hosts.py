"""IP addresses as text: the key under which an address counts, and its number.

A window policy asks for them at each connection, and should decide within 2 µs. A fleet has more
addresses than a cache holds, and `ipaddress` takes 2 to 10 µs to parse one. So the forms in
which the kernel writes nearly all addresses are tried first: IPv4 octets in a table, and IPv6
by a regular expression.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_OCTETS = {str(octet): octet for octet in range(256)}

# Four groups without a gap, of which the first and the last are not 0: they are the canonical text
# (RFC 5952) of the network. Mapped addresses and those of NAT64 have a gap in the first four.
_GROUP = r"[1-9a-f][0-9a-f]{0,3}"
_NETWORK = rf"{_GROUP}:(?:(?:0|{_GROUP}):){{2}}{_GROUP}"
_IPV6 = re.compile(
    rf"({_NETWORK})(?:(?::(?:0|{_GROUP})){{4}}|(?::{_GROUP}){{0,2}}::{_GROUP})"
).fullmatch

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def host_key(host: str) -> str | None:
    """Return the key under which an address counts: IPv4 as it is, IPv6 as its /64 (RFC 6177).

    An IPv4 address that is mapped into IPv6, or embedded in the well-known NAT64
    prefix (RFC 6052 section 2.1), counts as that IPv4 address. All of them are in
    one /64, so they would otherwise count as one peer.

    Returns:
        The key, or None if ``host`` is not an IP address.
    """
    if ":" not in host:
        return host if _ipv4_number(host) is not None else None
    # Not from a cache: where there are many addresses it would take longer.
    network = _IPV6(host)
    return f"{network[1]}::/64" if network else _any_ipv6_key(host)


@lru_cache(maxsize=4096)
def _any_ipv6_key(host: str) -> str | None:
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return None
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address in _NAT64:
        return str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def host_number(host: str) -> tuple[int, int] | None:
    """Return an address as its version and its number; one that is mapped into IPv6 as IPv4.

    Returns:
        The two, or None if ``host`` is not an IP address.
    """
    number = _ipv4_number(host)
    return _any_number(host) if number is None else (4, number)


def _ipv4_number(host: str) -> int | None:
    try:
        a, b, c, d = host.split(".")
        return _OCTETS[a] << 24 | _OCTETS[b] << 16 | _OCTETS[c] << 8 | _OCTETS[d]
    except (ValueError, KeyError):
        return None


@lru_cache(maxsize=4096)
def _any_number(host: str) -> tuple[int, int] | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)
