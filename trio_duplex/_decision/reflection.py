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
