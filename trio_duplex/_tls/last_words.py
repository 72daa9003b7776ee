"""The last that a peer hears of us: an alert or a close_notify, FIN, and a short bounded drain.

``trio.SSLStream`` raises before it sends a pending alert: the peer would see a bare
end of stream, or hang. And what it had sent, unread, would turn our FIN into a
reset, which can overtake the alert.
"""

from __future__ import annotations

import contextlib

import trio

LAST_WORDS_TIMEOUT = 1.0
"""Seconds for an alert to leave and for the peer to hang up after it. A peer
that read the alert answers within a round trip; nobody else is worth more."""

LAST_WORDS_DRAIN = 256 * 1024
"""Bytes that we read and drop meanwhile. Unread data would turn our FIN into a
reset, which can overtake the alert. The longest honest flight (a certificate
chain) is a tenth of it."""


async def send_alert(transport: trio.abc.Stream, description: int) -> None:
    """Send a fatal alert where no TLS object exists, and see it off.

    Args:
        transport: The raw stream.
        description: The AlertDescription (RFC 8446 section 6).
    """
    # Content type alert, legacy version TLS 1.2, two bytes: fatal, description.
    await send_last_words(transport, bytes([0x15, 3, 3, 0, 2, 2, description]))


async def send_last_words(transport: trio.abc.Stream, words: bytes, *, shield: bool = True) -> bool:
    """Send an alert or close_notify and see it off: FIN, then a short bounded drain.

    Shielded by default, and bounded by `LAST_WORDS_TIMEOUT` seconds. Does nothing if
    there are no words, and never raises for what the peer or the stream does.

    Returns:
        False if nothing was sent because another task is sending: whoever closes
        the stream, or tries to send next, comes here again.
    """
    if not words:
        return True
    with (
        trio.move_on_after(LAST_WORDS_TIMEOUT, shield=shield),
        contextlib.suppress(
            trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
        ),
    ):
        try:
            await transport.send_all(words)
        except trio.BusyResourceError:
            return False
        if isinstance(transport, trio.abc.HalfCloseableStream):
            await transport.send_eof()
            left = LAST_WORDS_DRAIN
            while left > 0 and (dropped := await transport.receive_some()):
                left -= len(dropped)
    return True
