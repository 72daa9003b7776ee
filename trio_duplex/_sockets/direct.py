"""Sending and receiving on a stream, without yielding to the scheduler if there is no need to wait.

Trio's `send_all` and `receive_some` yield in every call, which cost some tens of
microseconds in each handshake. The functions here read and write a socket at once, and
use Trio only to wait. On any other stream they call its own methods. Use them only while
nobody else uses the stream, for instance while it is being negotiated.
"""

from __future__ import annotations

import os
from typing import TypeGuard

import trio

DIRECT = os.name == "posix"
"""Whether read(2) and write(2) work on sockets. They do not on Windows."""


def is_direct(stream: trio.abc.Stream) -> TypeGuard[trio.SocketStream]:
    """Whether the ``*_nowait`` functions work on a stream."""
    return DIRECT and isinstance(stream, trio.SocketStream)


def receive_nowait(stream: trio.SocketStream, max_bytes: int) -> bytes | None:
    """Return what has arrived on a socket; None if nothing has, ``b""`` at the end of the stream.

    Raises:
        trio.BrokenResourceError: The connection broke.
        trio.ClosedResourceError: The stream was closed here.
    """
    try:
        return os.read(stream.socket.fileno(), max_bytes)
    except BlockingIOError:
        return None
    except OSError as exc:
        raise _translated(stream, exc) from exc


def send_nowait(stream: trio.SocketStream, data: bytes) -> int:
    """Write as much as fits into a socket's buffer, and return how many bytes that is.

    Raises:
        trio.BrokenResourceError: The connection broke.
        trio.ClosedResourceError: The stream was closed here.
    """
    try:
        return os.write(stream.socket.fileno(), data)
    except BlockingIOError:
        return 0
    except OSError as exc:
        raise _translated(stream, exc) from exc


async def receive(stream: trio.abc.Stream, max_bytes: int) -> bytes:
    """Wait for bytes, and return them; ``b""`` at the end of the stream.

    Always a checkpoint. It lets other tasks run and tries to read before it waits: on
    a busy server the bytes have arrived by then, and to wait for a socket costs twice
    as much as to try.

    Raises:
        trio.BrokenResourceError: The connection broke.
        trio.ClosedResourceError: The stream was closed here.
    """
    if not is_direct(stream):
        return bytes(await stream.receive_some(max_bytes))
    await trio.lowlevel.checkpoint()
    while (data := receive_nowait(stream, max_bytes)) is None:
        await trio.lowlevel.wait_readable(stream.socket)
    return data


async def send(stream: trio.abc.Stream, data: bytes) -> None:
    """Send all of the data. This is not a checkpoint if the data fits into the socket's buffer.

    Raises:
        trio.BrokenResourceError: The connection broke.
        trio.ClosedResourceError: The stream was closed here.
    """
    sent = send_nowait(stream, data) if is_direct(stream) else 0
    if sent < len(data):
        await stream.send_all(memoryview(data)[sent:])


def _translated(stream: trio.SocketStream, error: OSError) -> Exception:
    if stream.socket.fileno() == -1:  # we closed it, not the peer
        return trio.ClosedResourceError("this socket was already closed")
    return trio.BrokenResourceError(f"socket connection broken: {error}")
