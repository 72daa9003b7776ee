"""What happened: the events that a server's observers are called with."""

from types import FunctionType

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
    Observer,
    PeerRejected,
    RoleDecided,
)

__all__ = [
    "Accepted",
    "ConnectionClosed",
    "ConnectionEvent",
    "Event",
    "HandlerFailed",
    "HandshakeCompleted",
    "LimitReached",
    "ListenerPaused",
    "NegotiationFailed",
    "Observer",
    "PeerRejected",
    "RoleDecided",
]

# Users see the public module, not the room.
for _name in __all__:
    if isinstance(globals()[_name], type | FunctionType):  # not an alias of a type
        globals()[_name].__module__ = __name__
