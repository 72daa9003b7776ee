"""The load: dials, handshakes, echoes, holds and hangs up, with epoll in one thread.

Run by the benchmarks as ``python -m benchmarks.client FOLDER``; it takes one
command a line on standard input, as JSON, and answers each with one line.

A peer is a generator that yields what it waits for. It spends less than the
servers do: it verifies no certificate, and there is no framework around it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import select
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hdrh.histogram import HdrHistogram

from benchmarks import pki, processes

READ, WRITE = select.EPOLLIN, select.EPOLLOUT

T = TypeVar("T")

# What a peer waits for: a file descriptor, and an event on it.
Wait = tuple[int, int]
Peer = Generator[Wait, None, None]

PORTS_PER_ADDRESS = 20_000
"""How many connections to dial from one loopback address; Linux has 28,000 ports."""

CHUNK = bytes(256 * 1024)
"""What bulk data is sent in: sixteen full TLS records."""


class Loop:
    """Runs peers: so many at a time, or at a given rate.

    Attributes:
        errors: How many peers ended in which exception.
    """

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self._epoll = select.epoll()
        self._waiting: dict[int, tuple[Peer, int]] = {}

    def run(self, peers: Iterator[Peer], in_flight: int) -> None:
        """Run all of them, ``in_flight`` at once."""
        for peer in itertools.islice(peers, in_flight):
            self._start(peer)
        while self._waiting:
            for ended in self._poll(None):
                for peer in itertools.islice(peers, ended):
                    self._start(peer)

    def run_at(self, rate: float, peers: Iterator[Peer]) -> None:
        """Start ``rate`` of them a second, whether the earlier ones are done or not."""
        started = time.monotonic()
        for number, peer in enumerate(peers):
            due = started + number / rate
            while (left := due - time.monotonic()) > 0:
                list(self._poll(left))
            self._start(peer)
        while self._waiting:
            list(self._poll(None))

    def _poll(self, timeout: float | None) -> Iterator[int]:
        for fd, _ in self._epoll.poll(timeout):
            if fd in self._waiting:
                peer, event = self._waiting[fd]
                yield self._advance(peer, (fd, event))

    def _start(self, peer: Peer) -> None:
        self._advance(peer, None)

    def _advance(self, peer: Peer, waited: Wait | None) -> int:
        """Let a peer go on; tell how many peers ended by it (none or one)."""
        try:
            fd, event = next(peer)
        except (StopIteration, OSError) as exc:
            if waited is not None:
                del self._waiting[waited[0]]
                # Closing a socket does it too, but some peers keep theirs.
                with contextlib.suppress(OSError):
                    self._epoll.unregister(waited[0])
            if isinstance(exc, OSError):
                self.errors[type(exc).__name__] += 1
            return 1
        if waited is None:
            self._epoll.register(fd, event)
        elif event != waited[1]:
            self._epoll.modify(fd, event)
        self._waiting[fd] = (peer, event)
        return 0


def dial(port: int, number: int = 0) -> Generator[Wait, None, socket.socket]:
    """Open a TCP connection, from an address that has ports left."""
    sock = socket.socket()
    try:
        sock.setblocking(False)  # noqa: FBT003 - the name of the method says what
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + number // PORTS_PER_ADDRESS}", 0))
        if sock.connect_ex(("127.0.0.1", port)):
            yield sock.fileno(), WRITE
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise ConnectionError(error, "could not dial")
    except BaseException:
        sock.close()
        raise
    return sock


IP_BIND_ADDRESS_NO_PORT = 24
"""Linux: choose the port when dialling, when the far end is known. Python names it from 3.12 on."""


def tls(sock: ssl.SSLSocket, function: Callable[[], T]) -> Generator[Wait, None, T]:
    """Call a method of a non-blocking TLS socket until it is done."""
    while True:
        try:
            return function()
        except ssl.SSLWantReadError:
            yield sock.fileno(), READ
        except ssl.SSLWantWriteError:
            yield sock.fileno(), WRITE


def part(sock: ssl.SSLSocket) -> Peer:
    """Exchange close_notify; who hangs up in return, as many do, has parted too."""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        yield from tls(sock, sock.unwrap)


class Client:
    """Carries out the commands; the public methods are the commands.

    Args:
        folder: What `pki.make` filled.
    """

    def __init__(self, folder: Path) -> None:
        # It verifies nothing: the load must be cheap.
        self._client, self._server = (
            {
                version: pki.context(
                    folder, server=server, mutual=False, tickets=0, version=version
                )
                for version in ("TLSv1_2", "TLSv1_3")
            }
            for server in (False, True)
        )
        self._held: list[socket.socket] = []

    # ------------------------------------------------------------ handshakes

    def handshakes(
        self, *, port: int, count: int, in_flight: int, version: str = "TLSv1_3"
    ) -> dict[str, Any]:
        """Dial, handshake, exchange close_notify, hang up; so many times."""

        def one() -> Peer:
            with (yield from self._speak(port, version)) as sock:
                yield from part(sock)

        return self._run((one() for _ in range(count)), in_flight)

    def silent_handshakes(
        self, *, port: int, count: int, in_flight: int, version: str = "TLSv1_3"
    ) -> dict[str, Any]:
        """Dial in silence, answer as TLS server, exchange close_notify, hang up."""
        context = self._server[version]

        def one() -> Peer:
            raw = yield from dial(port)
            with context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
                yield from tls(sock, sock.do_handshake)
                yield from part(sock)

        return self._run((one() for _ in range(count)), in_flight)

    # ------------------------------------------------------------------ data

    def echo(self, *, port: int, count: int, size: int) -> dict[str, Any]:
        """Send a message and wait for its echo, ``count`` times on one connection."""
        histogram = new_histogram()
        message = bytes(size)

        def one() -> Peer:
            with (yield from self._speak(port, "TLSv1_3")) as sock:
                for _ in range(count):
                    started = time.monotonic()
                    yield from send(sock, message)
                    yield from receive(sock, size)
                    record(histogram, started)
                yield from part(sock)

        return self._run(iter([one()]), 1) | percentiles(histogram)

    def send_bulk(self, *, port: int, size: int, version: str) -> dict[str, Any]:
        """Send ``size`` bytes to a server that drops them, and wait until it has them all."""

        def one() -> Peer:
            with (yield from self._speak(port, version)) as sock:
                for _ in range(size // len(CHUNK)):
                    yield from send(sock, CHUNK)
                yield from part(sock)

        return self._run(iter([one()]), 1)

    def receive_bulk(self, *, port: int, size: int, version: str) -> dict[str, Any]:
        """Ask a server for ``size`` bytes, in eight, and take them."""

        def one() -> Peer:
            with (yield from self._speak(port, version)) as sock:
                yield from send(sock, size.to_bytes(8, "big"))
                yield from receive(sock, size)
                yield from part(sock)

        return self._run(iter([one()]), 1)

    def speak_at(self, *, port: int, rate: float, seconds: float) -> dict[str, Any]:
        """Dial ``rate`` times a second, and take the time from there to the first echo."""
        histogram = new_histogram()

        def one() -> Peer:
            started = time.monotonic()
            with (yield from self._speak(port, "TLSv1_3")) as sock:
                yield from send(sock, b"x")
                yield from receive(sock, 1)
                record(histogram, started)
                yield from part(sock)

        peers = (one() for _ in range(int(rate * seconds)))
        return self._run_at(rate, peers) | percentiles(histogram)

    # ---------------------------------------------------------------- crowds

    def hold(
        self, *, port: int, count: int, state: str = "silent", in_flight: int = 100
    ) -> dict[str, Any]:
        """Dial and hold the connections in a state, until `release`.

        ``silent``: nothing was sent. ``handshaking``: a ClientHello was sent,
        and what comes in return is not answered. ``idle``: the handshake is
        done. ``used``: and one message has come back.
        """
        hello = client_hello(self._client["TLSv1_3"])

        def one(number: int) -> Peer:
            if state in {"idle", "used"}:
                sock: socket.socket = yield from self._speak(port, "TLSv1_3", number)
            else:
                sock = yield from dial(port, number)
            self._held.append(sock)
            if state == "handshaking":
                sock.send(hello)
            elif state == "used":
                assert isinstance(sock, ssl.SSLSocket)
                yield from send(sock, b"x")
                yield from receive(sock, 1)

        first = len(self._held)
        return self._run((one(first + number) for number in range(count)), in_flight)

    def release(self) -> dict[str, Any]:
        """Hang up on all that is held."""
        for sock in self._held:
            sock.close()
        self._held.clear()
        return {}

    def mute_at(self, *, port: int, rate: float, seconds: float) -> dict[str, Any]:
        """Dial ``rate`` times a second, say nothing ever, and stay until the server hangs up."""

        def one(number: int) -> Peer:
            with (yield from dial(port, number)) as sock:
                while True:
                    yield sock.fileno(), READ
                    if not sock.recv(4096):
                        return

        return self._run_at(rate, (one(number) for number in range(int(rate * seconds))))

    def garbage_at(self, *, port: int, rate: float, seconds: float) -> dict[str, Any]:
        """Dial ``rate`` times a second, send what is no TLS, and stay until the server hangs up."""

        def one() -> Peer:
            with (yield from dial(port)) as sock:
                sock.send(b"GET / HTTP/1.0\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    yield sock.fileno(), READ
                    while sock.recv(4096):
                        yield sock.fileno(), READ

        return self._run_at(rate, (one() for _ in range(int(rate * seconds))))

    # ----------------------------------------------------------------- tools

    def _speak(
        self, port: int, version: str, number: int = 0
    ) -> Generator[Wait, None, ssl.SSLSocket]:
        raw = yield from dial(port, number)
        sock = self._client[version].wrap_socket(raw, do_handshake_on_connect=False)
        try:
            yield from tls(sock, sock.do_handshake)
        except BaseException:
            sock.close()
            raise
        return sock

    def _run(self, peers: Iterator[Peer], in_flight: int) -> dict[str, Any]:
        return self._account(lambda loop: loop.run(peers, in_flight))

    def _run_at(self, rate: float, peers: Iterator[Peer]) -> dict[str, Any]:
        return self._account(lambda loop: loop.run_at(rate, peers))

    @staticmethod
    def _account(run: Callable[[Loop], None]) -> dict[str, Any]:
        loop = Loop()
        started, cpu = time.monotonic(), time.process_time()
        run(loop)
        return {
            "seconds": time.monotonic() - started,
            "cpu": time.process_time() - cpu,
            "errors": dict(loop.errors),
        }


def send(sock: ssl.SSLSocket, data: bytes) -> Generator[Wait, None, None]:
    """Send all of it."""
    sent = 0
    while sent < len(data):
        sent += yield from tls(sock, partial(sock.send, memoryview(data)[sent:]))


def receive(sock: ssl.SSLSocket, count: int) -> Generator[Wait, None, None]:
    """Receive so many bytes, and drop them."""
    buffer = bytearray(min(count, len(CHUNK)))
    while count:
        got = yield from tls(sock, partial(sock.recv_into, buffer, min(count, len(buffer))))
        if not got:
            raise ConnectionAbortedError(f"{count} bytes short")
        count -= got


def client_hello(context: ssl.SSLContext) -> bytes:
    """A ClientHello, as bytes."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def new_histogram() -> HdrHistogram:
    """One for latencies in microseconds, up to a minute, to three digits."""
    return HdrHistogram(1, 60_000_000, 3)


def record(histogram: HdrHistogram, started: float) -> None:
    """Note how long ago something started."""
    histogram.record_value(max(1, round(1e6 * (time.monotonic() - started))))


def percentiles(histogram: HdrHistogram) -> dict[str, float]:
    """Seconds at the percentiles that people ask for."""
    return {
        f"p{percentile}": histogram.get_value_at_percentile(percentile) / 1e6
        for percentile in (50, 90, 99)
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
