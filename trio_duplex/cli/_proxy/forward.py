"""Forward bytes between two streams, both ways, until both have ended."""

from __future__ import annotations

from typing import Protocol

import trio

PIECE = 64 * 1024
"""Bytes on their way in each direction, at most; a slow receiver holds its sender up by this."""


class HalfCloseable(Protocol):
    """A stream that can say that it sends no more."""

    async def send_eof(self) -> None:
        """Send the end."""
        ...


async def copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> int:
    """Copy until the source ends; give how many bytes.

    The next piece is received only when the last was taken: that is the back-pressure.

    Raises:
        trio.BrokenResourceError: The source broke, or the sink takes no more.
    """
    total = 0
    while data := await source.receive_some(PIECE):
        await sink.send_all(data)
        total += len(data)
    return total
