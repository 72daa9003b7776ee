"""Who comes in: the one rule, in one place, for both roles.

A `Material` is one consistent state of credentials. TLS verifies a peer by the one
that was in force when its handshake began; what is in force when it ends decides on
the peer. Where the two differ, a peer may have been verified against trust that has
been withdrawn since: it is refused unless both trust alike.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import attrs
from cryptography import x509

from trio_duplex._errors import PeerRejectedError, SelfConnectionError
from trio_duplex._role import Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._trust.anchors import ComparedRoots
from trio_duplex._trust.identity import PeerIdentity, public_key_info
from trio_duplex._trust.policy import AnyTrustedPeer, PeerPolicy, judge
from trio_duplex._trust.sessions import is_full, take_over
from trio_duplex._trust.symmetry import trust_alike
from trio_duplex._trust.vouching import SelfVouching

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which Python has no name for: whoever sets it wants no date looked at."""


NO_ALPN: Mapping[Role, Sequence[str]] = dict.fromkeys(Role, ())
"""No protocol is asked for, in either role."""


def utc_now() -> datetime:
    """The time by which certificates are valid or not: the machine's, as OpenSSL has it."""
    return datetime.now(UTC)


@attrs.frozen
class Material:
    """One consistent state of credentials."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    peer: PeerPolicy
    allow_self: bool
    own_public_keys: frozenset[bytes]
    self_vouching: SelfVouching | None = None
    """The certificates that vouch for themselves only, if there are any."""
    compared_roots: ComparedRoots | None = None
    """What each context trusted when the two were compared; None where nothing hangs on it."""
    anonymous_clients: bool = False
    """Whether the server role takes a peer that shows no certificate."""
    required_alpn: Mapping[Role, Sequence[str]] = NO_ALPN
    """For each role, the protocols of which one must be selected; none if none need be."""
    verify_modes: tuple[ssl.VerifyMode, ssl.VerifyMode] = (ssl.CERT_REQUIRED, ssl.CERT_REQUIRED)
    """Of the server's and of the client's context, as they were when this was made."""
    fresh_server_context: Callable[[], ssl.SSLContext] | None = attrs.field(
        default=None, repr=False
    )
    """Makes another one like ``server_context``, without its sessions; None if nothing can."""
    loaded: object = attrs.field(factory=object, repr=False)
    """The same in each state that came of the same certificates and trust."""
    now: Callable[[], datetime] = utc_now
    """The clock by which a resumed session's certificate is judged, and our own."""
    not_after: datetime | None = None
    """When the first of our own certificates ends; None if we have none."""

    @classmethod
    def of(
        cls,
        server_context: ssl.SSLContext,
        client_context: ssl.SSLContext,
        peer: PeerPolicy,
        own: Sequence[x509.Certificate],
        *,
        allow_self: bool,
        self_vouching: SelfVouching | None = None,
        compared_roots: ComparedRoots | None = None,
        anonymous_clients: bool = False,
        required_alpn: Mapping[Role, Sequence[str]] = NO_ALPN,
        fresh_server_context: Callable[[], ssl.SSLContext] | None = None,
    ) -> Material:
        """Make it of two contexts, and of the leaf certificates that they present."""
        for context in (server_context, client_context):
            context.options |= ssl.OP_NO_RENEGOTIATION
            # A cut must not read as an end: CPython 3.11.2 (Debian 12) would take it for one.
            context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        return cls(
            server_context=server_context,
            client_context=client_context,
            peer=peer,
            allow_self=allow_self,
            own_public_keys=frozenset(map(public_key_info, own)),
            self_vouching=self_vouching,
            compared_roots=compared_roots,
            anonymous_clients=anonymous_clients,
            required_alpn=required_alpn,
            fresh_server_context=fresh_server_context,
            verify_modes=(server_context.verify_mode, client_context.verify_mode),
            not_after=min((each.not_valid_after_utc for each in own), default=None),
        )

    @property
    def has_expired(self) -> bool:
        """Whether one of our own certificates has ended, by our clock."""
        return self.not_after is not None and self.now() > self.not_after

    def without_old_sessions(self) -> Material:
        """The same, but with a fresh server context if the cache of the present one is full."""
        if self.fresh_server_context is None or not is_full(self.server_context):
            return self
        fresh = take_over(self.server_context, self.fresh_server_context())
        return attrs.evolve(self, server_context=fresh)

    def context(self, role: Role) -> ssl.SSLContext:
        """The TLS context for ``role``."""
        return self.server_context if role is Role.SERVER else self.client_context

    async def admit(
        self,
        certificate: bytes | None,
        chain: Callable[[], Sequence[bytes]],
        role: Role,
        remote_address: Address | None,
        *,
        verified_by: Material | None = None,
        resumed: bool = False,
    ) -> None:
        """Decide whether the peer may take part: the one place, for both roles.

        Args:
            certificate: The peer's leaf certificate, DER; None if it gave none.
            chain: Gives its chain, DER each, if a policy is to see it.
            role: The TLS role that we play.
            remote_address: Where the peer is.
            verified_by: What TLS verified the peer by; None if it was this.
            resumed: Whether the session was resumed, for which TLS verified nothing anew.

        Raises:
            PeerRejectedError: It may not; SelfConnectionError if it is us.
        """
        if certificate is None:
            if self.anonymous_clients and role is Role.SERVER:
                return  # there is nobody to ask a policy about
            raise PeerRejectedError(
                "the peer showed no certificate",
                role=role,
                peer=format_address(remote_address),
                seen="a handshake without a certificate, or with a pre-shared key",
                advice="give the peer a certificate; shared keys do not tell the roles apart "
                "(RFC 9257 section 4.1) and are never accepted",
            )
        (verified_by or self).check_unchanged(certificate, chain, role, remote_address)
        if verified_by is not None and verified_by.loaded is not self.loaded:
            self._check_asks_like(verified_by, role, remote_address)
        if resumed:
            self._check_still_valid(certificate, role, remote_address)
        if not self.allow_self and self._is_ours(certificate):
            raise SelfConnectionError(
                "the peer shows our own certificate or key",
                role=role,
                peer=format_address(remote_address),
                seen="our own identity",
                advice="it is ourselves, through a relay; if a whole fleet shares one "
                "certificate, set allow_self=True",
            )
        if self.self_vouching and not self.self_vouching.vouched_for(certificate, chain()):
            raise PeerRejectedError(
                "the peer's certificate comes from one that vouches for itself only",
                role=role,
                peer=format_address(remote_address),
                seen="a chain without an authority, or a resumed session of one",
                advice="add the peer's own certificate to trusted_certificates, or its authority "
                "to trust",
            )
        if type(self.peer) is AnyTrustedPeer:  # not of a subclass, which may ask for more
            return  # nothing to ask, and parsing a certificate costs a tenth of a handshake
        identity = _identity(certificate, chain, role, remote_address)
        await judge(self.peer, identity, role, remote_address)

    def check_unchanged(
        self,
        certificate: bytes,
        chain: Callable[[], Sequence[bytes]],
        role: Role,
        remote_address: Address | None,
    ) -> None:
        """Refuse where the context demanded less than it did when the two were compared."""
        context = self.context(role)
        verify_mode = self.verify_modes[0 if role is Role.SERVER else 1]
        if context.verify_mode is not verify_mode:
            raise PeerRejectedError(
                f"the {role} context's verify_mode was changed",
                role=role,
                peer=format_address(remote_address),
                seen=f"{context.verify_mode.name}, which was {verify_mode.name} when the "
                "credentials were made",
                advice="nobody is admitted in this role while it is so; change nothing in a "
                "context that credentials were made of",
            )
        roots = self.compared_roots
        if roots is not None and not roots.vouch_for(certificate, chain, context, role):
            raise PeerRejectedError(
                "no trust root vouches for the peer that both contexts had when they were compared",
                role=role,
                peer=format_address(remote_address),
                seen="a trust root that OpenSSL found in a directory (capath), or a late addition",
                advice="load the trust roots of both contexts from files, before the credentials "
                "are made",
            )

    def _check_asks_like(
        self, verified_by: Material, role: Role, remote_address: Address | None
    ) -> None:
        """Refuse a peer that was verified against trust, or ALPN, that has been replaced meanwhile."""
        asked, asks = set(verified_by.required_alpn[role]), set(self.required_alpn[role])
        if asks and not (asked and asked <= asks):
            raise PeerRejectedError(
                "the credentials were replaced during the handshake",
                role=role,
                peer=format_address(remote_address),
                seen="a handshake for which other ALPN protocols were asked",
                advice="nothing is wrong with the peer, as far as we know: it may connect again",
            )
        if not trust_alike(verified_by.context(role), self.context(role)):
            raise PeerRejectedError(
                "the credentials were replaced during the handshake",
                role=role,
                peer=format_address(remote_address),
                seen="a certificate that was verified against the former trust",
                advice="nothing is wrong with the peer, as far as we know: it may connect again",
            )

    def _check_still_valid(
        self, certificate: bytes, role: Role, remote_address: Address | None
    ) -> None:
        """Refuse a certificate that ended, or is not valid yet, since the session began."""
        context = self.context(role)
        if context.verify_mode is ssl.CERT_NONE or context.verify_flags & NO_CHECK_TIME:
            return  # nor was it looked at in the full handshake
        identity = _identity(certificate, tuple, role, remote_address)
        if not identity.not_before <= self.now() <= identity.not_after:
            raise PeerRejectedError(
                "the certificate of the resumed session is not valid now",
                role=role,
                peer=format_address(remote_address),
                seen=f"certificate of {identity}, valid from {identity.not_before:%Y-%m-%d %H:%M} "
                f"to {identity.not_after:%Y-%m-%d %H:%M} UTC",
                advice="give the peer a new certificate, and have it begin a new session",
            )

    def _is_ours(self, certificate: bytes) -> bool:
        # Our key in any certificate, ours among them; its encoding stands there as it is.
        return any(key in certificate for key in self.own_public_keys)


def _identity(
    certificate: bytes,
    chain: Callable[[], Sequence[bytes]],
    role: Role,
    remote_address: Address | None,
) -> PeerIdentity:
    try:
        return PeerIdentity.from_der(certificate, chain())
    except ValueError as exc:
        raise PeerRejectedError(
            "the peer's certificate can't be read",
            role=role,
            peer=format_address(remote_address),
            seen=str(exc),
            advice="have it issued anew",
        ) from exc
