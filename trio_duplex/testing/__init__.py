"""A testing kit: scripted peers, flawed certificates, servers, and a network in memory.

It does not need pytest; `trio_duplex.pytest_plugin` provides fixtures for it. To issue
certificates, it needs trustme, which ``trio-duplex[testing]`` installs.
"""

# What the kit keeps for itself
#
# A test shows a fault of the library only if the peer in the test does not have the same fault. If
# both ends read records with the same function, and that function skips a byte, the two agree. So
# the following exists twice on purpose, and the kit must not import the library's:
#
# - TLS on a stream: `PeerStream` drives an ``ssl.SSLObject`` itself, and does not use `_tls`. It would
#   otherwise forget the same alert, close_notify or session ticket that the library forgets.
# - Records: `_records` reads and writes their headers itself, and does not use `_wire.records`.
# - What the library's decisions are made of: `CrossingPeer` compares the two randoms itself, and
#   `ANNOUNCEMENT`, `PLAINTEXT` and `GARBAGE` are bytes, not constants of `_wire` and `_decision`.
# - TLS contexts and certificates: `_contexts` and `_certificates` do not use `_trust`.
#
# The kit shares with the library what can't hide a fault in this way: the public names, which are what a
# test is about; `classify`, and the names of alerts, which only describe bytes to people. The names of
# alerts come from a private table, so that errors and transcripts have the same ones. Each entry of that
# table has a test against Python's own table.
#
# For the same reason, the project's own tests read records with the kit's functions
# (tests/support/records.py), and ``trio-duplex load``, which measures servers from outside, reads alerts
# without the help of the library.

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
