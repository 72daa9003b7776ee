"""The announcement: a few bytes by which a dialler says that it will be the TLS server.

The announcement is one TLS alert of level warning, ``user_canceled`` (RFC 8446 section
6.1), in a record of its own. Read literally it says "I do not begin this handshake", and
what follows is that the other end does. Of 16 TLS clients that were sent it in place of
a ServerHello, 15 ignore it; a HelloRequest is ignored by six. So a dialler may send it
to a listener that knows nothing of announcements, as long as that one does not *sniff*
first bytes: a sniffing listener takes any bytes for a TLS client.

The HelloRequest of TLS 1.2 (RFC 5246 section 7.4.1.1) says the same in so many words, and is
understood too.
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
    """Tell how many bytes of announcement a peer's first bytes begin with.

    The verdict is monotone: once it is not None, more bytes do not change it.

    Args:
        prefix: All that the peer has sent so far, from its first byte on.

    Returns:
        7 or 9, the length of the announcement to strip; 0 if the bytes are
        something else; None if more bytes are needed to tell.
    """
    data = bytes(memoryview(prefix)[:LONGEST])
    if data[:1] == b"\x16" and data[5:6] == b"\x01":  # a ClientHello, as nearly always
        return 0
    for form in _FORMS:
        if data.startswith(form):
            return len(form)
    return None if any(form.startswith(data) for form in _FORMS) else 0
