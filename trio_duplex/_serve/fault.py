"""Whose fault it is that an exception left a handler.

A handler uses other streams and channels beside its connection, and they raise
the same types: a broken memory channel, or a backend that refuses our certificate,
is no fault of the peer, and hiding it from the operator would hide a bug of ours.
So the type does not say enough. What does is where an exception came from: a
traceback shows each call that it passed through, and the object of that call.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import cast

import trio

from trio_duplex._errors import DuplexError
from trio_duplex._stream.connection import Connection, made_streams


def is_peer_fault(error: BaseException, connection: Connection) -> bool:
    """Whether an exception that left a handler is the doing of its connection's peer, or of the network.

    It is if ``connection`` raised it, its ``tls`` or its transport, or if it is the
    ``trio.BrokenResourceError`` of a stream around the connection, with such a cause.
    Of a group, each part must be.
    """
    if isinstance(error, BaseExceptionGroup):
        parts = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return all(is_peer_fault(part, connection) for part in parts)
    streams = made_streams(connection)
    cause: BaseException | None = error
    while isinstance(cause, trio.BrokenResourceError | DuplexError):
        for caller in _objects_called(cause.__traceback__):
            if any(caller is stream for stream in streams):
                return True
        cause = cause.__cause__
    return False


def _objects_called(traceback: TracebackType | None) -> Iterator[object]:
    """The object of each method that an exception left on its way."""
    while traceback is not None:
        # By its name, because a handler's first argument is the connection, too.
        yield traceback.tb_frame.f_locals.get("self")
        traceback = traceback.tb_next
