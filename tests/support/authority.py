"""The one certificate authority of the tests, one of strangers, and a key that is slow to make.

They are made once in a process. `FLEET` issues anything, flaws and all. `AUTHORITY` is the same
authority as a ``trustme.CA``, which is what users have in their tests. The kit's own tests
(tests/testing/) use the kit's `Authority`, because they test it.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import attrs
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trio_duplex import Role

SERVER_AUTH, CLIENT_AUTH = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
USAGE = {Role.SERVER: SERVER_AUTH, Role.CLIENT: CLIENT_AUTH}

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@attrs.frozen
class Blob:
    """A ``trustme.Blob``."""

    data: bytes

    def bytes(self) -> bytes:
        return self.data


@attrs.frozen
class Leaf:
    """A certificate and its key, with what we use of a ``trustme.LeafCert``."""

    certificate: x509.Certificate
    key: Key
    intermediates: tuple[x509.Certificate, ...] = ()

    def as_trustme(self) -> trustme.LeafCert:
        """The same as trustme has it."""
        chain = [one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.intermediates)]
        return trustme.LeafCert(self.key_pem, chain[0], chain[1:])

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain_pem(self) -> bytes:
        chain = (self.certificate, *self.intermediates)
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)

    @property
    def key_pem(self) -> bytes:
        return _pem_of(self.key)

    @property
    def private_key_and_cert_chain_pem(self) -> Blob:
        return Blob(self.key_pem + self.chain_pem)

    @property
    def fingerprint(self) -> str:
        return "sha256:" + self.certificate.fingerprint(hashes.SHA256()).hex(":")


def _pem_of(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.UniformResourceIdentifier(name) if ":" in name else x509.DNSName(name)


class Authority:
    """A certificate authority, with what we use of a ``trustme.CA``; it can issue flawed certificates, too."""

    def __init__(
        self,
        name: str = "authority",
        *,
        issuer: Authority | None = None,
        days: int = 365,
        ca: bool = True,
        path_length: int | None = None,
        sign: bool = True,
        usages: Iterable[x509.ObjectIdentifier] | None = None,
    ) -> None:
        self.key: Key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        builder = (
            _builder(self.name, issuer or self, self.key, NOW - DAY, NOW + days * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
            .add_extension(_key_usage(digital_signature=True, sign=sign), critical=True)
        )
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        self.certificate = builder.sign((issuer or self).key, hashes.SHA256())
        # A root stays out of the chain: peers have it.
        self.chain: tuple[x509.Certificate, ...] = ()
        if issuer is not None:
            self.chain = (self.certificate, *issuer.chain)

    def as_trustme(self) -> trustme.CA:
        """The same authority as trustme has it."""
        return trustme.CA.from_pem(self.pem, _pem_of(self.key))

    def revocation_list(
        self,
        *serial_numbers: int,
        start: datetime = NOW - 9 * DAY,
        end: datetime = NOW + DAY,
        signer: Authority | None = None,
    ) -> x509.CertificateRevocationList:
        """Revoke certificates.

        Args:
            serial_numbers: Whose.
            start: When the list is made.
            end: When the next one is due.
            signer: Another authority that signs it in this one's name.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(start)
            .next_update(end)
        )
        for number in serial_numbers:
            entry = x509.RevokedCertificateBuilder().serial_number(number)
            builder = builder.add_revoked_certificate(entry.revocation_date(NOW - DAY).build())
        return builder.sign((signer or self).key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def cert_pem(self) -> Blob:
        return Blob(self.pem)

    def issue(
        self,
        *names: str | x509.GeneralName,
        not_before: datetime = NOW - DAY,
        not_after: datetime = NOW + 90 * DAY,
        usages: Iterable[x509.ObjectIdentifier] | None = (SERVER_AUTH, CLIENT_AUTH),
        digital_signature: bool = True,
        key: Key | None = None,
        common_name: str = "leaf",
    ) -> Leaf:
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(subject, self, key, not_before, not_after).add_extension(
            _key_usage(digital_signature=digital_signature), critical=True
        )
        if names:
            general = [general_name(n) if isinstance(n, str) else n for n in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return Leaf(builder.sign(self.key, hashes.SHA256()), key, self.chain)


def _builder(
    subject: x509.Name,
    issuer: Authority,
    key: Key,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        # As RFC 5280 asks it of all, and strict peers do.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )


def _key_usage(*, digital_signature: bool, sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not digital_signature,
        encipher_only=False,
        decipher_only=False,
    )


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    """An RSA key of 2048 bits, the only one of a process: to make one takes 100 ms or more."""
    return rsa.generate_private_key(65537, 2048)


FLEET = Authority("fleet")
STRANGERS = Authority("strangers")
"""An authority that nobody here trusts."""

AUTHORITY = FLEET.as_trustme()
STRANGER = STRANGERS.as_trustme()
