"""Whether a handler that was cancelled was waiting for its peer.

A close_notify tells the peer that it has received everything. If a handler is cancelled while
it waits to receive from its connection, that is true: it was the peer's turn to send. If it is
cancelled anywhere else (sending, computing, waiting for a backend), half an answer may have
been sent, and must not look like a whole one.

The tracebacks of the `Cancelled` exceptions, one for each task that was cancelled, tell where
the handler was. A task in ``trio.sleep_forever()`` counts as waiting for the peer: it waits
only to be cancelled, so it has nothing more to send.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import cast

import trio

from trio_duplex._stream.connection import Connection, made_streams

TLS_STREAM: type[trio.SSLStream[trio.abc.Stream]] = trio.SSLStream


def was_the_peers_turn(error: BaseException, connection: Connection) -> bool:
    """Whether a handler was cancelled while all of its tasks waited to receive, or slept for ever.

    Args:
        error: What left the handler, with its tracebacks.
        connection: The connection that it served.
    """
    return all(
        isinstance(leaf, trio.Cancelled) and _waits(leaf, connection) for leaf in _leaves(error)
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(part)
    else:
        yield error


def _waits(error: BaseException, connection: Connection) -> bool:
    """Whether the task that was cancelled with this error waited to receive, or slept for ever."""
    caller = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code is Connection.receive_some.__code__:
            if frame.f_locals.get("self") is connection:
                return True
        elif code is TLS_STREAM.receive_some.__code__:
            stream = frame.f_locals.get("self")
            if any(stream is each for each in made_streams(connection)):
                return True
        elif code is trio.sleep_forever.__code__:
            # Trio's sleep() calls this too, but it ends.
            return caller is not trio.sleep_until.__code__
        caller = code
    return False
