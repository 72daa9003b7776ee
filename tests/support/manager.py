"""A service manager such as systemd, as far as a service tells it how it is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import trio

from tests.support.command import PATIENCE
from tests.support.folders import short_folder

READY = "READY=1"


class Manager:
    """A socket at which notifications arrive.

    Attributes:
        address: What a service is told as ``NOTIFY_SOCKET``.
    """

    def __init__(self, address: str, sock: socket.socket) -> None:
        self.address = address
        self._raw = sock
        self._sock = trio.socket.from_stdlib_socket(sock)

    @classmethod
    @contextlib.contextmanager
    def listening(cls, *, abstract: bool = False) -> Iterator[Manager]:
        """Listen at a path, or at an abstract name, which Linux gives to every user."""
        with contextlib.ExitStack() as stack:
            name = str(stack.enter_context(short_folder()) / "notify")
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            sock.bind(f"\0{name}" if abstract else name)
            sock.setblocking(False)
            yield cls(f"@{name}" if abstract else name, sock)

    def forget(self) -> None:
        """Throw away what has arrived so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._raw.recv(4096)

    async def told(self, *words: str) -> list[str]:
        """Wait for a datagram with all these words; give its lines."""
        with trio.fail_after(PATIENCE):
            while True:
                lines = (await self._sock.recv(4096)).decode().split("\n")
                if all(any(word in line for line in lines) for word in words):
                    return lines
