"""The announcement: a few bytes by which a dialler says that it will be the TLS server.

The announcement is one TLS alert of level warning, ``user_canceled`` (RFC 8446 section
6.1), in a record of its own. Read literally it says "I do not begin this handshake", so the
other end has to. Of 16 TLS clients that were sent it in place of a ServerHello, 15 ignore it;
only six of them ignore a HelloRequest. So a dialler may send it to a listener that knows
nothing of announcements, unless that listener *sniffs* first bytes: a sniffing listener takes
a peer that sends anything at all for a TLS client.

The HelloRequest of TLS 1.2 (RFC 5246 section 7.4.1.1) asks the other end to begin, explicitly.
We accept it as an announcement too.
"""

from __future__ import annotations

ANNOUNCEMENT = bytes.fromhex("15 0303 0002 01 5a")
"""What we send: record type alert, legacy version TLS 1.2, length 2, warning, user_canceled."""

_FORMS = (
    bytes.fromhex("15 0303 0002 01 5a"),
    bytes.fromhex("15 0302 0002 01 5a"),
    bytes.fromhex("15 0301 0002 01 5a"),
    bytes.fromhex("16 0303 0004 00 000000"),
    bytes.fromhex("16 0302 0004 00 000000"),
    bytes.fromhex("16 0301 0004 00 000000"),
)

LONGEST = max(map(len, _FORMS))
"""Bytes of the longest announcement that is understood."""


def announcement_length(prefix: bytes | bytearray | memoryview) -> int | None:
    """Return the length of the announcement that a peer's first bytes begin with.

    The verdict is monotone: once it is not None, more bytes do not change it.

    Args:
        prefix: All that the peer has sent so far, from its first byte on.

    Returns:
        7 or 9, the number of bytes to strip; 0 if there is no announcement; None
        if more bytes are needed to decide.
    """
    data = bytes(memoryview(prefix)[:LONGEST])
    if data[:1] == b"\x16" and data[5:6] == b"\x01":  # a ClientHello, as nearly always
        return 0
    for form in _FORMS:
        if data.startswith(form):
            return len(form)
    return None if any(form.startswith(data) for form in _FORMS) else 0
