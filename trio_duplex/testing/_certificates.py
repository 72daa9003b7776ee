"""Throw-away certificates: an authority that issues good and flawed ones.

It uses trustme; what trustme can't make (a wrong key usage, a self-signed
certificate) is made with cryptography. Keys are P-256, so that an authority takes
milliseconds to make; with RSA it would take a second.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trio_duplex import Credentials, Role
from trio_duplex.testing._contexts import new_context

if TYPE_CHECKING:
    import trustme

DEFAULT_NAMES = ("localhost", "127.0.0.1", "::1")
"""The names in a throw-away certificate, unless others are given."""

_DAY = dt.timedelta(days=1)


class Flaw(enum.Enum):
    """What can be wrong with a certificate; `Authority.flawed` issues each of them."""

    EXPIRED = "expired"
    """It was valid until yesterday."""

    NOT_YET_VALID = "not yet valid"
    """It will be valid from tomorrow."""

    WRONG_NAME = "wrong name"
    """It is for ``somebody-else.invalid``; nothing else is wrong."""

    WRONG_AUTHORITY = "wrong authority"
    """It was issued by another authority with the same name."""

    SERVER_ONLY = "server only"
    """Its extended key usage is only serverAuth, so it can't be used in the client role."""

    CLIENT_ONLY = "client only"
    """Its extended key usage is only clientAuth, so it can't be used in the server role."""

    SELF_SIGNED = "self-signed"
    """It was issued by itself."""

    SHORT_CHAIN = "short chain"
    """It was issued by an intermediate authority whose certificate is not sent with it."""


class Contexts(Protocol):
    """Makes a TLS context for a role, which defines what a peer presents and trusts.

    `Certificate`, `PeerCredentials` and `trio_duplex.Credentials` are such
    classes, and you can write your own.
    """

    def context(self, role: Role) -> ssl.SSLContext:
        """Return the TLS context for ``role``."""
        ...


class CertificateFiles(NamedTuple):
    """The paths of the PEM files that `Certificate.write` has written."""

    certificate_chain: Path
    private_key: Path
    trust: Path


@attrs.frozen(repr=False)
class Certificate:
    """A certificate, its key, and the authority that its holder trusts, all as PEM.

    `trio_duplex.Credentials.mutual` accepts it as ``certificate_chain``, and a
    scripted peer accepts it as ``credentials``.

    Attributes:
        chain_pem: The certificate and its intermediates, leaf first.
        private_key_pem: The key, not encrypted.
        trust_pem: The certificate of the authority to trust.
    """

    chain_pem: bytes
    private_key_pem: bytes
    trust_pem: bytes

    @property
    def private_key_and_cert_chain_pem(self) -> trustme.Blob:
        """Key and chain together, as in a ``trustme.LeafCert``."""
        import trustme

        return trustme.Blob(self.private_key_pem + self.chain_pem)

    def context(self, role: Role) -> ssl.SSLContext:
        """Make a TLS context for ``role`` that demands the peer's certificate."""
        return PeerCredentials(self, trust_pem=self.trust_pem).context(role)

    def peer_credentials(
        self, *, tls_version: ssl.TLSVersion | None = None, alpn: Sequence[str] = ()
    ) -> PeerCredentials:
        """Make credentials for a scripted peer from this certificate, with options."""
        return PeerCredentials(
            self, trust_pem=self.trust_pem, tls_version=tls_version, alpn=tuple(alpn)
        )

    def write(self, folder: Path) -> CertificateFiles:
        """Write ``node.pem``, ``node.key`` and ``trust.pem``, for programs that need files.

        Args:
            folder: An existing folder, such as pytest's ``tmp_path``.
        """
        files = CertificateFiles(folder / "node.pem", folder / "node.key", folder / "trust.pem")
        files.certificate_chain.write_bytes(self.chain_pem)
        files.private_key.write_bytes(self.private_key_pem)
        files.trust.write_bytes(self.trust_pem)
        return files

    def __repr__(self) -> str:
        leaf = x509.load_pem_x509_certificate(self.chain_pem)
        return f"<Certificate {leaf.subject.rfc4514_string()}>"


@attrs.frozen
class PeerCredentials:
    """What a scripted peer presents and whom it trusts, without any safety checks.

    `trio_duplex.Credentials` refuses settings that are not safe (no certificate, no
    verification, an old TLS version), but a peer in a test may need them.

    Attributes:
        certificate: The certificate that it presents. With None it presents
            none: it can then be a client, but not a server.
        trust_pem: The authorities that it trusts, as PEM; None to verify nothing.
        tls_version: The only TLS version that it speaks; None for 1.2 and
            later.
        alpn: Protocol names that it offers or accepts.
    """

    certificate: Certificate | None = None
    trust_pem: bytes | None = None
    tls_version: ssl.TLSVersion | None = None
    alpn: tuple[str, ...] = ()

    def context(self, role: Role) -> ssl.SSLContext:
        """Make a TLS context for ``role``."""
        context = new_context(role)
        if self.tls_version is not None:
            context.minimum_version = context.maximum_version = self.tls_version
        if self.trust_pem is None:
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_verify_locations(cadata=self.trust_pem.decode("ascii"))
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.certificate is not None:
            with tempfile.TemporaryDirectory(prefix="trio_duplex-") as folder:
                files = self.certificate.write(Path(folder))
                context.load_cert_chain(files.certificate_chain, files.private_key)
        return context


