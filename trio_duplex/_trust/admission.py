"""Who comes in: the one rule, in one place, for both roles.

A `Material` is one consistent state of credentials. A negotiation takes it when
the role is decided and uses it to the end, whatever is reloaded meanwhile.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

import attrs
from cryptography import x509

from trio_duplex._errors import PeerRejectedError, SelfConnectionError
from trio_duplex._role import Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._trust.identity import PeerIdentity, public_key_info
from trio_duplex._trust.policy import AnyTrustedPeer, PeerPolicy, judge
from trio_duplex._trust.symmetry import trusted_certificates
from trio_duplex._trust.vouching import SelfVouching


@attrs.frozen
class Material:
    """One consistent state of credentials: a negotiation uses one from start to end."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    peer: PeerPolicy
    allow_self: bool
    own_public_keys: frozenset[bytes]
    self_vouching: SelfVouching | None = None
    """The certificates that vouch for themselves only, if there are any."""
    trust_roots: int | None = None
    """How many each context had when the two were compared; None where nothing hangs on it."""

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
        trust_roots: int | None = None,
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
            trust_roots=trust_roots,
        )

    def context(self, role: Role) -> ssl.SSLContext:
        """The TLS context for ``role``."""
        return self.server_context if role is Role.SERVER else self.client_context

    async def admit(
        self,
        certificate: bytes | None,
        chain: Callable[[], Sequence[bytes]],
        role: Role,
        remote_address: Address | None,
    ) -> None:
        """Decide whether the peer may take part: the one place, for both roles.

        Args:
            certificate: The peer's leaf certificate, DER; None if it gave none.
            chain: Gives its chain, DER each, if a policy is to see it.
            role: The TLS role that we play.
            remote_address: Where the peer is.

        Raises:
            PeerRejectedError: It may not; SelfConnectionError if it is us.
        """
        if certificate is None:
            raise PeerRejectedError(
                "the peer showed no certificate",
                role=role,
                peer=format_address(remote_address),
                seen="a handshake without a certificate, or with a pre-shared key",
                advice="give the peer a certificate; shared keys do not tell the roles apart "
                "(RFC 9257 section 4.1) and are never accepted",
            )
        if self.trust_roots not in (None, trusted_certificates(self.context(role))):
            raise PeerRejectedError(
                f"the {role} context has come to trust more than when it was compared",
                role=role,
                peer=format_address(remote_address),
                seen="a trust root that OpenSSL found in a directory (capath), or a late addition",
                advice="nobody is admitted in this role any more; load the trust roots of both "
                "contexts from files, before the credentials are made",
            )
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
        try:
            identity = PeerIdentity.from_der(certificate, chain())
        except ValueError as exc:
            raise PeerRejectedError(
                "the peer's certificate can't be read",
                role=role,
                peer=format_address(remote_address),
                seen=str(exc),
                advice="have it issued anew",
            ) from exc
        await judge(self.peer, identity, role, remote_address)

    def _is_ours(self, certificate: bytes) -> bool:
        # Our key in any certificate, ours among them; its encoding stands there as it is.
        return any(key in certificate for key in self.own_public_keys)
