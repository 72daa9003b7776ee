"""Deciding whether the peer is at fault for an exception that left a handler.

The type of the exception is not enough. A handler also uses other streams and
channels, which raise the same types. A broken memory channel, or a backend that
refuses our certificate, is not the peer's fault, and if we treated it as such, the
operator would not see a bug. So we look at where the exception came from: its
traceback contains each method call that it passed through, and so the object that
the method belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import cast

import trio

from trio_duplex._errors import DuplexError
from trio_duplex._stream.connection import Connection, made_streams


def is_peer_fault(error: BaseException, connection: Connection) -> bool:
    """Whether the connection's peer, or the network, caused an exception that left a handler.

    It did if ``connection``, its ``tls`` or its transport raised the exception. It also
    did if a stream that wraps the connection raised a ``trio.BrokenResourceError`` with
    such an exception as its cause. In a group, this must hold for each exception.
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
    """Yield the object of each method that an exception passed through."""
    while traceback is not None:
        # Look for the name `self`, and not for the first argument: a handler's first argument is
        # the connection.
        yield traceback.tb_frame.f_locals.get("self")
        traceback = traceback.tb_next
