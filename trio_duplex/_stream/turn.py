"""Whose turn it was to speak when a handler was cancelled.

A close_notify says that we have said all there was to say. If a handler is cancelled while it
waits to receive from its connection, that is honest: the peer was to speak. Anywhere else,
sending, computing or waiting for somebody, half an answer may have left, and it must not
look like a whole one.

Where a handler was is in the tracebacks of the `Cancelled` exceptions, one for each task
that was cancelled. A task in ``trio.sleep_forever()`` has nothing more to say either: it
waits for its cancellation, and for nothing else.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import cast

import trio

from trio_duplex._stream.connection import Connection, made_streams

TLS_STREAM: type[trio.SSLStream[trio.abc.Stream]] = trio.SSLStream


def was_the_peers_turn(error: BaseException, connection: Connection) -> bool:
    """Whether a handler was cancelled, and each of its tasks waited to receive, or for ever.

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
    """Whether the task that was cancelled with this error waited to receive, or for ever."""
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
            # Trio's sleep() comes through here, too, and does end.
            return caller is not trio.sleep_until.__code__
        caller = code
    return False
