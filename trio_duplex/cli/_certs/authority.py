"""A certificate authority for tests and labs, and the certificates that it issues; without files.

The certificates follow RFC 5280 as strictly as Python 3.13 demands by default
(``VERIFY_X509_STRICT``): basic constraints and key usage are critical, and all
certificates have key identifiers.
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
"""An authority lives longer than its certificates, because it is installed on every node."""

BACKDATED = timedelta(hours=1)
"""How long before now a certificate becomes valid, because clocks of lab machines differ."""

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
"""The key of an authority. Ours has the first kind; a user may have put another authority there."""

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
    """The node that a certificate is for.

    Attributes:
        name: The name of the node, and of its files.
        ip_addresses: All IP addresses in the certificate.
        uris: All URIs in the certificate.
        dns_names: All DNS names in the certificate.
    """

    name: str
    ip_addresses: Sequence[IPAddress] = ()
    uris: Sequence[str] = ()
    dns_names: Sequence[str] = ()


class Authority:
    """An authority, either new or loaded.

    Args:
        certificate: The certificate of the authority.
        key: The private key of the authority.
    """

    def __init__(self, certificate: x509.Certificate, key: SigningKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, *, now: datetime, days: int) -> tuple[Authority, Issued]:
        """Make an authority that lasts at least ``days``; return it, and what to save of it."""
        key = ec.generate_private_key(ec.SECP256R1())
        key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        # Put the identifier into the name, because chains are built by name, and two authorities of
        # one lab must have different names.
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
        """Load an authority that was saved.

        Raises:
            ValueError: The certificate is not that of an authority, or the key does
                not belong to it.
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
            raise ValueError("its private key is of a kind that can't sign certificates")
        if private.public_key() != read.public_key():
            raise ValueError("its certificate and its private key do not belong together")
        return cls(read, private)

    def issue(self, subject: Subject, *, now: datetime, days: int) -> Issued:
        """Issue a certificate for both TLS roles.

        Raises:
            ValueError: The certificate would be valid for longer than the authority.
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
    """Make a subject with a common name, cut to the 64 characters that X.520 allows.

    The whole name is in the subjectAltName.
    """
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
        key_encipherment=False,  # only for RSA key exchange, and our keys are not RSA keys
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
