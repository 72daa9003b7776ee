"""The detection window: which role does the peer leave to us?

The window holds one receive and one assignment and no other checkpoint: data that
arrived as the window closed is then in the variable, whatever the cancel scope says.
"""

from __future__ import annotations

import trio

from trio_duplex._errors import PeerClosedError
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._sockets.direct import is_direct, receive_nowait
from trio_duplex._stream.supervision import Supervision

OPENING_SIZE = 4096
"""Bytes to ask for in the window. A ClientHello of today has 300 to 1,800; more
than that just takes a second read, and a buffer is allocated at each try."""


async def detect(
    stream: trio.abc.Stream, window: float, remote: Address | None, supervision: Supervision
) -> tuple[Decision, bytes]:
    """Find out which role the peer leaves to us, before anything of TLS exists.

    One coroutine, and no frame below it but the wait itself: what it holds is
    held for each pending peer.

    Returns:
        The decision, and what came of the opening: empty if the peer is silent.

    Raises:
        PeerClosedError: The peer left in the window.
        DuplexError: What ``supervision`` ended it with.
    """
    opening: bytes | bytearray | None = None
    started = trio.current_time()
    try:
        if is_direct(stream):
            opening = receive_nowait(stream, OPENING_SIZE)  # on a busy server it is there already
        if opening is None:
            # Only one await in here: a second checkpoint lost the bytes in 433 of
            # 1,500 deadline races. And nothing goes by the scope, only by the bytes.
            with supervision.stage(started + window):
                if is_direct(stream):
                    # What a socket receives stays in the kernel until we ask. To
                    # wait only holds 1.5 KB less for each peer than to receive.
                    while opening is None:
                        await supervision.readable(stream)
                        opening = receive_nowait(stream, OPENING_SIZE)
                else:
                    opening = await stream.receive_some(OPENING_SIZE)
            supervision.check()
            if opening is None and is_direct(stream):
                # A last look: it finds what came after the scheduler had given up
                # (one expiry in five of a race).
                opening = receive_nowait(stream, OPENING_SIZE)
    except trio.BrokenResourceError as exc:
        raise peer_left_error(format_address(remote), received=0, reset=True) from exc
    if opening == b"":
        raise peer_left_error(format_address(remote), received=0, reset=False)
    decision = Decision(
        role=Role.CLIENT if opening is None else Role.SERVER,
        reason=Reason.SILENT if opening is None else Reason.SPOKE,
        waited=trio.current_time() - started,
        window=window,
    )
    supervision.decided(decision)
    return decision, bytes(opening or b"")


def peer_left_error(
    peer: str | None, *, received: int, reset: bool, role: Role | None = None
) -> PeerClosedError:
    return PeerClosedError(
        "the peer left before its opening was complete",
        role=role,
        peer=peer,
        seen=f"{'a reset' if reset else 'end of stream'} after {received} bytes",
        advice="port scans and health checks do this; a real peer would have waited or spoken",
        received=received,
        reset=reset,
    )
