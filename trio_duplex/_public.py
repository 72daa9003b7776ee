"""The list of what is public; `trio_duplex` itself gives these names, when they are asked for."""

from trio_duplex._errors import (
    DuplexError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    LimitError,
    NotTLSError,
    PeerClosedError,
    PeerRejectedError,
    SelfConnectionError,
)
from trio_duplex._events.events import (
    Accepted,
    ConnectionClosed,
    ConnectionEvent,
    Event,
    HandlerFailed,
    HandshakeCompleted,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
    PeerRejected,
    RoleDecided,
)
from trio_duplex._events.statistics import Histogram, Statistics
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._serve.handler import Handler, by_role
from trio_duplex._serve.limits import Limits, WhenFull
from trio_duplex._serve.listener import DuplexListener
from trio_duplex._serve.serve import serve_listeners, serve_tcp
from trio_duplex._serve.server import DrainResult, Server
from trio_duplex._stream.connection import CertificateRejectedError, Connection
from trio_duplex._stream.dial import open_tcp_connection
from trio_duplex._stream.negotiate import negotiate
from trio_duplex._trust.credentials import Credentials
from trio_duplex._trust.identity import PeerIdentity
from trio_duplex._trust.own import Check, Grade, check_certificate
from trio_duplex._trust.pem import CredentialsError
from trio_duplex._trust.policy import (
    AllOf,
    AnyOf,
    AnyTrustedPeer,
    NamedByAddress,
    NamedPeer,
    PeerPolicy,
    PinnedPeer,
    RolesAllowed,
)
from trio_duplex._wire.opening import Opening, OpeningKind, TLSMessage, classify

__all__ = [
    "Accepted",
    "AllOf",
    "AnyOf",
    "AnyTrustedPeer",
    "CertificateRejectedError",
    "Check",
    "Connection",
    "ConnectionClosed",
    "ConnectionEvent",
    "Credentials",
    "CredentialsError",
    "Decision",
    "DrainResult",
    "DuplexError",
    "DuplexListener",
    "Event",
    "GlareError",
    "Grade",
    "Handler",
    "HandlerFailed",
    "HandshakeCompleted",
    "HandshakeError",
    "HandshakeTimeoutError",
    "Histogram",
    "LimitError",
    "LimitReached",
    "Limits",
    "ListenerPaused",
    "NamedByAddress",
    "NamedPeer",
    "NegotiationFailed",
    "NotTLSError",
    "Opening",
    "OpeningKind",
    "PeerClosedError",
    "PeerIdentity",
    "PeerPolicy",
    "PeerRejected",
    "PeerRejectedError",
    "PinnedPeer",
    "Reason",
    "Role",
    "RoleDecided",
    "RolesAllowed",
    "SelfConnectionError",
    "Server",
    "Statistics",
    "TLSMessage",
    "WhenFull",
    "by_role",
    "check_certificate",
    "classify",
    "negotiate",
    "open_tcp_connection",
    "serve_listeners",
    "serve_tcp",
]

# Where a name is defined is our business: its users see one flat package.
for _name in __all__:
    globals()[_name].__module__ = "trio_duplex"
