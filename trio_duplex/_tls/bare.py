"""Marking a ``trio.SSLStream``'s handshake as done, and breaking its reference cycle.

An ``SSLStream`` holds an object that runs its handshake at most once, and that object holds a
bound method of the ``SSLStream``. Because of this cycle, each ``SSLStream``, with the tens of
kilobytes that OpenSSL holds for it, would stay in memory until the garbage collector runs, and
that depends on the number of objects, not on their size. A server that had 20,000 short
connections ended at 75 MB this way, and ends at 48 MB with the cycle broken.

The public way to tell an ``SSLStream`` that its handshake is done is to call
``do_handshake()`` once more. To find that out, it takes a lock, calls OpenSSL, and yields to
the scheduler.
"""

from __future__ import annotations

import trio


class _DoneHandshake:
    """Replaces the object that runs an ``SSLStream``'s handshake, once that is done."""

    started = done = True

    async def ensure(self, *, checkpoint: bool) -> None:
        if checkpoint:
            await trio.lowlevel.checkpoint()


_DONE_HANDSHAKE = _DoneHandshake()


def release(tls: trio.SSLStream[trio.abc.Stream]) -> bool:
    """Mark a stream's handshake as done, whether it has succeeded or failed, and break the cycle.

    Returns:
        Whether this worked. If not, Trio has changed, and may not have the cycle any more.
    """
    if not hasattr(tls, "_handshook"):
        return False
    # vars(tls) would also work, but creates a dict for each stream that lives as long as the stream.
    object.__setattr__(tls, "_handshook", _DONE_HANDSHAKE)
    return True
