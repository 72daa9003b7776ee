"""What is known of a connection: what a backend's header and a program's environment are made of."""

from __future__ import annotations

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID

from trio_duplex import Address, Connection, PeerIdentity, Reason, Role


@attrs.frozen(kw_only=True)
class Facts:
    """What a connection tells, in plain values.

    Attributes:
        role: The TLS role that we play.
        reason: Why.
        waited: Seconds until it was decided.
        local_address: Our end.
        remote_address: The peer's end.
        version: Such as ``TLSv1.3``.
        cipher: OpenSSL's name of the cipher suite.
        alpn: The protocol agreed on by ALPN, if any.
        server_name: The name that was asked for by SNI, by us or the peer, if known.
        resumed: Whether the session was resumed.
        identity: Who the peer's certificate says it is; None without one.
        common_name: Its subject's common name, if it has exactly one.
    """

    role: Role
    reason: Reason
    waited: float
    local_address: Address | None
    remote_address: Address | None
    version: str
    cipher: str
    alpn: str | None
    server_name: str | None
    resumed: bool
    identity: PeerIdentity | None
    common_name: str | None

    @classmethod
    def of(cls, connection: Connection) -> Facts:
        """Ask an open connection."""
        identity = peer_identity(connection)
        return cls(
            role=connection.role,
            reason=connection.decision.reason,
            waited=connection.decision.waited,
            local_address=connection.local_address,
            remote_address=connection.remote_address,
            version=connection.tls_version,
            cipher=connection.cipher,
            alpn=connection.selected_alpn_protocol,
            server_name=connection.server_hostname,
            resumed=connection.session_reused,
            identity=identity,
            common_name=None if identity is None else _common_name(identity),
        )


def peer_identity(connection: Connection) -> PeerIdentity | None:
    """Who the peer is; None for one without a certificate, or with one that can't be read."""
    if connection.peer_certificate is None:
        return None
    try:
        return connection.peer
    except ValueError:
        return None


def _common_name(identity: PeerIdentity) -> str | None:
    try:
        subject = x509.load_der_x509_certificate(identity.certificate).subject
        names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if len(names) == 1 else None
    except (ValueError, TypeError):
        return None
