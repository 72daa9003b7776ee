"""OpenSSL's session cache, bounded: a server context whose cache has grown is replaced.

In TLS 1.2 a context keeps the session of each peer that takes no tickets: 10 to 13 KB
each, up to 20,480 of them, for hours. Python's ``ssl`` has no setting for it. So the
sessions are counted, and a fresh context takes over; the old one goes with its
connections. Nobody but a peer that would have resumed is told of it: it makes a full
handshake.
"""

from __future__ import annotations

import ssl

from trio_duplex._trust.parameters import keep_tightened

MAX_SESSIONS = 256
"""Sessions that a context may hold: 3 MB. A new context costs 1 to 2 ms, so 1 % of a handshake each."""

LOOK_EVERY = 32
"""Handshakes between two looks, each of which costs 1 µs."""


def is_full(context: ssl.SSLContext) -> bool:
    """Whether a context holds as many sessions as it may."""
    return context.session_stats()["number"] >= MAX_SESSIONS


def take_over(old: ssl.SSLContext, new: ssl.SSLContext) -> ssl.SSLContext:
    """Carry over to a fresh context what may have been changed on the old one.

    What Python does not tell of a context, such as a curve, is not carried over.
    """
    keep_tightened(old, new)
    new.verify_mode = old.verify_mode
    new.num_tickets = old.num_tickets
    new.sni_callback = old.sni_callback
    if old.keylog_filename:
        new.keylog_filename = old.keylog_filename
    return new
