"""What we present and whom we trust, for both roles at once.

The peer picks the role, so it would pick the weaker check if there were one:
credentials whose roles demand different things of the peer are refused.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from os import PathLike, fspath

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trio_duplex._admission import Material
from trio_duplex._own import (
    Check,
    Grade,
    check_chain,
    check_key,
    load_certificates,
    public_key_info,
)
from trio_duplex._pem import (
    CredentialsError,
    PemSource,
    TrustmeAuthority,
    TrustmeCertificate,
    as_file,
    read_pem,
)
from trio_duplex._policy import AnyTrustedPeer, PeerPolicy
from trio_duplex._role import Role
from trio_duplex._symmetry import FLOOR, differences, presented_certificate, unfitness

LOGGER = logging.getLogger("trio_duplex")

Alpn = Sequence[str] | Mapping[Role, Sequence[str]]
CertificateAndKey = tuple[PemSource, PemSource | None] | TrustmeCertificate


class Credentials:
    """What we present and whom we trust, for both roles.

    `Credentials.mutual` makes them from certificates; this constructor takes
    contexts that you have made. ``OP_NO_RENEGOTIATION`` is set on both, because
    a peer's HelloRequest on an open TLS 1.2 connection is otherwise obeyed
    (measured with OpenSSL 3.0).

    Args:
        server_context: Used when we are the TLS server.
        client_context: Used when we are the TLS client.
        peer: Who the peer may be, asked after the handshake in either role.
        allow_asymmetric: Accept contexts that demand more of the peer in one
            role than in the other. The peer picks the role, so this makes the
            stronger demand worthless.
        allow_self: Accept a peer that shows our own certificate or key, for
            fleets that share one.
        own_certificate: The certificate chain that the contexts present, to
            know ourselves by: path, PEM bytes, or a ``trustme.LeafCert``. None
            finds out what the server context presents by a handshake in memory.

    Raises:
        CredentialsError: A context is unfit for its role, or the two differ in
            what they demand of the peer; it names each difference.
    """

    def __init__(
        self,
        *,
        server_context: ssl.SSLContext,
        client_context: ssl.SSLContext,
        peer: PeerPolicy | None = None,
        allow_asymmetric: bool = False,
        allow_self: bool = False,
        own_certificate: PemSource | TrustmeCertificate | None = None,
    ) -> None:
        unfit = [unfitness(server_context, Role.SERVER), unfitness(client_context, Role.CLIENT)]
        if defects := [defect for defect in unfit if defect]:
            raise CredentialsError(*defects)
        self._asymmetries = differences(server_context, client_context)
        if self._asymmetries and not allow_asymmetric:
            raise CredentialsError(
                *self._asymmetries,
                "the peer picks the role, so it would pick the weaker check: make both the "
                "same, or say allow_asymmetric=True",
            )
        if own_certificate is None:
            probed = presented_certificate(server_context)
            own = [x509.load_der_x509_certificate(probed)] if probed else []
        else:
            pem = read_pem(own_certificate, "own certificate")
            own = load_certificates(pem, "own certificate")[:1]
        self._source: _MutualSource | None = None
        self._checks: tuple[Check, ...] = ()
        self._material = _material(
            server_context, client_context, peer or AnyTrustedPeer(), own, allow_self=allow_self
        )

    @classmethod
    def mutual(
        cls,
        *,
        certificate_chain: PemSource | TrustmeCertificate,
        private_key: PemSource | None = None,
        trust: PemSource | TrustmeAuthority,
        peer: PeerPolicy | None = None,
        allow_self: bool = False,
        alpn: Alpn = (),
        certificates_by_name: Mapping[str, CertificateAndKey] | None = None,
        session_tickets: int = 0,
        keylog: str | PathLike[str] | None = None,
        check: bool = True,
    ) -> Credentials:
        """Make credentials that present and demand a certificate in both roles.

        Args:
            certificate_chain: Our certificate and its intermediates, leaf
                first: the path of a PEM file, PEM as bytes, or a
                ``trustme.LeafCert``.
            private_key: The key of the certificate, path or bytes; None if it
                stands in ``certificate_chain``. It must not be encrypted.
            trust: The certificates of the authorities that may have issued
                the peer's: path, bytes, or a ``trustme.CA``.
            peer: Who the peer may be, asked after the handshake in either
                role; None for `AnyTrustedPeer`.
            allow_self: Accept a peer that shows our own certificate or key,
                for fleets that share one.
            alpn: Protocol names to offer and accept, preferred first; or a
                mapping from each role to them.
            certificates_by_name: Other certificates to present in the server
                role, to a peer that asks for their name by SNI: from DNS name
                to ``(chain, key)`` or a ``trustme.LeafCert``.
            session_tickets: How many TLS 1.3 session tickets the server role
                gives out. Each costs about 45 µs of a 330 µs handshake
                (measured), and few peers of this kind resume: 0 by default.
            keylog: A file to which the secrets of every connection are
                appended, for debugging with Wireshark. Whoever reads it reads
                the traffic: a warning is logged. None writes none.
            check: Refuse a certificate that peers will refuse (see
                `check_certificate`), and log what is doubtful.

        Returns:
            Credentials with TLS 1.2 as the floor in both roles.

        Raises:
            CredentialsError: A file can't be read, certificate and key do not
                match, the certificate can't be used in one of the roles, …
            ValueError: ``alpn`` or ``session_tickets`` is out of range.
        """
        source = _MutualSource(
            certificate_chain=certificate_chain,
            private_key=private_key,
            trust=trust,
            peer=peer or AnyTrustedPeer(),
            allow_self=allow_self,
            alpn={role: _alpn_names(alpn, role) for role in Role},
            certificates_by_name=dict(certificates_by_name or {}),
            session_tickets=session_tickets,
            keylog=keylog,
            check=check,
        )
        self = cls.__new__(cls)
        self._source = source
        self._asymmetries = ()
        self._material, self._checks = source.load()
        return self

    @property
    def server_context(self) -> ssl.SSLContext:
        """The TLS context in force for the server role."""
        return self._material.server_context

    @property
    def client_context(self) -> ssl.SSLContext:
        """The TLS context in force for the client role."""
        return self._material.client_context

    def context(self, role: Role) -> ssl.SSLContext:
        """The TLS context in force for ``role``."""
        return self._material.context(role)

    @property
    def peer(self) -> PeerPolicy:
        """Who the peer may be."""
        return self._material.peer

    @property
    def checks(self) -> tuple[Check, ...]:
        """How the checks of our own certificate came out; empty if none were made."""
        return self._checks

    @property
    def material(self) -> Material:
        """What is in force now, as one; for the library itself."""
        return self._material

    def reload(self) -> None:
        """Read the same files again; what is negotiated from now on uses them.

        Connections that are open go on. If anything is wrong with the new
        files, what was in force stays in force.

        Raises:
            CredentialsError: What is wrong with them; or these credentials
                were not made by `mutual`, so that there is nothing to read.
        """
        if self._source is None:
            raise CredentialsError("credentials made of contexts have no files to reload")
        self._material, self._checks = self._source.load()

    def __repr__(self) -> str:
        parts = [repr(self._source)] if self._source else []
        parts += [f"peer={self.peer!r}"]
        if self._material.allow_self:
            parts.append("allow_self=True")
        if self._asymmetries:
            parts.append(f"allow_asymmetric=True: {'; '.join(self._asymmetries)}")
        return f"<Credentials {' '.join(parts)}>"


def _alpn_names(alpn: Alpn, role: Role) -> tuple[str, ...]:
    names = alpn.get(role, ()) if isinstance(alpn, Mapping) else alpn
    if isinstance(names, str):
        raise ValueError(f'alpn is a list of protocol names, such as ["{names}"], not a string')
    for name in names:
        if not (name.isascii() and 1 <= len(name) <= 255):  # one length byte: RFC 7301, section 3.1
            raise ValueError(f"an ALPN protocol name has 1 to 255 ASCII characters, not {name!r}")
    return tuple(names)


def _material(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    peer: PeerPolicy,
    own: Sequence[x509.Certificate],
    *,
    allow_self: bool,
) -> Material:
    for context in (server_context, client_context):
        context.options |= ssl.OP_NO_RENEGOTIATION
    return Material(
        server_context=server_context,
        client_context=client_context,
        peer=peer,
        allow_self=allow_self,
        own_certificates=frozenset(leaf.public_bytes(Encoding.DER) for leaf in own),
        own_public_keys=frozenset(map(public_key_info, own)),
    )


@attrs.frozen(kw_only=True, repr=False)
class _MutualSource:
    """Where `Credentials.mutual` has its material from, to be read again at will."""

    certificate_chain: PemSource | TrustmeCertificate
    private_key: PemSource | None
    trust: PemSource | TrustmeAuthority
    peer: PeerPolicy
    allow_self: bool
    alpn: Mapping[Role, Sequence[str]]
    certificates_by_name: Mapping[str, CertificateAndKey]
    session_tickets: int
    keylog: str | PathLike[str] | None
    check: bool

    def __repr__(self) -> str:
        return f"certificate_chain={_show(self.certificate_chain)} trust={_show(self.trust)}"

    def load(self) -> tuple[Material, tuple[Check, ...]]:
        """Read everything, check it, and build contexts of it; all or nothing."""
        trust_pem = read_pem(self.trust, "trust roots")
        roots = load_certificates(trust_pem, "trust roots")
        pair = _Presented.read(self.certificate_chain, self.private_key)
        by_name = {
            name.lower(): _Presented.read(*(given if isinstance(given, tuple) else (given, None)))
            for name, given in self.certificates_by_name.items()
        }
        presented = [pair, *by_name.values()]
        checks = tuple(check for each in presented for check in each.checks(roots))
        if self.check:
            _refuse_or_warn(checks)
        client_context = self._context(pair, trust_pem, Role.CLIENT)
        server_context = self._context(pair, trust_pem, Role.SERVER)
        if by_name:
            contexts = {
                name: self._context(each, trust_pem, Role.SERVER) for name, each in by_name.items()
            }

            def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
                if name is not None and name.lower() in contexts:
                    tls.context = contexts[name.lower()]

            server_context.sni_callback = choose
        material = _material(
            server_context,
            client_context,
            self.peer,
            [each.chain[0] for each in presented],
            allow_self=self.allow_self,
        )
        return material, checks

    def _context(self, presented: _Presented, trust_pem: bytes, role: Role) -> ssl.SSLContext:
        if role is Role.SERVER:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.num_tickets = self.session_tickets
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # the peer policy's task, in both roles
        context.minimum_version = FLOOR
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=trust_pem.decode("ascii", "replace"))
        presented.load_into(context)
        if self.alpn[role]:
            context.set_alpn_protocols(list(self.alpn[role]))
        if self.keylog is not None:
            context.keylog_filename = fspath(self.keylog)
            LOGGER.warning(
                "the secrets of every TLS connection are written to %s: debugging only", self.keylog
            )
        return context


@attrs.frozen
class _Presented:
    """A certificate chain and its key, as we present them."""

    chain: Sequence[x509.Certificate]
    chain_pem: bytes
    key_pem: bytes

    @classmethod
    def read(
        cls, certificate_chain: PemSource | TrustmeCertificate, private_key: PemSource | None
    ) -> _Presented:
        chain_pem = read_pem(certificate_chain, "certificate chain")
        key_pem = chain_pem if private_key is None else read_pem(private_key, "private key")
        return cls(load_certificates(chain_pem, "certificate chain"), chain_pem, key_pem)

    def checks(self, roots: Sequence[x509.Certificate]) -> tuple[Check, ...]:
        key = check_key(self.chain[0], self.key_pem)
        if key.grade is Grade.DEFECT:  # OpenSSL would refuse it too, in its own words
            raise CredentialsError(str(key))
        return (key, *check_chain(self.chain, roots, datetime.now(UTC)))

    def load_into(self, context: ssl.SSLContext) -> None:
        with ExitStack() as stack:
            chain_file = stack.enter_context(as_file(self.chain_pem))
            key_file = stack.enter_context(as_file(self.key_pem))
            try:
                context.load_cert_chain(chain_file, key_file)
            except ssl.SSLError as exc:
                raise CredentialsError(f"OpenSSL can't use certificate and key: {exc}") from exc


def _refuse_or_warn(checks: Sequence[Check]) -> None:
    if defects := [str(check) for check in checks if check.grade is Grade.DEFECT]:
        raise CredentialsError(*defects)
    for check in checks:
        if check.grade is Grade.WARNING:
            LOGGER.warning("own certificate: %s", check)


def _show(source: PemSource | TrustmeCertificate | TrustmeAuthority) -> str:
    """A source as one may log it: a path, but never PEM, which may hold the key."""
    return repr(fspath(source)) if isinstance(source, str | PathLike) else "<given in memory>"
