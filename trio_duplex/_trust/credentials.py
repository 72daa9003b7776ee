"""`Credentials`: what we present and whom we trust, for both roles at once.

The peer chooses the role. If the two roles made different demands, the peer could
choose the weaker check, so such credentials are refused.
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
from trio_duplex._trust.blocks import load_certificates
from trio_duplex._trust.keylog import warn_of_keylog
from trio_duplex._trust.mutual import CertificateAndKey, MutualSource
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

    `Credentials.mutual` makes credentials from certificates; this constructor takes
    contexts that you have made, and changes three settings on both of them.
    ``OP_NO_RENEGOTIATION`` is set, because OpenSSL would otherwise obey a
    HelloRequest on an open TLS 1.2 connection (measured with OpenSSL 3.0).
    ``OP_IGNORE_UNEXPECTED_EOF`` is cleared, because with it a cut connection looks
    like a proper end. Of the cipher suites for TLS 1.2, only those remain that are
    forward-secret, use AEAD, and do without finite fields. If a context allowed
    other suites than a new one does by default, a warning names them.

    Args:
        server_context: Used when we are the TLS server.
        client_context: Used when we are the TLS client.
        peer: A policy on who the peer may be, asked after the handshake in
            either role.
        allow_asymmetric: Accept contexts that demand more of the peer in one
            role than in the other. The peer chooses the role, so the stronger
            demand is then worthless.
        allow_self: Accept a peer that presents our own certificate or key, for
            fleets that share one.
        own_certificate: The certificate chain that the contexts present, by
            which we recognise ourselves: a path, PEM bytes, or a
            ``trustme.LeafCert``. With None it is found out by handshakes in
            memory: always for the server context, for the client context only
            if the two contexts trust each other.
        anonymous_clients: Admit a peer that plays the TLS client and presents no
            certificate. The ``verify_mode`` of the server context must then be
            ``ssl.CERT_OPTIONAL``.
        alpn: Protocol names to offer and accept, preferred first, or a mapping from
            each role to such names; set on the contexts. Protocols that you have
            set on a context yourself are offered and accepted, but not required
            of the peer, because Python can't read them from a context.
        alpn_required: Refuse a peer with which none of ``alpn`` is selected.
        handshake_threads: Sign with a slow key in worker threads, so that other
            connections do not wait for it. A ``server_context`` with an
            ``sni_callback`` keeps its handshakes on the event loop, because that
            function need not expect threads.

    Raises:
        CredentialsError: A context is unfit for its role, or the two contexts
            make different demands on the peer; the error names each difference.
        ValueError: ``peer`` is not a policy, or ``alpn`` is out of range.
    """

    _times_asked = 0  # how often `material` was read

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
        handshake_threads: bool = True,
    ) -> None:
        # Here, because `mutual` makes both contexts itself, and has nothing to compare.
        from trio_duplex._trust.anchors import ComparedRoots

        protocols = _alpn_by_role(alpn)
        unfit = [unfitness(server_context, Role.SERVER), unfitness(client_context, Role.CLIENT)]
        if defects := [defect for defect in unfit if defect]:
            raise CredentialsError(*defects)
        for context in (server_context, client_context):
            _check_suites_left(context)  # must come first: handshakes in memory need a cipher suite
        # This must come before any handshake, in which OpenSSL may look up more roots. One context
        # is enough, because `differences` refuses the other if its roots differ.
        compared = ComparedRoots.of(server_context)
        self._asymmetries = differences(
            server_context, client_context, anonymous_clients=anonymous_clients
        )
        if self._asymmetries and not allow_asymmetric:
            raise CredentialsError(
                *self._asymmetries,
                "the peer chooses the role, and so could choose the weaker check: make both the "
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
            handshake_threads=handshake_threads and server_context.sni_callback is None,
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
        handshake_threads: bool = True,
    ) -> Credentials:
        """Make credentials that present and demand a certificate in both roles.

        Args:
            certificate_chain: Our certificate and its intermediates, leaf
                first: the path of a PEM file, PEM as bytes, or a
                ``trustme.LeafCert``.
            private_key: The key of the certificate, as a path or bytes; None if
                it is in ``certificate_chain``.
            password: The password of the private keys that are encrypted:
                bytes, or a function that returns them and is called at each
                reload. The password is never asked for on the terminal.
            trust: The certificates of the authorities that may issue a peer's
                certificate: a path, bytes, or a ``trustme.CA``. An intermediate
                is an anchor like a root. A certificate that is not an authority
                is left out, and `checks` says so. May be None if there are
                ``trusted_certificates``.
            trusted_certificates: Certificates of peers, as a path or PEM bytes,
                that need not be issued by an authority in ``trust``, as in
                device fleets without one. Each vouches only for itself, and not
                for certificates that it may have issued. The peer proves that
                it holds the key, dates and key usage are checked, and the
                policy (such as `PinnedPeer`) is asked as usual.
            revocation_lists: Revocation lists (CRLs, as a path or PEM bytes),
                for both roles. A peer is refused unless there is a list for
                each authority in its chain. So new lists must be fetched, and
                `reload` called, before they expire. ``trust`` must then include
                the roots, and ``trusted_certificates`` can't be used.
            peer: A policy on who the peer may be, asked after the handshake in
                either role; None for `AnyTrustedPeer`.
            allow_self: Accept a peer that presents our own certificate or key,
                for fleets that share one.
            alpn: Protocol names to offer and accept, preferred first; or a
                mapping from each role to such names.
            alpn_required: Refuse a peer with which none of ``alpn`` is
                selected, with the alert no_application_protocol (:rfc:`7301`).
                So a node with a trusted certificate that speaks another
                protocol can't be mistaken for a peer, even if a stranger relays
                between the two. False admits a peer that does not use ALPN, or
                has none of our protocols. Nothing is required in a role for
                which ``alpn`` has no names.
            certificates_by_name: Other certificates to present in the server
                role to a peer that asks for their name by SNI: from DNS name
                to ``(chain, key)`` or a ``trustme.LeafCert``.
            session_tickets: How many TLS 1.3 session tickets the server role
                sends; 0 also turns off the tickets of TLS 1.2. Each ticket
                costs about 45 µs of a 330 µs handshake (measured), and few
                peers of this kind resume sessions, so the default is 0.
            minimum_version: The lowest TLS version in both roles:
                ``ssl.TLSVersion.TLSv1_2`` or ``TLSv1_3``. If you raise it on
                the contexts themselves, a reload keeps that.
            ciphers: The cipher suites of TLS 1.2 in both roles, as an OpenSSL
                cipher list; None for our own list. Those of TLS 1.3 can't be
                set.
            groups: The groups of the key exchange in both roles, such as
                ``["X25519"]``, preferred first; empty for the elliptic curves
                among OpenSSL's defaults. Python before 3.15 can set only one
                group, and Debian 12's Python (3.11.2) can't set X25519, only a
                curve such as P-256. A peer whose first key share is of another
                group needs an additional round trip. In TLS 1.2, a certificate
                with a key on another curve is refused: the peer's in both
                roles, and our own as TLS client (:rfc:`8422` section 5.1.1). A
                certificate with an RSA key is not affected.
            keylog: A file to which the secrets of every connection are
                appended, for debugging with Wireshark. Everybody who can read
                it can decrypt the traffic, so only our own user gets access, it
                must not be a symbolic link, and a warning is logged. With None,
                nothing is written.
            check: Refuse a certificate that peers will refuse (see
                `certificates.check_certificate`), and log what is doubtful.
            anonymous_clients: Admit a peer that plays the TLS client and presents
                no certificate, as an ordinary HTTPS or FTPS client does. The
                server role is then open to everybody: no policy is asked about
                such a peer, `Connection.is_anonymous` is True, and
                `Connection.peer` raises. If a peer does present a certificate,
                it must be valid, and the client role verifies as usual. A
                warning is logged.
            handshake_threads: Make the signature of a handshake in a worker thread
                if our key is slow, in as many threads as there are CPUs. On the
                event loop, one signature with an RSA-4096 key (5 ms) would hold
                up all other connections. All keys are slow but Ed25519 and
                ECDSA with P-256, which take less time than a pass to a thread.
                False keeps every handshake on the event loop. Use it in tests
                with an autojump clock, which does not wait for threads.

        Returns:
            Credentials with TLS 1.2 as the lowest version in both roles.

        Raises:
            CredentialsError: A file can't be read, or there is no file
                descriptor left to read it; certificate and key do not match; the
                certificate can't be used in one of the roles, and so on. No
                message, cause or variable in a traceback contains a key.
            ValueError: ``alpn``, ``session_tickets``, ``minimum_version``,
                ``ciphers`` or ``groups`` is out of range; a key of
                ``certificates_by_name`` is not a DNS name; or ``peer`` is not a
                policy.
            TypeError: A source is neither a path nor bytes, or ``password`` is
                neither bytes nor a function.
        """
        # Below this line, no variable that a traceback might show holds a secret.
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
            handshake_threads=handshake_threads,
        )
        # Load before `self` exists. If loading fails, a traceback must not find a half-made object.
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
        """Return the TLS context in force for ``role``."""
        return self._material.context(role)

    @property
    def peer(self) -> PeerPolicy:
        """The policy on who the peer may be."""
        return self._material.peer

    @property
    def not_after(self) -> datetime | None:
        """When the first of our own certificates expires; `reload` a new one before that.

        Certificates that are chosen by name count, too. None if we have no
        certificate.
        """
        return self._material.not_after

    @property
    def checks(self) -> tuple[Check, ...]:
        """The results of the checks of our own certificate; empty if none were made."""
        return self._checks

    @property
    def material(self) -> Material:
        """The material in force now, as one object. This is for the library itself."""
        self._times_asked += 1
        if self._times_asked % LOOK_EVERY == 0:
            self._renew_server_context()
        return self._material

    def _renew_server_context(self) -> None:
        try:
            self._material = self._material.without_old_sessions()
        except (OSError, CredentialsError) as exc:  # perhaps no descriptor is left; try again later
            LOGGER.warning("the cache of TLS 1.2 sessions can't be emptied now: %s", exc)

    def reload(self) -> None:
        """Read the same files again, for all negotiations from now on.

        Open connections are not affected. If anything is wrong with the new
        files, the old credentials stay in force.

        Raises:
            CredentialsError: Something is wrong with the files; or these
                credentials were not made by `mutual`, so there are no files.
        """
        if self._source is None:
            raise CredentialsError("credentials made from contexts have no files to reload")
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
        """Check that the options fit together, before any file is read.

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
                "revocation_lists and trusted_certificates exclude each other: OpenSSL would need "
                "a list from each of these certificates; to revoke one of trusted_certificates, "
                "remove it"
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
    """Raise CredentialsError if a context allows TLS 1.2 and `_narrow` would leave no suite for it."""
    if lowest_version(context) is not ssl.TLSVersion.TLSv1_2:
        return
    if not any(suite["name"] in CIPHERS for suite in context.get_ciphers()):
        raise CredentialsError(
            "a context allows TLS 1.2, but no cipher suite for it that is forward-secret, uses AEAD "
            f"and does without finite fields: allow one of {', '.join(CIPHERS)}"
        )


def _narrow(context: ssl.SSLContext) -> None:
    taken_out = narrow_ciphers(context)
    if taken_out:
        LOGGER.warning(
            "cipher suites that are not safe were removed from a TLS context: %s",
            ", ".join(taken_out),
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
    """Raise TypeError if an argument is not a `Credentials`, but perhaps an ``SSLContext`` as for Trio."""
    if not isinstance(value, Credentials):
        raise TypeError(
            f"credentials must be trio_duplex.Credentials, which serve both roles, not {value!r}"
        )


def _sni_name(name: str) -> str:
    """Convert a name to the form that SNI has: A-labels in lower case, not a wildcard or address."""
    # Here, because service-identity takes 0.4 MB, and most credentials have no names.
    from trio_duplex._trust.names import dns_name

    sni = dns_name(name)
    if sni is None:
        raise ValueError(f"no peer can ask for {name!r} by SNI: only DNS names are allowed there")
    return sni


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
