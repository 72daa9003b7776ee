"""The load: dials, handshakes, holds and hangs up, with epoll in one thread.

Run by the benchmarks as ``python -m benchmarks.client FOLDER``; it takes one
command a line on standard input, as JSON, and answers each with one line.

A peer is a generator that yields what it waits for. It spends less than the
servers do: it verifies no certificate, and there is no framework around it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import select
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import pki, processes

READ, WRITE = select.EPOLLIN, select.EPOLLOUT

T = TypeVar("T")

# What a peer waits for: a file descriptor, and an event on it.
Wait = tuple[int, int]
Peer = Generator[Wait, None, None]

PORTS_PER_ADDRESS = 20_000
"""How many connections to dial from one loopback address; Linux has 28,000 ports."""


class Loop:
    """Runs peers, so many at a time.

    Attributes:
        errors: How many peers ended in which exception.
    """

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self._epoll = select.epoll()
        self._waiting: dict[int, tuple[Peer, int]] = {}

    def run(self, peers: Iterator[Peer], in_flight: int) -> None:
        """Run all of them, ``in_flight`` at once."""
        for _ in range(in_flight):
            self._start_next(peers)
        while self._waiting:
            for fd, _ in self._epoll.poll():
                peer, event = self._waiting[fd]
                self._advance(peer, peers, (fd, event))

    def _start_next(self, peers: Iterator[Peer]) -> None:
        peer = next(peers, None)
        if peer is not None:
            self._advance(peer, peers, None)

    def _advance(self, peer: Peer, peers: Iterator[Peer], waited: Wait | None) -> None:
        try:
            fd, event = next(peer)
        except (StopIteration, OSError) as exc:
            if waited is not None:
                del self._waiting[waited[0]]
                # A peer that keeps its socket leaves; closing one does it too.
                with contextlib.suppress(FileNotFoundError, OSError):
                    self._epoll.unregister(waited[0])
            if isinstance(exc, OSError):
                self.errors[type(exc).__name__] += 1
            self._start_next(peers)
            return
        if waited is None:
            self._epoll.register(fd, event)
        elif event != waited[1]:
            self._epoll.modify(fd, event)
        self._waiting[fd] = (peer, event)


def dial(port: int, number: int = 0) -> Generator[Wait, None, socket.socket]:
    """Open a TCP connection, from an address that has ports left."""
    sock = socket.socket()
    try:
        sock.setblocking(False)  # noqa: FBT003 - the name of the method says what
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + number // PORTS_PER_ADDRESS}", 0))
        if sock.connect_ex(("127.0.0.1", port)):
            yield sock.fileno(), WRITE
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise ConnectionError(error, "could not dial")
    except BaseException:
        sock.close()
        raise
    return sock


def tls(sock: ssl.SSLSocket, function: Callable[[], T]) -> Generator[Wait, None, T]:
    """Call a method of a non-blocking TLS socket until it is done."""
    while True:
        try:
            return function()
        except ssl.SSLWantReadError:
            yield sock.fileno(), READ
        except ssl.SSLWantWriteError:
            yield sock.fileno(), WRITE


class Client:
    """Carries out the commands; the public methods are the commands.

    Args:
        folder: What `pki.make` filled.
    """

    def __init__(self, folder: Path) -> None:
        self._contexts = {
            # It verifies nothing: the load must be cheap.
            version: pki.context(folder, server=False, mutual=False, version=version)
            for version in ("TLSv1_2", "TLSv1_3")
        }
        self._held: list[socket.socket] = []

    def handshakes(
        self, *, port: int, count: int, in_flight: int, version: str = "TLSv1_3"
    ) -> dict[str, Any]:
        """Dial, handshake, exchange close_notify, hang up; so many times."""
        context = self._contexts[version]

        def one() -> Peer:
            raw = yield from dial(port)
            with context.wrap_socket(raw, do_handshake_on_connect=False) as sock:
                yield from tls(sock, sock.do_handshake)
                yield from tls(sock, sock.unwrap)

        return self._run((one() for _ in range(count)), in_flight)

    def hold(self, *, port: int, count: int, in_flight: int = 100) -> dict[str, Any]:
        """Dial in silence and hold the connections, until `release`."""

        def one(number: int) -> Peer:
            self._held.append((yield from dial(port, number)))

        first = len(self._held)
        return self._run((one(first + number) for number in range(count)), in_flight)

    def release(self) -> dict[str, Any]:
        """Hang up on all that is held."""
        for sock in self._held:
            sock.close()
        self._held.clear()
        return {}

    def _run(self, peers: Iterator[Peer], in_flight: int) -> dict[str, Any]:
        loop = Loop()
        started, cpu = time.monotonic(), time.process_time()
        loop.run(peers, in_flight)
        return {
            "seconds": time.monotonic() - started,
            "cpu": time.process_time() - cpu,
            "errors": dict(loop.errors),
        }


def main() -> None:
    """Answer commands until standard input ends."""
    processes.raise_file_limit()
    client = Client(Path(sys.argv[1]))
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        arguments = json.loads(line)
        answer = getattr(client, arguments.pop("do"))(**arguments)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
