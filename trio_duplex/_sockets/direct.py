"""Bytes of a stream, without a pass of the scheduler where none is needed.

Trio's `send_all` and `receive_some` yield each time, and some tens of microseconds
of a handshake went there. A socket is written to and read from at once, and only
its *waiting* goes by the scheduler; any other stream is used as it is. Only for a
stream that nobody else uses meanwhile, such as one that is being negotiated.
"""

from __future__ import annotations

import os
from typing import TypeGuard

import trio

DIRECT = os.name == "posix"
"""Whether read(2) and write(2) take sockets; on Windows they do not."""


def is_direct(stream: trio.abc.Stream) -> TypeGuard[trio.SocketStream]:
    """Whether the stream's bytes can be had without the scheduler."""
    return DIRECT and isinstance(stream, trio.SocketStream)


def receive_nowait(stream: trio.SocketStream, max_bytes: int) -> bytes | None:
    """Read what has arrived on a socket; None if that is nothing, ``b""`` at its end.

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
    """Write to a socket what fits into its buffer; tell how many bytes did.

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

    Always a checkpoint. It lets others run, and looks, before it waits: on a busy
    server the bytes have come by then, and a wait costs twice as much as a look.

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
    """Send all of it. No checkpoint where it fits into the socket's buffer.

    Raises:
        trio.BrokenResourceError: The connection broke.
        trio.ClosedResourceError: The stream was closed here.
    """
    sent = send_nowait(stream, data) if is_direct(stream) else 0
    if sent < len(data):
        await stream.send_all(memoryview(data)[sent:])


def _translated(stream: trio.SocketStream, error: OSError) -> Exception:
    if stream.socket.fileno() == -1:  # closed here, and not by the peer
        return trio.ClosedResourceError("this socket was already closed")
    return trio.BrokenResourceError(f"socket connection broken: {error}")
