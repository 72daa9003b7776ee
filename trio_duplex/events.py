"""The events that a server's observers are called with."""

from datetime import datetime
from types import FunctionType

from trio_duplex._errors import PeerRejectedError
from trio_duplex._events.events import (
    Accepted,
    ConnectionClosed,
    ConnectionEvent,
    Crossed,
    Event,
    HandlerFailed,
    HandshakeCompleted,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
    Observer,
    OwnCertificateExpired,
    PeerChangedKind,
    PeerRejected,
    PolicyFailed,
    RoleDecided,
)
from trio_duplex._events.probes import Probe
from trio_duplex._role import Decision, Role
from trio_duplex._stream.connection import Connection

__all__ = [
    "Accepted",
    "ConnectionClosed",
    "ConnectionEvent",
    "Crossed",
    "Event",
    "HandlerFailed",
    "HandshakeCompleted",
    "LimitReached",
    "ListenerPaused",
    "NegotiationFailed",
    "Observer",
    "OwnCertificateExpired",
    "PeerChangedKind",
    "PeerRejected",
    "PolicyFailed",
    "Probe",
    "RoleDecided",
]

_OF_ATTRIBUTES = (Connection, Decision, PeerRejectedError, Role, datetime)
"""The types of the events' attributes, imported because `typing.get_type_hints` looks for them here."""

# Users see the public module, not the private one.
for _name in __all__:
    if isinstance(globals()[_name], type | FunctionType):  # not an alias of a type
        globals()[_name].__module__ = __name__
