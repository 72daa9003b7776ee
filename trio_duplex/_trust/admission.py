"""Deciding whether a peer is admitted: one rule, in one place, for both roles.

A `Material` is one consistent state of credentials. TLS verifies a peer by the material
that was in force when the handshake began; the material that is in force when the
handshake ends decides whether the peer is admitted. If the credentials were reloaded in
between, the peer may have been verified against trust that has been withdrawn since. It
is then refused, unless both materials trust the same.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
from cryptography import x509

from trio_duplex._errors import PeerRejectedError, SelfConnectionError
from trio_duplex._role import Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._trust.identity import PeerIdentity, public_key_info, read_identity
from trio_duplex._trust.key_cost import is_expensive
from trio_duplex._trust.policy import AnyTrustedPeer, PeerPolicy, judge
from trio_duplex._trust.sessions import is_full, take_over
from trio_duplex._trust.symmetry import trust_alike

if TYPE_CHECKING:
    from trio_duplex._trust.anchors import ComparedRoots
    from trio_duplex._trust.vouching import SelfVouching

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which has no name in Python. A user who sets it wants no dates checked."""


NO_ALPN: Mapping[Role, Sequence[str]] = dict.fromkeys(Role, ())
"""No protocol is required in either role."""


def utc_now() -> datetime:
    """Return the machine's time, by which OpenSSL checks the dates of certificates, too."""
    return datetime.now(UTC)


_PLAIN = ssl.SSLContext
"""The standard library's class, even if an application puts another one into its place later."""


def _verify_mode(context: ssl.SSLContext) -> int:
    """Return the verify mode that is in force, by which a subclass may mean another context's."""
    if type(context) is not _PLAIN:
        return context.verify_mode
    # As a number: to make an enum's member of it takes longer than all other checks of a peer.
    return super(_PLAIN, context).verify_mode


