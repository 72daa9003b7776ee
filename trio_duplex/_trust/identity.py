"""`PeerIdentity`: what the peer's certificate says, parsed once, printable and hashable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from itertools import chain, islice

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

IPAddress = IPv4Address | IPv6Address

UNREADABLE = (
    ValueError,
    TypeError,  # a name in a BIT STRING
    LookupError,  # a damaged certificate, before cryptography 43
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for a certificate that it can't read, when it is loaded or
when one of its attributes is read. A fuzzer found them."""


@attrs.frozen
class PeerIdentity:
    """What a leaf certificate says about its holder.

    TLS has verified the chain, and the issuer vouches for the names. Two
    identities are equal if their certificates are.

    Attributes:
        dns_names: DNS names, in lower case; a wildcard is kept as it is.
        ip_addresses: IP addresses.
        uris: URIs, including SPIFFE IDs, as they are in the certificate.
        subject: The subject's distinguished name (RFC 4514). Do not use it for
            authentication: RFC 9525 section 2 rules it out.
        issuer: The issuer's distinguished name.
        serial_number: The serial number.
        not_before: Start of validity, in UTC.
        not_after: End of validity, in UTC.
        certificate_sha256: SHA-256 of the certificate, 64 hex digits.
        public_key_sha256: SHA-256 of its SubjectPublicKeyInfo, 64 hex digits.
        certificate: The certificate in DER.
        chain: The chain as TLS verified it, leaf first, in DER. It is empty if
            the session was resumed, or if this Python can't return the chain.
    """

    dns_names: tuple[str, ...] = attrs.field(eq=False)
    ip_addresses: tuple[IPAddress, ...] = attrs.field(eq=False)
    uris: tuple[str, ...] = attrs.field(eq=False)
    subject: str = attrs.field(eq=False)
    issuer: str = attrs.field(eq=False)
    serial_number: int = attrs.field(eq=False)
    not_before: datetime = attrs.field(eq=False)
    not_after: datetime = attrs.field(eq=False)
    certificate_sha256: str = attrs.field(eq=False)
    public_key_sha256: str = attrs.field(eq=False)
    certificate: bytes = attrs.field(repr=False)
    chain: tuple[bytes, ...] = attrs.field(repr=False, eq=False, default=())

    @classmethod
    def from_der(cls, certificate: bytes, chain: Sequence[bytes] = ()) -> PeerIdentity:
        """Parse a certificate.

        Args:
            certificate: The leaf certificate, DER.
            chain: The chain, leaf first, DER each.

        Raises:
            ValueError: It is not a certificate, or its names can't be read.
        """
        try:
            return cls._from_parsed(x509.load_der_x509_certificate(certificate), chain)
        except UNREADABLE as exc:
            raise ValueError(f"the certificate can't be read: {exc}") from exc

    @classmethod
    def _from_parsed(cls, parsed: x509.Certificate, chain: Sequence[bytes]) -> PeerIdentity:
        names = _alternative_names(parsed)
        certificate = parsed.public_bytes(Encoding.DER)
        return cls(
            dns_names=tuple(name.lower() for name in names.get_values_for_type(x509.DNSName)),
            ip_addresses=tuple(
                address
                for address in names.get_values_for_type(x509.IPAddress)
                if isinstance(address, IPv4Address | IPv6Address)
            ),
            uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
            subject=parsed.subject.rfc4514_string(),
            issuer=parsed.issuer.rfc4514_string(),
            serial_number=parsed.serial_number,
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            certificate_sha256=hashlib.sha256(certificate).hexdigest(),
            public_key_sha256=hashlib.sha256(public_key_info(parsed)).hexdigest(),
            certificate=certificate,
            chain=tuple(chain),
        )

    @property
    def spiffe_id(self) -> str | None:
        """The SPIFFE ID, if there is exactly one URI and that is a SPIFFE ID."""
        if len(self.uris) == 1 and self.uris[0].startswith("spiffe://"):
            return self.uris[0]
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """All names as text, DNS names first, then IP addresses, then URIs."""
        return (*self.dns_names, *map(str, self.ip_addresses), *self.uris)

    def __str__(self) -> str:
        """Names and the start of the fingerprint, safe to log.

        The names are text from outside, even if an issuer vouches for them. So
        everything but printable ASCII is escaped, and the length is bounded.
        """
        total = len(self.dns_names) + len(self.ip_addresses) + len(self.uris)
        # Do not use `names`, which would convert all of them, and there may be very many.
        every = chain(self.dns_names, map(str, self.ip_addresses), self.uris)
        names = ", ".join(map(_printable, islice(every, 4))) or "no name"
        more = f" and {total - 4} more" if total > 4 else ""
        return f"{names}{more} (sha256:{self.certificate_sha256[:16]})"


@lru_cache(maxsize=128)
def read_identity(certificate: bytes, chain: tuple[bytes, ...]) -> PeerIdentity:
    """`PeerIdentity.from_der`, once for a peer that comes again and again.

    To parse a certificate costs a tenth of all that Python does for a short
    connection. Only those are kept whose chain we trust, at 36 KiB each at most, and
    usually 2.

    Raises:
        ValueError: As there.
    """
    return PeerIdentity.from_der(certificate, chain)


def public_key_info(certificate: x509.Certificate) -> bytes:
    """Return the SubjectPublicKeyInfo exactly as it is in the certificate, DER.

    The bytes are cut out, because to encode the parsed key again would give other
    bytes if the certificate has a compressed point or RSA-PSS parameters, and would
    fail for a kind of key that cryptography does not know.
    """
    fields = _elements(_content(certificate.tbs_certificate_bytes))
    if fields[0][0] == _EXPLICIT_0:  # the version, absent in X.509 v1
        del fields[0]
    return fields[5]  # after serialNumber, signature, issuer, validity, subject


_EXPLICIT_0 = 0xA0


def _content(element: bytes) -> bytes:
    return element[len(element) - _length(element)[0] :]


def _elements(content: bytes) -> list[bytes]:
    """Cut the content of a DER sequence into elements; it was parsed before, so it is well-formed."""
    found: list[bytes] = []
    while content:
        length, start = _length(content)
        found.append(content[: start + length])
        content = content[start + length :]
    return found


def _length(element: bytes) -> tuple[int, int]:
    """Return the length of an element's content, and where it starts (X.690 section 8.1.3)."""
    first = element[1]
    if not first & 0x80:
        return first, 2
    start = 2 + (first & 0x7F)
    return int.from_bytes(element[2:start], "big"), start


def _printable(name: str, longest: int = 80) -> str:
    text = ascii(name)[1:-1].replace(" ", "\\x20")
    return text if len(text) <= longest else text[:longest] + "..."


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])
    return extension.value
