"""Recognising our own ClientHello when somebody sends it back to us.

An outsider can open two connections to our listeners, stay silent on one, and
relay the ClientHello that we send there into the other. Mutual TLS then
completes between us and ourselves. So we remember the ``random`` of each
ClientHello that we send *on an accepted connection*, and compare it with each
ClientHello that we receive on one. Dialled connections are left out of both,
because a process may well dial a listener of its own.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator

RECENT = 4096
"""How many ended handshakes are remembered. A relayed ClientHello can do harm only
while our own handshake with it goes on, and all of those are remembered. The ended
ones only make the error clear when a relayed ClientHello comes late."""


class SentHellos:
    """The ``random`` of each ClientHello that we have sent lately.

    Args:
        recent: How many handshakes to remember after they have ended.
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
        """Remember ``random`` during this block, in which the handshake runs, and for a while after it."""
        self._open.add(random)
        try:
            yield
        finally:
            self._open.discard(random)
            self._ended.add(random)
            self._order.append(random)
            if len(self._order) > self._recent:
                self._ended.discard(self._order.popleft())
