"""Does a certificate bear this name: RFC 9525, through service-identity.

Pure. An expected name is what a user wrote: a DNS name, an IP address or a URI.
The certificate's names are its issuer's words: one that is malformed matches
nothing, and never raises.
"""

from __future__ import annotations

import ipaddress
import re

from service_identity.exceptions import CertificateError
from service_identity.hazmat import (
    DNS_ID,
    URI_ID,
    CertificatePattern,
    DNSPattern,
    IPAddress_ID,
    IPAddressPattern,
    ServiceID,
    URIPattern,
)

from trio_duplex._trust.identity import IPAddress, PeerIdentity

PIN_PREFIX = "sha256:"

# RFC 1034 section 3.5, and the underscore that is found in practice.
_LABEL = "[a-z0-9_-]{1,63}"
_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_DNS_PATTERN = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}")
_LONGEST_DNS_NAME = 253


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` is a DNS name, an IP address or a URI."""
    _expected(name)


def bears_name(identity: PeerIdentity, name: str) -> bool:
    """Whether a certificate bears a name, as RFC 9525 section 6 has it matched."""
    expected = _expected(name)
    if isinstance(expected, str):
        return expected in identity.uris
    return any(expected.verify(pattern) for pattern in _patterns(identity))


def dns_name(name: str) -> str | None:
    """An expected name as it goes out as SNI, if it is a DNS name: in A-labels, without a dot."""
    expected = _expected(name)
    return expected.hostname.decode("ascii") if isinstance(expected, DNS_ID) else None


def _expected(name: str) -> ServiceID | str:
    """Parse an expected name; a URI that must be equal to the letter stays text."""
    if name.lower().startswith(PIN_PREFIX):
        raise ValueError(f"{name!r} is a pin, not a name: PinnedPeer takes it")
    try:
        if (address := _ip_address(name)) is not None:
            return IPAddress_ID(str(address))
        scheme, colon, rest = name.partition(":")
        if not colon:
            return _checked(DNS_ID(name.removesuffix(".")))
        if scheme.lower() == "spiffe" or re.search(r"[/?#:@]", rest.removeprefix("//")):
            return name
        uri = URI_ID(name)
        _checked(uri.dns_id)
    except ValueError as exc:
        raise ValueError(f"{name!r} is no DNS name, IP address or URI") from exc
    return uri


def _checked(dns_id: DNS_ID) -> DNS_ID:
    """Refuse what service-identity lets pass, and what no certificate or SNI can hold."""
    text = dns_id.hostname.decode("ascii")
    if len(text) > _LONGEST_DNS_NAME or not _DNS_NAME.fullmatch(text):
        raise ValueError("no DNS name")
    return dns_id


def _patterns(identity: PeerIdentity) -> list[CertificatePattern]:
    """What service-identity can match."""
    patterns: list[CertificatePattern] = [IPAddressPattern(ip) for ip in identity.ip_addresses]
    for name in identity.dns_names:
        # Stricter than service-identity, which strips blanks and allows "f*.example.org".
        if _DNS_PATTERN.fullmatch(name):
            try:
                patterns.append(DNSPattern.from_bytes(name.encode("ascii")))
            except CertificateError:
                continue
    for uri in identity.uris:
        scheme, _, rest = uri.partition(":")
        host = rest.removeprefix("//")
        if _DNS_NAME.fullmatch(host.lower()):
            try:
                patterns.append(URIPattern.from_bytes(f"{scheme}:{host}".encode("ascii")))
            except (CertificateError, ValueError):
                continue
    return patterns


def _ip_address(text: str) -> IPAddress | None:
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        return ipaddress.ip_address(text[1:-1] if bracketed else text)
    except ValueError:
        return None
