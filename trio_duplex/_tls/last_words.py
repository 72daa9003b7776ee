"""Sending last words to a peer: an alert or a close_notify, then FIN, then a short bounded drain.

When TLS fails, ``trio.SSLStream`` raises before it has sent OpenSSL's alert. The peer would
only see the end of the stream, or hang. And if we closed with unread data of the peer in the
receive buffer, the kernel would send a reset instead of our FIN, which can overtake the alert.
"""

from __future__ import annotations

import contextlib

import trio

from trio_duplex._wire.records import ALERT, write_record

_FATAL = 2  # the AlertLevel (RFC 8446 section 6)

LAST_WORDS_TIMEOUT = 1.0
"""Seconds for sending an alert and for the peer to hang up after it. A peer that reads
the alert hangs up within a round trip, and there is no reason to wait longer for others."""

LAST_WORDS_DRAIN = 256 * 1024
"""How many bytes we read and drop in that time, so that our FIN does not become a reset. The
longest flight of a proper peer (with a certificate chain) is a tenth of this."""


async def send_alert(transport: trio.abc.Stream, description: int) -> None:
    """Send a fatal alert on a stream without a TLS object, as `send_last_words` does.

    Args:
        transport: The raw stream.
        description: The AlertDescription (RFC 8446 section 6).
    """
    await send_last_words(transport, write_record(ALERT, bytes([_FATAL, description])))


async def send_last_words(transport: trio.abc.Stream, words: bytes, *, shield: bool = True) -> bool:
    """Send an alert or close_notify, then FIN, then read and drop data until the peer hangs up.

    This is shielded by default, and takes at most `LAST_WORDS_TIMEOUT` seconds. It does
    nothing if ``words`` is empty, and does not raise if the peer or the stream fails.

    Returns:
        False if nothing was sent because another task is sending. The caller should try
        again when it closes the stream, or with the next send.
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
            remaining = LAST_WORDS_DRAIN
            while remaining > 0 and (dropped := await transport.receive_some()):
                remaining -= len(dropped)
    return True
