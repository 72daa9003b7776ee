"""Forward bytes between a peer and a backend: one task for each direction.

The next piece is received only when the last was taken: that is the
back-pressure, and `PIECE` is all that is held for each direction.
"""

from __future__ import annotations

import trio

from trio_duplex import Connection
from trio_duplex.cli._proxy.plain import PlainSocket

PIECE = 64 * 1024
"""Bytes on their way in each direction, at most."""


class BackendBrokenError(Exception):
    """The backend's connection broke, so that some of its answer may be missing."""


async def to_backend(connection: Connection, backend: PlainSocket) -> None:
    """Forward until the peer ends, which the backend sees as a half-close.

    A backend that takes no more may still answer, so that is no error.

    Raises:
        trio.BrokenResourceError: The peer's connection broke.
    """
    while data := await connection.receive_some(PIECE):
        try:
            await backend.send_all(data)
        except trio.BrokenResourceError:
            return
    try:
        await backend.send_eof()
    except trio.BrokenResourceError:
        return


async def from_backend(backend: PlainSocket, connection: Connection) -> None:
    """Forward until the backend ends.

    Raises:
        BackendBrokenError: The backend's connection broke.
        trio.BrokenResourceError: The peer's connection broke.
    """
    while True:
        try:
            data = await backend.receive_some(PIECE)
        except trio.BrokenResourceError as exc:
            raise BackendBrokenError(exc.__cause__ or exc) from exc
        if not data:
            return
        await connection.send_all(data)
