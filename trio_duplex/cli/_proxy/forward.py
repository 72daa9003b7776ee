"""Forward bytes between a peer and a backend: one task for each direction.

The next piece is received only when the last one was sent. This provides back-pressure,
and at most one piece is held for each direction. Each direction ends by itself: a
TCP half-close on one side becomes a TLS close_notify on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from trio_duplex import Connection
from trio_duplex.cli._proxy.plain import PlainSocket

FROM_PEER = 256 * 1024
"""Bytes on their way to the backend, at most. What is received in large pieces costs least."""

FROM_BACKEND = 64 * 1024
"""Bytes on their way to the peer, at most, and as many again once they are encrypted. Peers may be slow, and many."""


class BackendBrokenError(Exception):
    """The backend's connection broke, so that some of its answer may be missing."""


async def forward(connection: Connection, backend: PlainSocket, *, patience: float) -> None:
    """Forward both ways, until both have ended.

    A backend that has ended may have closed its side or only half-closed it, which
    we find out only by sending to it. So we go on forwarding what the peer sends.

    Args:
        connection: The peer's side; it is left open.
        backend: The backend's side, likewise.
        patience: Seconds in which a peer must send something or end, once the
            backend has ended.

    Raises:
        BackendBrokenError: The backend's connection broke.
        trio.BrokenResourceError: The peer's connection broke.
    """
    broken: BackendBrokenError | None = None
    rest = trio.CancelScope()  # its deadline is set when the backend has ended

    def moved() -> None:
        if rest.deadline != math.inf:
            rest.deadline = trio.current_time() + patience

    async def from_peer() -> None:
        with rest:
            await _to_backend(connection, backend, moved)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(from_peer)
        try:
            await _from_backend(backend, connection)
        except BackendBrokenError as exc:
            broken = exc
            nursery.cancel_scope.cancel()
        else:
            await connection.send_eof()
            rest.deadline = trio.current_time() + patience
    if broken is not None:
        raise broken


async def _to_backend(
    connection: Connection, backend: PlainSocket, moved: Callable[[], None]
) -> None:
    """Forward until the peer ends, which the backend sees as a half-close.

    A backend that does not accept any more may still answer, so that is not an error.

    Raises:
        trio.BrokenResourceError: The peer's connection broke.
    """
    while True:
        try:
            data = await connection.receive_some(FROM_PEER)
        except trio.BrokenResourceError:
            await backend.wait_delivered()  # all that came, before the cut
            raise
        if not data:
            break
        moved()
        try:
            await backend.send_all(data)
        except trio.BrokenResourceError:
            return
    try:
        backend.send_eof()
    except trio.BrokenResourceError:
        return


async def _from_backend(backend: PlainSocket, connection: Connection) -> None:
    """Forward until the backend ends.

    Raises:
        BackendBrokenError: The backend's connection broke.
        trio.BrokenResourceError: The peer's connection broke.
    """
    while True:
        try:
            data = await backend.receive_some(FROM_BACKEND)
        except trio.BrokenResourceError as exc:
            raise BackendBrokenError(exc.__cause__ or exc) from exc
        if not data:
            return
        await connection.send_all(data)
