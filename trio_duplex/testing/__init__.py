"""A testing kit: scripted peers, flawed certificates, servers, and a network in memory.

It does not need pytest; `trio_duplex.pytest_plugin` provides fixtures for it. To issue
certificates, it needs trustme, which ``trio-duplex[testing]`` installs.
"""

from types import FunctionType

from trio_duplex.testing._certificates import (
    Authority,
    Certificate,
    CertificateFiles,
    Contexts,
    Flaw,
    PeerCredentials,
)
from trio_duplex.testing._contract import (
    check_bulk,
    check_cancelled_receive,
    check_forced_close,
    check_stream,
)
from trio_duplex.testing._network import (
    ConnectionPair,
    MemoryListener,
    MemoryStream,
    open_connection_pair,
    open_memory_connection,
    open_memory_listener,
    open_memory_stream_pair,
)
from trio_duplex.testing._odd_peers import (
    GARBAGE,
    PLAINTEXT,
    CloggedPeer,
    CrossingPeer,
    EchoingPeer,
    GarbagePeer,
    HalfClosingPeer,
    HangingUpPeer,
    LeavingPeer,
    PartialPeer,
    PlaintextPeer,
    ResettingPeer,
)
from trio_duplex.testing._peers import (
    ANNOUNCEMENT,
    AnnouncingPeer,
    DribblingPeer,
    LatePeer,
    Peer,
    SilentPeer,
    SpeakingPeer,
    Talk,
    TalkingPeer,
)
from trio_duplex.testing._servers import (
    RunningPeer,
    ServerContext,
    ServerFactory,
    ThreadServer,
    ThreadServerFactory,
    echo,
    open_server,
    thread_peer,
    thread_server,
)
from trio_duplex.testing._target import HasAddress, Target
from trio_duplex.testing._transcript import End, Entry, PeerReport, Transcript
from trio_duplex.testing._wire import PeerStream, Wire

__all__ = [
    "ANNOUNCEMENT",
    "GARBAGE",
    "PLAINTEXT",
    "AnnouncingPeer",
    "Authority",
    "Certificate",
    "CertificateFiles",
    "CloggedPeer",
    "ConnectionPair",
    "Contexts",
    "CrossingPeer",
    "DribblingPeer",
    "EchoingPeer",
    "End",
    "Entry",
    "Flaw",
    "GarbagePeer",
    "HalfClosingPeer",
    "HangingUpPeer",
    "HasAddress",
    "LatePeer",
    "LeavingPeer",
    "MemoryListener",
    "MemoryStream",
    "PartialPeer",
    "Peer",
    "PeerCredentials",
    "PeerReport",
    "PeerStream",
    "PlaintextPeer",
    "ResettingPeer",
    "RunningPeer",
    "ServerContext",
    "ServerFactory",
    "SilentPeer",
    "SpeakingPeer",
    "Talk",
    "TalkingPeer",
    "Target",
    "ThreadServer",
    "ThreadServerFactory",
    "Transcript",
    "Wire",
    "check_bulk",
    "check_cancelled_receive",
    "check_forced_close",
    "check_stream",
    "echo",
    "open_connection_pair",
    "open_memory_connection",
    "open_memory_listener",
    "open_memory_stream_pair",
    "open_server",
    "thread_peer",
    "thread_server",
]

# Users see one flat package, wherever in it a name is defined.
for _name in __all__:
    if isinstance(globals()[_name], type | FunctionType):
        globals()[_name].__module__ = __name__