@attrs.frozen(eq=False)
class Material:
    """One consistent state of credentials."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    peer: PeerPolicy
    allow_self: bool
    own_public_keys: frozenset[bytes]
    self_vouching: SelfVouching | None = None
    """The certificates that vouch only for themselves, if there are any."""
    compared_roots: ComparedRoots | None = None
    """What each context trusted when the two were compared; None if that need not be checked."""
    anonymous_clients: bool = False
    """Whether the server role admits peers without a certificate."""
    required_alpn: Mapping[Role, Sequence[str]] = NO_ALPN
    """For each role, the protocols of which one must be selected; empty if ALPN is not required."""
    verify_modes: tuple[ssl.VerifyMode, ssl.VerifyMode] = (ssl.CERT_REQUIRED, ssl.CERT_REQUIRED)
    """The verify modes of the server and the client context at the time this object was made."""
    fresh_server_context: Callable[[], ssl.SSLContext] | None = attrs.field(
        default=None, repr=False
    )
    """Makes a context like ``server_context`` without its sessions; None if that is not possible."""
    loaded: object = attrs.field(factory=object, repr=False)
    """A token of the load: two materials with the same token have the same certificates and trust."""
    now: Callable[[], datetime] = utc_now
    """The clock for the dates of our own certificates, and of a resumed session's certificate."""
    slow_key: bool = False
    """Whether to sign with a key of ours takes so long that it is done in a thread."""
    not_after: datetime | None = None
    """When the first of our own certificates expires; None if we have none."""

    lists_not_after: datetime | None = None
    """When the first of the revocation lists expires; None if there are none."""

    @classmethod
    def of(
        cls,
        server_context: ssl.SSLContext,
        client_context: ssl.SSLContext,
        peer: PeerPolicy,
        own: Sequence[x509.Certificate],
        *,
        allow_self: bool,
        anonymous_clients: bool,
        handshake_threads: bool,
        self_vouching: SelfVouching | None = None,
        compared_roots: ComparedRoots | None = None,
        required_alpn: Mapping[Role, Sequence[str]] = NO_ALPN,
        fresh_server_context: Callable[[], ssl.SSLContext] | None = None,
        lists_not_after: datetime | None = None,
    ) -> Material:
        """Make a material from two contexts and the leaf certificates that they present."""
        for context in (server_context, client_context):
            context.options |= ssl.OP_NO_RENEGOTIATION
            # With this option a cut connection looks like a proper end. CPython 3.11.2 (Debian 12)
            # sets it.
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
            slow_key=handshake_threads and any(map(is_expensive, own)),
            not_after=min((each.not_valid_after_utc for each in own), default=None),
            lists_not_after=lists_not_after,
        )

    @property
    def has_expired(self) -> bool:
        """Whether one of our own certificates has expired, by our clock."""
        return self.not_after is not None and self.now() > self.not_after

    def without_old_sessions(self) -> Material:
        """Return this material, with a fresh server context if the session cache of ours is full."""
        if self.fresh_server_context is None or not is_full(self.server_context):
            return self
        fresh = take_over(self.server_context, self.fresh_server_context())
        return attrs.evolve(self, server_context=fresh)

    def context(self, role: Role) -> ssl.SSLContext:
        """Return the TLS context for ``role``."""
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
        """Decide whether a peer is admitted. Both roles use this method.

        Args:
            certificate: The peer's leaf certificate, DER; None if it presented none.
            chain: Returns the chain as OpenSSL verified it, DER each. It is called
                only if the chain is needed.
            role: The TLS role that we play.
            remote_address: The address of the peer.
            verified_by: The material by which TLS verified the peer; None if it was
                this one.
            resumed: Whether the session was resumed. TLS then did not verify the
                certificate again.

        Raises:
            PeerRejectedError: The peer is not admitted; SelfConnectionError if the
                peer is ourselves.
        """
        if certificate is None:
            if self.anonymous_clients and role is Role.SERVER:
                return  # there is no identity to ask a policy about
            raise PeerRejectedError(
                "the peer showed no certificate",
                role=role,
                peer=format_address(remote_address),
                seen="a handshake without a certificate, or with a pre-shared key",
                advice="give the peer a certificate; pre-shared keys are never accepted, because they "
                "do not distinguish the two ends (RFC 9257 section 4.1)",
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
                "the peer's certificate was issued by one that vouches only for itself",
                role=role,
                peer=format_address(remote_address),
                seen="a chain without an authority, or a resumed session of one",
                advice="add the peer's own certificate to trusted_certificates, or its authority "
                "to trust",
            )
        if type(self.peer) is AnyTrustedPeer:  # not a subclass, which may demand more
            return  # parsing the certificate would cost a tenth of a handshake, for nothing
        identity = _identity(certificate, chain, role, remote_address)
        await judge(self.peer, identity, role, remote_address)

    def check_unchanged(
        self,
        certificate: bytes,
        chain: Callable[[], Sequence[bytes]],
        role: Role,
        remote_address: Address | None,
    ) -> None:
        """Refuse the peer if its context has come to demand less since the two were compared."""
        context = self.context(role)
        verify_mode = self.verify_modes[0 if role is Role.SERVER else 1]
        if _verify_mode(context) != verify_mode:
            raise PeerRejectedError(
                f"the {role} context's verify_mode was changed",
                role=role,
                peer=format_address(remote_address),
                seen=f"{context.verify_mode.name}, which was {verify_mode.name} when the "
                "credentials were made",
                advice="no peer is admitted in this role until that is undone; do not change a "
                "context from which credentials were made",
            )
        roots = self.compared_roots
        if roots is not None and not roots.vouch_for(certificate, chain, context, role):
            raise PeerRejectedError(
                "the peer's trust root was not in both contexts when they were compared",
                role=role,
                peer=format_address(remote_address),
                seen="a trust root that OpenSSL found in a directory (capath), or that was added later",
                advice="load the trust roots of both contexts from files, before the credentials "
                "are made",
            )

    def _check_asks_like(
        self, verified_by: Material, role: Role, remote_address: Address | None
    ) -> None:
        """Refuse a peer if the trust or the ALPN protocols have changed during its handshake."""
        former, present = set(verified_by.required_alpn[role]), set(self.required_alpn[role])
        if present and not (former and former <= present):
            raise PeerRejectedError(
                "the credentials were replaced during the handshake",
                role=role,
                peer=format_address(remote_address),
                seen="a handshake that began with other ALPN protocols",
                advice="nothing is known to be wrong with the peer: it may connect again",
            )
        if not trust_alike(verified_by.context(role), self.context(role)):
            raise PeerRejectedError(
                "the credentials were replaced during the handshake",
                role=role,
                peer=format_address(remote_address),
                seen="a certificate that was verified against the former trust",
                advice="nothing is known to be wrong with the peer: it may connect again",
            )

    def _check_still_valid(
        self, certificate: bytes, role: Role, remote_address: Address | None
    ) -> None:
        """Refuse the certificate of a resumed session if it is not valid at this time."""
        context = self.context(role)
        if context.verify_mode is ssl.CERT_NONE or context.verify_flags & NO_CHECK_TIME:
            return  # the full handshake did not check the dates either
        if self.lists_not_after is not None and self.now() > self.lists_not_after:
            raise PeerRejectedError(
                "a revocation list has expired, so a resumed session is not trusted either",
                role=role,
                peer=format_address(remote_address),
                seen=f"a list that was valid until {self.lists_not_after:%Y-%m-%d %H:%M} UTC",
                advice="the fault is our own, not the peer's: fetch the list, and reload()",
            )
        identity = _identity(certificate, tuple, role, remote_address)
        if not identity.not_before <= self.now() <= identity.not_after:
            raise PeerRejectedError(
                "the certificate of the resumed session is not valid now",
                role=role,
                peer=format_address(remote_address),
                seen=f"certificate of {identity}, valid from {identity.not_before:%Y-%m-%d %H:%M} "
                f"to {identity.not_after:%Y-%m-%d %H:%M} UTC",
                advice="give the peer a new certificate, and make it begin a new session",
            )

    def _is_ours(self, certificate: bytes) -> bool:
        # Any certificate with our key counts, not only our own. DER contains the key's encoding as it is.
        return any(key in certificate for key in self.own_public_keys)


def _identity(
    certificate: bytes,
    chain: Callable[[], Sequence[bytes]],
    role: Role,
    remote_address: Address | None,
) -> PeerIdentity:
    try:
        return read_identity(certificate, tuple(chain()))
    except ValueError as exc:
        raise PeerRejectedError(
            "the peer's certificate can't be read",
            role=role,
            peer=format_address(remote_address),
            seen=str(exc),
            advice="have it issued anew",
        ) from exc
