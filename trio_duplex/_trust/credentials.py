"""What we present and whom we trust, for both roles at once.

The peer picks the role, so it would pick the weaker check if there were one:
credentials whose roles demand different things of the peer are refused.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from os import PathLike

import attrs
from cryptography import x509

from trio_duplex._role import Role
from trio_duplex._trust.admission import NO_ALPN, Material
from trio_duplex._trust.anchors import ComparedRoots
from trio_duplex._trust.blocks import load_certificates
from trio_duplex._trust.keylog import warn_of_keylog
from trio_duplex._trust.mutual import CertificateAndKey, MutualSource
from trio_duplex._trust.names import dns_name
from trio_duplex._trust.own import Check
from trio_duplex._trust.parameters import CIPHERS, Parameters, narrow_ciphers
from trio_duplex._trust.password import Password, PasswordSource
from trio_duplex._trust.pem import (
    AnySource,
    CredentialsError,
    PemSource,
    Source,
    TrustmeAuthority,
    TrustmeCertificate,
)
from trio_duplex._trust.policy import AnyTrustedPeer, PeerPolicy
from trio_duplex._trust.probe import presented_certificates
from trio_duplex._trust.sessions import LOOK_EVERY
from trio_duplex._trust.symmetry import (
    FLOOR,
    differences,
    lowest_version,
    trusted_certificates,
    unfitness,
)

LOGGER = logging.getLogger("trio_duplex")

Alpn = Sequence[str] | Mapping[Role, Sequence[str]]


class Credentials:
    """What we present and whom we trust, for both roles.

    `Credentials.mutual` makes them from certificates; this constructor takes
    contexts that you have made. ``OP_NO_RENEGOTIATION`` is set on both, because
    a peer's HelloRequest on an open TLS 1.2 connection is otherwise obeyed
    (measured with OpenSSL 3.0). ``OP_IGNORE_UNEXPECTED_EOF`` is cleared, because a
    cut would read as an end. Of their cipher suites for TLS 1.2 only those stay
    that are forward-secret, AEAD and without finite fields; if more than Python's
    own were allowed, a warning names them.

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
            finds it out by handshakes in memory: always for the server
            context, for the client's if the two contexts trust each other.
        anonymous_clients: As for `mutual`. The ``verify_mode`` of the server
            context must then be ``ssl.CERT_OPTIONAL``.
        alpn: As for `mutual`; it is set on the contexts. Python does not tell
            which protocols a context has, so those that you have set there
            yourself are offered and accepted, but not required of the peer.
        alpn_required: As for `mutual`.

    Raises:
        CredentialsError: A context is unfit for its role, or the two differ in
            what they demand of the peer; it names each difference.
        ValueError: ``peer`` is no policy, or ``alpn`` is out of range.
    """

    _asked = 0  # how often for what is in force

    def __init__(
        self,
        *,
        server_context: ssl.SSLContext,
        client_context: ssl.SSLContext,
        peer: PeerPolicy | None = None,
        allow_asymmetric: bool = False,
        allow_self: bool = False,
        own_certificate: PemSource | TrustmeCertificate | None = None,
        anonymous_clients: bool = False,
        alpn: Alpn = (),
        alpn_required: bool = True,
    ) -> None:
        protocols = _alpn_by_role(alpn)
        unfit = [unfitness(server_context, Role.SERVER), unfitness(client_context, Role.CLIENT)]
        if defects := [defect for defect in unfit if defect]:
            raise CredentialsError(*defects)
        for context in (server_context, client_context):
            _check_suites_left(context)  # before handshakes in memory, which need one
        # Before any handshake, for which more may be looked up; the same in both, or they differ.
        compared = ComparedRoots.of(server_context)
        self._asymmetries = differences(
            server_context, client_context, anonymous_clients=anonymous_clients
        )
        if self._asymmetries and not allow_asymmetric:
            raise CredentialsError(
                *self._asymmetries,
                "the peer picks the role, so it would pick the weaker check: make both the "
                "same, or say allow_asymmetric=True",
            )
        if own_certificate is None:
            presented = presented_certificates(server_context, client_context)
            own = [x509.load_der_x509_certificate(leaf) for leaf in presented]
        else:
            own = load_certificates(Source(own_certificate, "own certificate").read())[:1]
        both = (server_context, client_context)
        if not self._asymmetries and {*map(trusted_certificates, both)} != {compared.number}:
            raise CredentialsError(
                "the trust roots can't be compared: OpenSSL looks some of them up in a directory "
                "(capath); load them from a file"
            )
        for context in (server_context, client_context):
            if context.keylog_filename:  # create_default_context obeys SSLKEYLOGFILE
                warn_of_keylog(context.keylog_filename)
            _narrow(context)
        for role, context in ((Role.SERVER, server_context), (Role.CLIENT, client_context)):
            if protocols[role]:
                context.set_alpn_protocols(list(protocols[role]))
        self._source: MutualSource | None = None
        self._checks: tuple[Check, ...] = ()
        self._material = Material.of(
            server_context,
            client_context,
            _checked_policy(peer),
            own,
            allow_self=allow_self,
            compared_roots=None if self._asymmetries else compared,
            anonymous_clients=anonymous_clients,
            required_alpn=protocols if alpn_required else NO_ALPN,
        )
        _warn_of_anonymous_clients(self._material)

    @classmethod
    def mutual(
        cls,
        *,
        certificate_chain: PemSource | TrustmeCertificate,
        private_key: PemSource | None = None,
        password: Password | None = None,
        trust: PemSource | TrustmeAuthority | None = None,
        trusted_certificates: PemSource | None = None,
        revocation_lists: PemSource | None = None,
        peer: PeerPolicy | None = None,
        allow_self: bool = False,
        alpn: Alpn = (),
        alpn_required: bool = True,
        certificates_by_name: Mapping[str, CertificateAndKey] | None = None,
        session_tickets: int = 0,
        minimum_version: ssl.TLSVersion = FLOOR,
        ciphers: str | None = None,
        groups: Sequence[str] = (),
        keylog: str | PathLike[str] | None = None,
        check: bool = True,
        anonymous_clients: bool = False,
    ) -> Credentials:
        """Make credentials that present and demand a certificate in both roles.

        Args:
            certificate_chain: Our certificate and its intermediates, leaf
                first: the path of a PEM file, PEM as bytes, or a
                ``trustme.LeafCert``.
            private_key: The key of the certificate, path or bytes; None if it
                stands in ``certificate_chain``.
            password: Of the private keys that are encrypted: bytes, or a
                function that returns them, which is called at each reload.
                Nobody is ever asked on the terminal.
            trust: The certificates of the authorities that may have issued
                the peer's: path, bytes, or a ``trustme.CA``. An intermediate
                is an anchor like a root. A certificate that is no authority
                is left out, and `checks` says so. May be None if there are
                ``trusted_certificates``.
            trusted_certificates: Certificates, path or PEM bytes, whose
                holders may be the peer though no authority of ours has issued
                them, as in device fleets without one. Each vouches for itself
                and for nothing that it may have issued. The peer proves that
                it holds the key; dates and key usage are checked; the policy
                (`PinnedPeer`, say) is asked as ever.
            revocation_lists: Revocation lists (CRLs, path or PEM bytes), in
                both roles: one for each authority in a peer's chain, or the
                peer is refused. So they must be fetched, and `reload` called,
                before they expire. ``trust`` must then lead up to roots, and
                ``trusted_certificates`` can't be used with them.
            peer: Who the peer may be, asked after the handshake in either
                role; None for `AnyTrustedPeer`.
            allow_self: Accept a peer that shows our own certificate or key,
                for fleets that share one.
            alpn: Protocol names to offer and accept, preferred first; or a
                mapping from each role to them.
            alpn_required: Refuse a peer with which none of ``alpn`` is
                selected, with the alert no_application_protocol (:rfc:`7301`).
                So the holder of a trusted certificate that speaks another
                protocol is not taken for a peer, even if a stranger relays
                between the two. False admits a peer that knows no ALPN, or
                none of ours. Nothing is required in a role for which
                ``alpn`` names none.
            certificates_by_name: Other certificates to present in the server
                role, to a peer that asks for their name by SNI: from DNS name
                to ``(chain, key)`` or a ``trustme.LeafCert``.
            session_tickets: How many TLS 1.3 session tickets the server role
                gives out; 0 means none in TLS 1.2 either. Each costs about 45 µs of a 330 µs handshake
                (measured), and few peers of this kind resume: 0 by default.
            minimum_version: The lowest TLS version in both roles:
                ``ssl.TLSVersion.TLSv1_2`` or ``TLSv1_3``. What was raised on
                the contexts themselves is kept at a reload, too.
            ciphers: The cipher suites of TLS 1.2 in both roles, as an OpenSSL
                cipher list; None for ours. TLS 1.3's can't be set.
            groups: The groups of the key exchange in both roles, such as
                ``["X25519"]``, preferred first; empty for OpenSSL's elliptic
                ones. Python before 3.15 can set one only, and Debian 12's
                (3.11.2) not that one but P-256, say. A peer whose first
                key share is of another group costs a round trip more. In TLS
                1.2 a certificate whose key is on another curve is refused,
                the peer's in both roles and ours as TLS client (:rfc:`8422`
                section 5.1.1); one with an RSA key is not.
            keylog: A file to which the secrets of every connection are
                appended, for debugging with Wireshark. Whoever reads it reads
                the traffic: it is made readable for our own user only, it
                must be no symbolic link, and a warning is logged. None
                writes none.
            check: Refuse a certificate that peers will refuse (see
                `certificates.check_certificate`), and log what is doubtful.
            anonymous_clients: Take a peer that plays the TLS client and shows
                no certificate, as an ordinary HTTPS or FTPS client does. The
                server role is then open to everyone: no policy is asked about
                such a peer, `Connection.is_anonymous` is True, and
                `Connection.peer` raises. A certificate that is shown must be
                good, and the client role verifies as ever. A warning is logged.

        Returns:
            Credentials with TLS 1.2 as the floor in both roles.

        Raises:
            CredentialsError: A file can't be read, or there is no descriptor
                left to read it; certificate and key do not match; the
                certificate can't be used in one of the roles, … No message,
                cause or variable in a traceback holds a key.
            ValueError: ``alpn``, ``session_tickets``, ``minimum_version``,
                ``ciphers`` or ``groups`` is out of range,
                ``certificates_by_name`` holds what is no DNS name, or ``peer``
                is no policy.
            TypeError: A source is neither path nor bytes, or ``password`` neither
                bytes nor a function.
        """
        # From here on nothing is held in a variable that a traceback would show.
        given = _Given(
            certificate_chain=Source(certificate_chain, "certificate chain"),
            private_key=_source(private_key, "private key"),
            password=PasswordSource(password),
            trust=_source(trust, "trust roots"),
            trusted_certificates=_source(trusted_certificates, "trusted certificates"),
            revocation_lists=_source(revocation_lists, "revocation lists"),
            by_name=[
                (name, _pair_by_name(name, pair))
                for name, pair in (certificates_by_name or {}).items()
            ],
        )
        del certificate_chain, private_key, password, trust, trusted_certificates
        del revocation_lists, certificates_by_name
        given.check()
        source = MutualSource(
            certificate_chain=given.certificate_chain,
            private_key=given.private_key,
            password=given.password,
            trust=given.trust,
            trusted_certificates=given.trusted_certificates,
            revocation_lists=given.revocation_lists,
            peer=_checked_policy(peer),
            allow_self=allow_self,
            alpn=_alpn_by_role(alpn),
            alpn_required=alpn_required,
            certificates_by_name={_sni_name(name): pair for name, pair in given.by_name},
            session_tickets=session_tickets,
            parameters=Parameters.checked(minimum_version, ciphers, groups),
            keylog=keylog,
            check=check,
            anonymous_clients=anonymous_clients,
        )
        # Loaded before there is an object whose `repr` a traceback might ask for.
        material, checks = source.load()
        self = cls.__new__(cls)
        self._source = source
        self._asymmetries = ()
        self._material, self._checks = material, checks
        _warn_of_anonymous_clients(material)
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
    def not_after(self) -> datetime | None:
        """The time at which the first of our own certificates ends; `reload` a new one before.

        Those that are chosen by name count, too; None if there is no
        certificate of ours.
        """
        return self._material.not_after

    @property
    def checks(self) -> tuple[Check, ...]:
        """How the checks of our own certificate came out; empty if none were made."""
        return self._checks

    @property
    def material(self) -> Material:
        """What is in force now, as one; for the library itself."""
        self._asked += 1
        if self._asked % LOOK_EVERY == 0:
            self._renew_server_context()
        return self._material

    def _renew_server_context(self) -> None:
        try:
            self._material = self._material.without_old_sessions()
        except (OSError, CredentialsError) as exc:  # no descriptor left, say: the next one may do
            LOGGER.warning("the cache of TLS 1.2 sessions can't be emptied now: %s", exc)

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
        self._material, self._checks = self._source.load(self._material)

    def __repr__(self) -> str:
        parts = [repr(self._source)] if self._source else []
        parts += [f"peer={self.peer!r}"]
        if self._material.allow_self:
            parts.append("allow_self=True")
        if self._material.anonymous_clients:
            parts.append("anonymous_clients=True")
        if self._asymmetries:
            parts.append(f"allow_asymmetric=True: {'; '.join(self._asymmetries)}")
        return f"<Credentials {' '.join(parts)}>"


@attrs.frozen(kw_only=True, eq=False)
class _Given:
    """The arguments of `Credentials.mutual` that may hold a secret."""

    certificate_chain: Source
    private_key: Source | None
    password: PasswordSource
    trust: Source | None
    trusted_certificates: Source | None
    revocation_lists: Source | None
    by_name: Sequence[tuple[str, tuple[Source, Source | None]]]

    def check(self) -> None:
        """Check what goes together, before anything is read.

        Raises:
            CredentialsError: Nobody is trusted, or two options exclude each other.
            TypeError: The password is neither bytes nor a function.
        """
        self.password.check()
        if self.trust is None and self.trusted_certificates is None:
            raise CredentialsError(
                "nobody is trusted: give authorities as trust, or the certificates of the peers "
                "themselves as trusted_certificates"
            )
        if self.revocation_lists is not None and self.trusted_certificates is not None:
            raise CredentialsError(
                "revocation_lists and trusted_certificates exclude each other: OpenSSL would ask "
                "for a list of each certificate's own; to revoke one of trusted_certificates, "
                "take it out"
            )


def _source(given: AnySource | None, what: str) -> Source | None:
    return None if given is None else Source(given, what)


def _pair_by_name(name: str, given: CertificateAndKey) -> tuple[Source, Source | None]:
    chain, key = given if isinstance(given, tuple) else (given, None)
    return (
        Source(chain, f"certificate chain of {name}"),
        _source(key, f"private key of {name}"),
    )


def _check_suites_left(context: ssl.SSLContext) -> None:
    """Raise CredentialsError if `_narrow` would leave nothing for TLS 1.2, which is allowed."""
    if lowest_version(context) is not ssl.TLSVersion.TLSv1_2:
        return
    if not any(suite["name"] in CIPHERS for suite in context.get_ciphers()):
        raise CredentialsError(
            "a context allows TLS 1.2, but no cipher suite for it that is forward-secret, AEAD and "
            f"without finite fields: allow one of {', '.join(CIPHERS)}"
        )


def _narrow(context: ssl.SSLContext) -> None:
    taken_out = narrow_ciphers(context)
    if taken_out:
        LOGGER.warning(
            "a TLS context allowed more than is safe, and does no more: %s", ", ".join(taken_out)
        )


def _checked_policy(peer: PeerPolicy | None) -> PeerPolicy:
    if peer is None:
        return AnyTrustedPeer()
    if isinstance(peer, type) or not callable(peer):
        raise ValueError(f"peer must be a policy, such as NamedPeer('a.example'), not {peer!r}")
    return peer


def _warn_of_anonymous_clients(material: Material) -> None:
    if material.anonymous_clients:
        LOGGER.warning(
            "anonymous clients are admitted (anonymous_clients=True): in the server role, anybody "
            "who can connect reaches the handler"
        )


def check_credentials(value: object) -> None:
    """Raise TypeError for what is no `Credentials`, such as the TLS context that Trio's own functions take."""
    if not isinstance(value, Credentials):
        raise TypeError(
            f"credentials must be trio_duplex.Credentials, which serve both roles, not {value!r}"
        )


def _sni_name(name: str) -> str:
    """A name as a peer asks for it: in A-labels and lower case; no wildcard, no address."""
    asked_for = dns_name(name)
    if asked_for is None:
        raise ValueError(f"no peer can ask for {name!r} by SNI: it takes DNS names alone")
    return asked_for


def _alpn_by_role(alpn: Alpn) -> dict[Role, tuple[str, ...]]:
    if isinstance(alpn, Mapping) and (odd := {*alpn}.difference(Role)):
        raise ValueError(f"alpn is a list, or a mapping from Role to lists, not from {odd!r}")
    return {role: _alpn_names(alpn, role) for role in Role}


def _alpn_names(alpn: Alpn, role: Role) -> tuple[str, ...]:
    names = alpn.get(role, ()) if isinstance(alpn, Mapping) else alpn
    if isinstance(names, str):
        raise ValueError(f'alpn is a list of protocol names, such as ["{names}"], not a string')
    for name in names:
        if not (name.isascii() and 1 <= len(name) <= 255):  # one length byte: RFC 7301, section 3.1
            raise ValueError(f"an ALPN protocol name has 1 to 255 ASCII characters, not {name!r}")
    return tuple(names)
