"""The public names of `trio_duplex` itself, which most programs import.

There are four more public modules, which can be imported, or used as attributes of
`trio_duplex`: `trio_duplex.events` (for observers), `trio_duplex.openings` (what first
bytes mean), `trio_duplex.windows` (how long to wait for them) and
`trio_duplex.certificates` (whether ours is fit for both roles).
"""

from types import FunctionType
from typing import TYPE_CHECKING

from trio_duplex import certificates as certificates
from trio_duplex import events as events
from trio_duplex import openings as openings
from trio_duplex import windows as windows
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
from trio_duplex._events.statistics import Histogram, Statistics
from trio_duplex._later import import_later
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._serve.handler import Handler, by_role
from trio_duplex._serve.limits import Limits, WhenFull
from trio_duplex._serve.serve import serve_listeners, serve_tcp
from trio_duplex._serve.server import DrainResult, Server
from trio_duplex._sockets.address import Address
from trio_duplex._stream.connection import CertificateRejectedError, Connection
from trio_duplex._stream.negotiate import negotiate
from trio_duplex._trust.credentials import Credentials
from trio_duplex._trust.identity import PeerIdentity
from trio_duplex._trust.pem import CredentialsError
from trio_duplex._trust.policy import AnyTrustedPeer, PeerPolicy, Verdict

if TYPE_CHECKING:
    from trio_duplex._serve.listener import DuplexListener
    from trio_duplex._stream.dial import open_tcp_connection
    from trio_duplex._trust.policies import (
        AllOf,
        AnyOf,
        NamedByAddress,
        NamedPeer,
        PinnedPeer,
        RolesAllowed,
    )
else:
    _LATER = {
        "DuplexListener": "trio_duplex._serve.listener",
        "open_tcp_connection": "trio_duplex._stream.dial",
        "AllOf": "trio_duplex._trust.policies",
        "AnyOf": "trio_duplex._trust.policies",
        "NamedByAddress": "trio_duplex._trust.policies",
        "NamedPeer": "trio_duplex._trust.policies",
        "PinnedPeer": "trio_duplex._trust.policies",
        "RolesAllowed": "trio_duplex._trust.policies",
    }
    __getattr__, _ = import_later("trio_duplex", _LATER)

__all__ = [
    "Address",
    "AllOf",
    "AnyOf",
    "AnyTrustedPeer",
    "CertificateRejectedError",
    "Connection",
    "Credentials",
    "CredentialsError",
    "Decision",
    "DrainResult",
    "DuplexError",
    "DuplexListener",
    "GlareError",
    "Handler",
    "HandshakeError",
    "HandshakeTimeoutError",
    "Histogram",
    "LimitError",
    "Limits",
    "NamedByAddress",
    "NamedPeer",
    "NotTLSError",
    "PeerClosedError",
    "PeerIdentity",
    "PeerPolicy",
    "PeerRejectedError",
    "PinnedPeer",
    "Reason",
    "Role",
    "RolesAllowed",
    "SelfConnectionError",
    "Server",
    "Statistics",
    "Verdict",
    "WhenFull",
    "by_role",
    "negotiate",
    "open_tcp_connection",
    "serve_listeners",
    "serve_tcp",
]

# Users see one flat package, wherever in it a name is defined.
for _name in __all__:
    if isinstance(globals().get(_name), type | FunctionType):  # not an alias of a type
        globals()[_name].__module__ = "trio_duplex"
