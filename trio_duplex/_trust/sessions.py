"""Bounding OpenSSL's session cache, by replacing a server context whose cache is full.

In TLS 1.2 a context keeps the session of each peer that does not use tickets: 10 to
13 KB each, up to 20,480 of them, for hours. Python's ``ssl`` has no setting for this.
So we count the sessions, and at a limit a fresh context takes over. The old context is
freed together with its connections. The only peers that notice are those that wanted to
resume a session of the old context: they make a full handshake instead.
"""

from __future__ import annotations

import ssl

from trio_duplex._trust.parameters import keep_tightened

MAX_SESSIONS = 256
"""How many sessions a context may hold, which take 3 MB. A new context costs 1 to 2 ms, so for each
of 256 handshakes about 1 % of its cost."""

LOOK_EVERY = 32
"""How many handshakes there are from one count of the sessions, which costs 1 µs, to the next."""


def is_full(context: ssl.SSLContext) -> bool:
    """Whether the session cache of a context has reached its limit."""
    return context.session_stats()["number"] >= MAX_SESSIONS


def take_over(old: ssl.SSLContext, new: ssl.SSLContext) -> ssl.SSLContext:
    """Copy settings that a user may have changed on the old context to a fresh one.

    A setting that can't be read back in Python, such as a curve, is not copied.
    """
    keep_tightened(old, new)
    new.verify_mode = old.verify_mode
    new.num_tickets = old.num_tickets
    new.sni_callback = old.sni_callback
    if old.keylog_filename:
        new.keylog_filename = old.keylog_filename
    return new
