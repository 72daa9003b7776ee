"""The backend's socket, read and written without Trio's detours; only the waiting is Trio's.

Trio's own sockets pass through the scheduler after each call, even if the
kernel had data or room at once. A forwarded piece passes through it anyway, on
its TLS side, so a second pass gains no fairness. Without it the proxy forwards
1.3 times as much to a backend for each second of CPU.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

import trio

from trio_duplex.cli._service.reset import reset_on_close, wait_delivered


class PlainSocket:
    """A connected stream socket, for one task that sends and one that receives.

    A call that does not have to wait is not a checkpoint. Used as a context manager, it
    is closed in the end, and reset if the end is an exception or a cancellation.

    Args:
        connected: The socket, which does not block. It now belongs to us.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def send_all(self, data: bytes | bytearray) -> None:
        """Send all of it.

        Raises:
            trio.BrokenResourceError: The backend takes no more.
        """
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    with view[sent:] as rest:
                        sent += self._socket.send(rest)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                except OSError as exc:
                    raise trio.BrokenResourceError(str(exc)) from exc

    async def receive_some(self, max_bytes: int) -> bytes:
        """Receive what has come; ``b""`` at the end.

        Raises:
            trio.BrokenResourceError: The connection broke.
        """
        while True:
            try:
                return self._socket.recv(max_bytes)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError as exc:
                raise trio.BrokenResourceError(str(exc)) from exc

    def send_eof(self) -> None:
        """Half-close: nothing more comes from us.

        Raises:
            trio.BrokenResourceError: The connection broke.
        """
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc

    async def wait_delivered(self) -> None:
        """Wait until the other end has taken what was sent, some seconds at most."""
        await wait_delivered(self._socket)

    def close(self) -> None:
        """Close the socket; tasks that wait for it are woken."""
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            reset_on_close(self._socket)
        self.close()
