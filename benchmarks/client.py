"""The load: dials, handshakes, echoes, holds and hangs up, with epoll in one thread.

Run by the benchmarks as ``python -m benchmarks.client FOLDER``; it takes one
command a line on standard input, as JSON, and answers each with one line.

It runs on the engine of ``trio-duplex load``. A peer here spends less than the
servers do: it verifies no certificate, and there is no framework around it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import pki, processes
from trio_duplex.cli._load.engine import (
    READ,
    Latencies,
    Loop,
    Peer,
    Start,
    Wait,
    client_hello,
    dial,
    new_poller,
    send,
    tls,
)

PORTS_PER_ADDRESS = 20_000
"""How many connections to dial from one loopback address; Linux has 28,000 ports."""

OWN_ADDRESS = 10 * PORTS_PER_ADDRESS
"""A number whose address is nobody else's. Where a crowd holds half the ports of one, each
connect(2) searches for a free one for 2 ms, and that would be taken for the server's."""

CHUNK = bytes(256 * 1024)
"""What bulk data is sent in: sixteen full TLS records."""


def dial_local(port: int, number: int = 0) -> Generator[Wait, None, socket.socket]:
    """Open a TCP connection on loopback, from an address that has ports left."""
    source = (f"127.0.0.{2 + number // PORTS_PER_ADDRESS}", 0)
    return dial(("127.0.0.1", port), source=source)


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
        self._poller = new_poller()  # now, while descriptors are few

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
            raw = yield from dial_local(port)
            with context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
                yield from tls(sock, sock.do_handshake)
                yield from part(sock)

        return self._run((one() for _ in range(count)), in_flight)

    # ------------------------------------------------------------------ data

    def exchanges(self, *, port: int, count: int, in_flight: int) -> dict[str, Any]:
        """Dial, handshake, send a byte and wait for its echo, close; so many times."""

        def one() -> Peer:
            with (yield from self._speak(port, "TLSv1_3")) as sock:
                yield from send(sock, b"x")
                yield from receive(sock, 1)
                yield from part(sock)

        return self._run((one() for _ in range(count)), in_flight)

    def echo(self, *, port: int, count: int, size: int) -> dict[str, Any]:
        """Send a message and wait for its echo, ``count`` times on one connection."""
        latencies = Latencies()
        message = bytes(size)

        def one() -> Peer:
            with (yield from self._speak(port, "TLSv1_3")) as sock:
                for _ in range(count):
                    started = time.monotonic()
                    yield from send(sock, message)
                    yield from receive(sock, size)
                    latencies.add(time.monotonic() - started)
                yield from part(sock)

        return self._run(iter([one()]), 1) | percentiles(latencies)

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
        """Dial ``rate`` times a second, and take the time from when it was due to the first echo."""
        latencies = Latencies()

        def one(due: float) -> Peer:
            with (yield from self._speak(port, "TLSv1_3", OWN_ADDRESS)) as sock:
                yield from send(sock, b"x")
                yield from receive(sock, 1)
                latencies.add(time.monotonic() - due)
                yield from part(sock)

        return self._run_at(rate, seconds, one) | percentiles(latencies)

    # ---------------------------------------------------------------- crowds

    def hold(
        self,
        *,
        port: int,
        count: int,
        state: str = "silent",
        in_flight: int = 100,
        after: int = 0,
    ) -> dict[str, Any]:
        """Dial and hold the connections in a state, until `release`.

        ``after`` says how many others hold already, so that they have their own ports.

        ``silent``: nothing was sent. ``handshaking``: a ClientHello was sent,
        and what comes in return is not answered. ``idle``: the handshake is
        done. ``used``: and one message has come back.
        """
        hello = client_hello(self._client["TLSv1_3"])

        def one(number: int) -> Peer:
            if state in {"idle", "used"}:
                sock: socket.socket = yield from self._speak(port, "TLSv1_3", number)
            else:
                sock = yield from dial_local(port, number)
            self._held.append(sock)
            if state == "handshaking":
                sock.send(hello)
            elif state == "used":
                assert isinstance(sock, ssl.SSLSocket)
                yield from send(sock, b"x")
                yield from receive(sock, 1)

        first = after + len(self._held)
        return self._run((one(first + number) for number in range(count)), in_flight)

    def release(self) -> dict[str, Any]:
        """Hang up on all that is held."""
        for sock in self._held:
            sock.close()
        self._held.clear()
        return {}

    def mute_at(self, *, port: int, rate: float, seconds: float) -> dict[str, Any]:
        """Dial ``rate`` times a second, say nothing ever, and stay until the server hangs up."""
        numbers = itertools.count()

        def one(_: float) -> Peer:
            with (yield from dial_local(port, next(numbers))) as sock:
                while True:
                    yield sock.fileno(), READ
                    if not sock.recv(4096):
                        return

        return self._run_at(rate, seconds, one)

    def garbage_at(self, *, port: int, rate: float, seconds: float) -> dict[str, Any]:
        """Dial ``rate`` times a second, send what is no TLS, and stay until the server hangs up."""

        def one(_: float) -> Peer:
            with (yield from dial_local(port)) as sock:
                sock.send(b"GET / HTTP/1.0\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    yield sock.fileno(), READ
                    while sock.recv(4096):
                        yield sock.fileno(), READ

        return self._run_at(rate, seconds, one)

    # ----------------------------------------------------------------- tools

    def _speak(
        self, port: int, version: str, number: int = 0
    ) -> Generator[Wait, None, ssl.SSLSocket]:
        raw = yield from dial_local(port, number)
        sock = self._client[version].wrap_socket(raw, do_handshake_on_connect=False)
        try:
            yield from tls(sock, sock.do_handshake)
        except BaseException:
            sock.close()
            raise
        return sock

    def _run(self, peers: Iterator[Peer], in_flight: int) -> dict[str, Any]:
        return self._account(lambda loop: loop.run(peers, in_flight))

    def _run_at(self, rate: float, seconds: float, start: Start) -> dict[str, Any]:
        starts = itertools.repeat(start, int(rate * seconds))
        return self._account(lambda loop: loop.run_at(rate, starts))

    def _account(self, run: Callable[[Loop], None]) -> dict[str, Any]:
        loop = Loop(poller=self._poller)
        started, cpu = time.monotonic(), time.process_time()
        run(loop)
        return {
            "seconds": time.monotonic() - started,
            "cpu": time.process_time() - cpu,
            "errors": dict(loop.errors),
        }


def receive(sock: ssl.SSLSocket, count: int) -> Generator[Wait, None, None]:
    """Receive so many bytes, and drop them."""
    buffer = bytearray(min(count, len(CHUNK)))
    while count:
        got = yield from tls(sock, partial(sock.recv_into, buffer, min(count, len(buffer))))
        if not got:
            raise ConnectionAbortedError(f"{count} bytes short")
        count -= got


def percentiles(latencies: Latencies) -> dict[str, float]:
    """Seconds at the percentiles that people ask for."""
    return {f"p{percent}": latencies.percentile(percent) for percent in (50, 90, 99)}


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
