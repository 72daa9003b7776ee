"""Knowing our own ClientHello again when it comes back to us.

An outsider can open two connections to our listeners, stay silent on one, and
relay the ClientHello that we send there into the other. Mutual TLS then
completes between us and ourselves. So each ClientHello that we send *on an
accepted connection* is remembered by its ``random``, and looked for in each
that comes in on one. Diallers neither remember nor look: both ends of an honest
connection may live in one process.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator

RECENT = 4096
"""How many ended handshakes are remembered. A relayed ClientHello does harm only
while our own handshake with it goes on, and those are all remembered; the rest
is for a clear error where one comes in late."""


class SentHellos:
    """The ``random`` of each ClientHello that we have sent lately.

    Args:
        recent: How many to remember whose handshake has ended.
    """

    def __init__(self, recent: int = RECENT) -> None:
        self._open: set[bytes] = set()
        self._ended: set[bytes] = set()
        self._order: deque[bytes] = deque()
        self._recent = recent

    def __contains__(self, random: object) -> bool:
        return random in self._open or random in self._ended

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    @contextlib.contextmanager
    def remember(self, random: bytes) -> Generator[None]:
        """Remember ``random`` while the handshake runs in this block, and a while after."""
        self._open.add(random)
        try:
            yield
        finally:
            self._open.discard(random)
            self._ended.add(random)
            self._order.append(random)
            if len(self._order) > self._recent:
                self._ended.discard(self._order.popleft())


def random_may_follow(hello: bytes) -> bool:
    """Whether more bytes may yet bring the ``random`` of a ClientHello into view.

    Its last byte is the 38th of the message, and at worst each stands in a
    record of its own. Only an empty record can move it further, or one of
    another kind in between: RFC 8446 section 5.1 and RFC 5246 section 6.2.1
    forbid both, but OpenSSL lets empty ones pass. So who needs more has
    something to hide, or is no TLS client.

    Args:
        hello: All that has come so far, without a ``random`` that we can find.
    """
    position = 0
    while position < len(hello):
        header = hello[position : position + 5]
        if header[0] != 0x16 or header[1:2] not in (b"", b"\x03"):
            return False
        length = int.from_bytes(header[3:5], "big")
        if len(header) == 5 and not 1 <= length <= 2**14:
            return False
        position += 5 + length
    return len(hello) < 38 * 6
