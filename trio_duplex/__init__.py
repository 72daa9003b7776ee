"""TCP listeners that take whichever TLS role the peer does not.

A peer that speaks first is the TLS client, so we are the TLS server; a peer
that stays silent through the detection window is the TLS server, so we are the
TLS client, although it was the peer who dialled.
"""

from trio_duplex._connection import Connection
from trio_duplex._credentials import Credentials
from trio_duplex._dial import open_tcp_connection
from trio_duplex._errors import (
    DuplexError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    PeerRejectedError,
    SelfConnectionError,
)
from trio_duplex._listener import DuplexListener
from trio_duplex._negotiate import negotiate
from trio_duplex._opening import Opening, OpeningKind, TLSMessage, classify
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._serve import (
    DrainResult,
    Handler,
    Server,
    by_role,
    serve_listeners,
    serve_tcp,
)

__all__ = [
    "Connection",
    "Credentials",
    "Decision",
    "DrainResult",
    "DuplexError",
    "DuplexListener",
    "GlareError",
    "Handler",
    "HandshakeError",
    "HandshakeTimeoutError",
    "NotTLSError",
    "Opening",
    "OpeningKind",
    "PeerClosedError",
    "PeerRejectedError",
    "Reason",
    "Role",
    "SelfConnectionError",
    "Server",
    "TLSMessage",
    "by_role",
    "classify",
    "negotiate",
    "open_tcp_connection",
    "serve_listeners",
    "serve_tcp",
]

# Where a name is defined is our business: its users see one flat package.
for _name in __all__:
    globals()[_name].__module__ = __name__
