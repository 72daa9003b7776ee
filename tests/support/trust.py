"""What the tests of trust share: an authority that issues anything, and peers that meet our listener."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.contexts import new_context
from tests.support.peers import MemoryListener
from trio_duplex import Connection, Credentials, Role, serve_listeners
from trio_duplex._tls.reasons import tls_alert
from trio_duplex._trust.identity import public_key_info
from trio_duplex._trust.pem import Pem, as_file
from trio_duplex.events import HandshakeCompleted, NegotiationFailed

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
    """A certificate and its key; in the tests' eyes, and ours, a ``trustme.LeafCert``."""

    certificate: x509.Certificate
    key: Key
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain_pem(self) -> bytes:
        chain = (self.certificate, *self.intermediates)
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def private_key_and_cert_chain_pem(self) -> Blob:
        return Blob(self.key_pem + self.chain_pem)

    @property
    def fingerprint(self) -> str:
        return "sha256:" + self.certificate.fingerprint(hashes.SHA256()).hex(":")


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.UniformResourceIdentifier(name) if ":" in name else x509.DNSName(name)


class Authority:
    """A certificate authority; in our eyes a ``trustme.CA``."""

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


FLEET = Authority("fleet")
STRANGERS = Authority("strangers")
LISTENER = FLEET.issue("listener.example")


def keys_of(*leaves: Leaf) -> frozenset[bytes]:
    """Their SubjectPublicKeyInfos, as `Material.own_public_keys` has them."""
    return frozenset(public_key_info(leaf.certificate) for leaf in leaves)


def mutual(leaf: Leaf = LISTENER, **options: object) -> Credentials:
    """Credentials of the fleet; by default without threads, for which an autojump clock does not wait."""
    options.setdefault("handshake_threads", False)
    return Credentials.mutual(certificate_chain=leaf, trust=FLEET, **options)  # type: ignore[arg-type]


def context(
    role: Role,
    leaf: Leaf | None,
    *,
    version: ssl.TLSVersion | None = None,
    trust: Authority | None = FLEET,
    kind: type[ssl.SSLContext] = ssl.SSLContext,
) -> ssl.SSLContext:
    """The context of somebody who plays this role, and trusts like us."""
    made = new_context(role, kind)
    if trust is not None:
        made.load_verify_locations(cadata=trust.pem.decode())
    if leaf is not None:
        with as_file(Pem("leaf", leaf.private_key_and_cert_chain_pem.bytes())) as path:
            made.load_cert_chain(path)
    if version is not None:
        made.minimum_version = made.maximum_version = version
    return made


class AskingContext(ssl.SSLContext):
    """Asks for a name by SNI, which ``trio.SSLStream`` is not told here, and remembers its objects."""

    name: str | None = None
    objects: list[ssl.SSLObject]

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        made = super().wrap_bio(*args, **options | {"server_hostname": self.name})
        self.objects.append(made)
        return made


GREETING = b"hello, peer"


@attrs.frozen
class Meeting:
    """What came of a peer that dialled our listener.

    Attributes:
        error: Why it never reached the handler; None if it did.
        handled: The connections that the handler had.
        heard: What the peer heard: `GREETING`, ``b""`` for a clean end, or the
            name of an alert, or ``"broken"``.
    """

    error: Exception | None
    handled: list[Connection]
    heard: bytes | str


async def meet(credentials: Credentials, role: Role, peer: ssl.SSLContext) -> Meeting:
    """Let a peer, in the other role than ``role``, meet a listener of ours in memory."""
    listener = MemoryListener()
    handled: list[Connection] = []
    errors: list[Exception] = []
    ends = 0

    async def handler(connection: Connection) -> None:
        handled.append(connection)
        await connection.send_all(GREETING)

    def observe(event: object) -> None:
        nonlocal ends
        if isinstance(event, NegotiationFailed):
            errors.append(event.error)
        ends += isinstance(event, NegotiationFailed | HandshakeCompleted)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_listeners, handler, [listener], credentials, observers=[observe])
        )
        heard = await hear(listener.connect(), role.other, peer)
        await server.drain(10)
    assert ends == 1
    return Meeting(errors[0] if errors else None, handled, heard)


async def hear(stream: trio.abc.Stream, role: Role, peer: ssl.SSLContext) -> bytes | str:
    """Play a peer to the end of what it can hear."""
    tls = trio.SSLStream(stream, peer, server_side=role is Role.SERVER)
    heard = b""
    try:
        await tls.do_handshake()
        async for data in tls:
            heard += data
    except trio.BrokenResourceError as exc:
        return _alert(exc.__cause__)
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(tls)
    return heard


def _alert(cause: BaseException | None) -> str:
    alert = tls_alert(cause) if isinstance(cause, ssl.SSLError) else None
    return alert or "broken"
