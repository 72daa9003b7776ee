"""A certificate authority for tests and labs: what it is, and what it issues. No files here.

The certificates keep to RFC 5280 as strictly as Python 3.13 asks for
(``VERIFY_X509_STRICT``): critical basic constraints and key usage, and key
identifiers in all of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
"""An authority is installed on every node, so that it must outlast many certificates."""

BACKDATED = timedelta(hours=1)
"""How long before now a certificate becomes valid: clocks of lab machines differ."""

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
"""Of an authority: ours has the first; somebody may have put another there."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@attrs.frozen
class Issued:
    """A certificate and its private key, both in PEM.

    Attributes:
        certificate: The certificate.
        key: The key, PKCS #8, not encrypted.
        not_after: When it expires.
    """

    certificate: bytes
    key: bytes
    not_after: datetime


@attrs.frozen
class Subject:
    """Whom a certificate is for.

    Attributes:
        name: The name, which is its file's name too.
        ip_addresses: All IP addresses that the certificate bears.
        uris: All URIs that it bears.
        dns_names: All DNS names that it bears.
    """

    name: str
    ip_addresses: Sequence[IPAddress] = ()
    uris: Sequence[str] = ()
    dns_names: Sequence[str] = ()


class Authority:
    """An authority, new or one that was kept.

    Args:
        certificate: Its certificate.
        key: Its private key.
    """

    def __init__(self, certificate: x509.Certificate, key: SigningKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, *, now: datetime, days: int) -> tuple[Authority, Issued]:
        """Make one that lasts at least so many days; with what to keep of it."""
        key = ec.generate_private_key(ec.SECP256R1())
        key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        # The identifier tells two authorities of one lab apart: chains are built by name.
        name = _common_name(f"trio-duplex lab authority {key_id.digest.hex()[:8]}")
        not_after = now + timedelta(days=max(days, AUTHORITY_DAYS))
        certificate = (
            _builder(name, name, key.public_key(), now, not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key), _issued(certificate, key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> Authority:
        """Read one that was kept.

        Raises:
            ValueError: It is no authority, or the key is another's.
        """
        try:
            read = x509.load_pem_x509_certificate(certificate)
            private = serialization.load_pem_private_key(key, password=None)
        except TypeError as exc:  # encrypted
            raise ValueError("its private key is encrypted") from exc
        constraints = read.extensions.get_extension_for_class(x509.BasicConstraints)
        if not constraints.value.ca:
            raise ValueError("its certificate is not that of an authority")
        if not isinstance(private, SigningKey):
            raise ValueError("its private key is of a kind that signs no certificates")
        if private.public_key() != read.public_key():
            raise ValueError("its certificate and its private key do not belong together")
        return cls(read, private)

    def issue(self, subject: Subject, *, now: datetime, days: int) -> Issued:
        """Issue a certificate for both TLS roles.

        Raises:
            ValueError: It would outlast the authority.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        not_after = now + timedelta(days=days)
        if not_after > self.certificate.not_valid_after_utc:
            raise ValueError(
                f"the authority expires on {self.certificate.not_valid_after_utc:%Y-%m-%d}, before "
                f"a certificate of {days} days would"
            )
        issuer_key_id = self.certificate.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value
        builder = _builder(
            _common_name(subject.name), self.certificate.subject, key.public_key(), now, not_after
        )
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(_names(subject)), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id),
                critical=False,
            )
            .sign(self._key, _hash_for(self._key))
        )
        return _issued(certificate, key)


def _hash_for(key: SigningKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _names(subject: Subject) -> list[x509.GeneralName]:
    return [
        *map(x509.DNSName, dict.fromkeys(subject.dns_names)),
        *map(x509.IPAddress, dict.fromkeys(subject.ip_addresses)),
        *map(x509.UniformResourceIdentifier, dict.fromkeys(subject.uris)),
    ]


def _common_name(text: str) -> x509.Name:
    """A subject of one common name; what X.520 has no room for (64 characters) is left to the SANs."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,  # of RSA key exchange only, which no key of ours has
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _issued(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    return Issued(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate.not_valid_after_utc,
    )