class Authority:
    """A throw-away certificate authority, which issues good and flawed certificates.

    `trio_duplex.Credentials.mutual` accepts it as ``trust``. To make an authority
    takes some milliseconds, and to issue a certificate about one.

    Raises:
        ImportError: trustme is not installed. ``trio-duplex[testing]`` installs it.

    Attributes:
        ca: The underlying ``trustme.CA``.
    """

    def __init__(self) -> None:
        try:
            import trustme
        except ModuleNotFoundError as exc:
            raise ModuleNotFoundError(
                "an Authority needs trustme: python -m pip install 'trio-duplex[testing]'",
                name=exc.name,
            ) from exc

        self.ca: trustme.CA = trustme.CA(key_type=trustme.KeyType.ECDSA)

    @property
    def cert_pem(self) -> trustme.Blob:
        """The authority's own certificate, as in ``trustme.CA``."""
        return self.ca.cert_pem

    @property
    def trust_pem(self) -> bytes:
        """The authority's own certificate as PEM, which others must trust."""
        return self.ca.cert_pem.bytes()

    def certificate(
        self,
        *names: str,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
    ) -> Certificate:
        """Issue a certificate that can be used in both roles.

        Args:
            names: DNS names (including wildcards), IP addresses or networks, email
                addresses; without names, those of this machine (``localhost``,
                ``127.0.0.1``, ``::1``).
            not_before: When it becomes valid; None for a date long ago.
            not_after: When it expires; None for a date in the distant future.
        """
        return self._issue(self.ca, names, not_before=not_before, not_after=not_after)

    def flawed(self, flaw: Flaw, *names: str) -> Certificate:
        """Issue a certificate with a flaw. Its holder trusts this authority.

        Args:
            flaw: What is wrong with it.
            names: As for `certificate`; ignored for ``Flaw.WRONG_NAME``.
        """
        now = dt.datetime.now(dt.UTC)
        match flaw:
            case Flaw.EXPIRED:
                return self.certificate(*names, not_before=now - 30 * _DAY, not_after=now - _DAY)
            case Flaw.NOT_YET_VALID:
                return self.certificate(*names, not_before=now + _DAY, not_after=now + 30 * _DAY)
            case Flaw.WRONG_NAME:
                return self.certificate("somebody-else.invalid")
            case Flaw.WRONG_AUTHORITY:
                return self._issue(Authority().ca, names)
            case Flaw.SERVER_ONLY:
                return self._sign(names, [ExtendedKeyUsageOID.SERVER_AUTH])
            case Flaw.CLIENT_ONLY:
                return self._sign(names, [ExtendedKeyUsageOID.CLIENT_AUTH])
            case Flaw.SELF_SIGNED:
                return self._sign(names, [*_BOTH_ROLES], by_itself=True)
            case Flaw.SHORT_CHAIN:
                import trustme

                intermediate = self.ca.create_child_ca(key_type=trustme.KeyType.ECDSA)
                return self._issue(intermediate, names, whole_chain=False)

    def credentials(self, *names: str) -> Credentials:
        """Issue a certificate, and make `trio_duplex.Credentials` from it that trust this authority.

        Args:
            names: As for `certificate`.
        """
        certificate = self.certificate(*names)
        return Credentials.mutual(
            certificate_chain=certificate.chain_pem,
            private_key=certificate.private_key_pem,
            trust=self.trust_pem,
        )

    def _issue(
        self,
        ca: trustme.CA,
        names: Sequence[str],
        *,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        whole_chain: bool = True,
    ) -> Certificate:
        import trustme

        leaf = ca.issue_cert(
            *(names or DEFAULT_NAMES),
            not_before=not_before,
            not_after=not_after,
            key_type=trustme.KeyType.ECDSA,
        )
        chain = [blob.bytes() for blob in leaf.cert_chain_pems]
        return Certificate(
            chain_pem=b"".join(chain if whole_chain else chain[:1]),
            private_key_pem=leaf.private_key_pem.bytes(),
            trust_pem=self.trust_pem,
        )

    def _sign(
        self,
        names: Sequence[str],
        usages: Sequence[x509.ObjectIdentifier],
        *,
        by_itself: bool = False,
    ) -> Certificate:
        ca_key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        issuer = None if by_itself else (x509.load_pem_x509_certificate(self.trust_pem), ca_key)
        return _sign(names or DEFAULT_NAMES, usages, issuer, self.trust_pem)


_BOTH_ROLES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def _sign(
    names: Sequence[str],
    usages: Sequence[x509.ObjectIdentifier],
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    trust_pem: bytes | None,
) -> Certificate:
    """Make a certificate that trustme can't make; it is self-signed if ``issuer`` is None."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * _DAY)
        .not_valid_after(now + 365 * _DAY)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signer = key
    if issuer is not None:
        signer = issuer[1]
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(identifier, critical=False)
    pem = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private_key = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Certificate(pem, private_key, pem if trust_pem is None else trust_pem)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@functools.cache
def anonymous() -> PeerCredentials:
    """Return the default of peers without credentials: self-signed, and trusting everybody."""
    return PeerCredentials(_sign(DEFAULT_NAMES, _BOTH_ROLES, None, None), trust_pem=None)


@functools.cache
def shared_authority() -> Authority:
    """Return the authority for everything in this process that was not given another one."""
    return Authority()
