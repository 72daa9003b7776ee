"""The servers in Python: the same three handlers over TLS, in each of the frameworks.

``python -m benchmarks.servers.python_server SUBJECT FOLDER`` prints its port.
Each server is what that framework's user would write: no more, no less.
"""

from __future__ import annotations

import _socket
import argparse
import asyncio
import gc
import json
import logging
import resource
import signal
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import pki, processes
from trio_duplex.cli._load.engine import Latencies

if TYPE_CHECKING:
    import trio

    import trio_duplex

BACKLOG = 4096
CHUNK = bytes(256 * 1024)


async def trio_echo(stream: trio.abc.Stream) -> None:
    """Send back what comes."""
    async for data in stream:
        await stream.send_all(data)


async def trio_sink(stream: trio.abc.Stream) -> None:
    """Drop what comes."""
    async for _ in stream:
        pass


async def trio_source(stream: trio.abc.Stream) -> None:
    """Send as many bytes as the first eight ask for."""
    request = b""
    while len(request) < 8:
        data = await stream.receive_some(8 - len(request))
        if not data:
            return
        request += data
    left = int.from_bytes(request, "big")
    while left:
        await stream.send_all(CHUNK[:left])
        left -= min(left, len(CHUNK))
    await trio_sink(stream)


class Stopwatch:
    """Times from accept(2) to handler, told in a line of JSON when SIGUSR2 comes.

    The handler has its authenticated stream then: where a framework makes the
    handshake only in the handler, the clock runs until that is done. It begins at the
    system call, because frameworks tell of it later, some after a pass of their scheduler.

    Args:
        timed: Whether to take times at all.
    """

    def __init__(self, *, timed: bool) -> None:
        self._called: deque[float] = deque()  # of connections that nobody has told of yet, in order
        self._accepted: dict[object, float] = {}
        self._seconds = Latencies()
        signal.signal(signal.SIGUSR2, lambda *_: self.tell())
        if timed:
            self._watch_calls()

    def _watch_calls(self) -> None:
        # Trio has kept `socket.socket.accept`, so a replacement of that would not be called; but it calls this.
        accept: Callable[[socket.socket], tuple[int, object]] = vars(_socket.socket)["_accept"]

        def timed(sock: socket.socket) -> tuple[int, object]:
            accepted = accept(sock)
            self._called.append(time.perf_counter())
            return accepted

        setattr(socket.socket, "_accept", timed)  # noqa: B010 - its type does not say that it is there

    def accepted(self, key: object) -> None:
        """The framework tells of the next connection."""
        self._accepted[key] = self._called.popleft()

    def handled(self, key: object) -> None:
        """Its handler begins."""
        self._seconds.add(time.perf_counter() - self._accepted.pop(key))

    def tell(self) -> None:
        """Print percentiles in seconds, and begin anew."""
        found = {f"p{percent}": self._seconds.percentile(percent) for percent in (50, 90, 99)}
        print(json.dumps(found), flush=True)
        self._seconds = Latencies()


TRIO_HANDLERS = {"echo": trio_echo, "sink": trio_sink, "source": trio_source}


def serve_duplex(options: argparse.Namespace) -> None:
    """trio_duplex."""
    import trio

    import trio_duplex

    async def main() -> None:
        folder = Path(options.folder)
        credentials = trio_duplex.Credentials.mutual(
            certificate_chain=folder / "node.pem",
            trust=folder / "ca.pem",
            session_tickets=options.tickets,
            allow_self=True,  # clients and servers of the benchmark share a certificate
        )
        if not options.mutual:
            admit_everybody(credentials)
        watch = Stopwatch(timed=options.timed)

        def observe(event: trio_duplex.events.Event) -> None:
            match event:
                case trio_duplex.events.Accepted(number=number):
                    watch.accepted(number)
                case trio_duplex.events.HandshakeCompleted(number=number):
                    watch.handled(number)
                case _:
                    pass

        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda task_status: trio_duplex.serve_listeners(
                    TRIO_HANDLERS[options.handler],
                    [trio.SocketListener(trio.socket.from_stdlib_socket(listen(options)))],
                    credentials,
                    window=options.window,
                    handshake_timeout=options.handshake_timeout,
                    limits=trio_duplex.Limits(**json.loads(options.limits)),
                    observers=[observe] if options.timed else [],
                    task_status=task_status,
                )
            )
            ready(server.addresses[0][1])

    trio.run(main)


def admit_everybody(credentials: trio_duplex.Credentials) -> None:
    """Ask for no certificate, and do not mind: what others measure, and no user can have."""
    from trio_duplex._trust.admission import Material

    async def admit(*_: object) -> None:
        pass

    credentials.server_context.verify_mode = ssl.CERT_NONE
    Material.admit = admit  # type: ignore[assignment,method-assign]


def serve_trio(options: argparse.Namespace) -> None:
    """As ``trio.serve_ssl_over_tcp`` does."""
    import trio

    watch = Stopwatch(timed=options.timed)

    class Timed(trio.abc.Listener["trio.SocketStream"]):
        def __init__(self, listener: trio.SocketListener) -> None:
            self.listener = listener

        async def accept(self) -> trio.SocketStream:
            stream = await self.listener.accept()
            watch.accepted(stream)
            return stream

        async def aclose(self) -> None:
            await self.listener.aclose()

    async def handler(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            async with stream:
                if options.timed:
                    await stream.do_handshake()
                    watch.handled(stream.transport_stream)
                await TRIO_HANDLERS[options.handler](stream)
        except trio.BrokenResourceError:
            pass

    async def main() -> None:
        sock = trio.socket.from_stdlib_socket(listen(options))
        raw = trio.SocketListener(sock)
        listener = trio.SSLListener(Timed(raw) if options.timed else raw, context(options))
        ready(sock.getsockname()[1])
        await trio.serve_listeners(handler, [listener])

    trio.run(main)


def serve_anyio(options: argparse.Namespace) -> None:
    """anyio's TLSListener, on Trio."""
    import anyio
    from anyio.abc import ByteStream, SocketAttribute
    from anyio.streams.tls import TLSListener

    async def echo(stream: ByteStream) -> None:
        async for data in stream:
            await stream.send(data)

    async def sink(stream: ByteStream) -> None:
        async for _ in stream:
            pass

    async def source(stream: ByteStream) -> None:
        left = int.from_bytes(await stream.receive(8), "big")
        while left:
            await stream.send(CHUNK[:left])
            left -= min(left, len(CHUNK))
        await sink(stream)

    handlers = {"echo": echo, "sink": sink, "source": source}

    async def handler(stream: ByteStream) -> None:
        try:
            async with stream:
                await handlers[options.handler](stream)
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            pass

    async def main() -> None:
        inner = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=BACKLOG)
        listener = TLSListener(inner, context(options))
        ready(inner.extra(SocketAttribute.local_port))
        await listener.serve(handler)

    anyio.run(main, backend="trio")


def serve_asyncio(options: argparse.Namespace) -> None:
    """``asyncio.start_server``."""
    asyncio.run(asyncio_main(options))


def serve_uvloop(options: argparse.Namespace) -> None:
    """``asyncio.start_server`` on uvloop."""
    import uvloop

    uvloop.run(asyncio_main(options))


async def asyncio_main(options: argparse.Namespace) -> None:
    """Serve with asyncio's streams."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
        while await reader.read(65536):
            pass

    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int.from_bytes(await reader.readexactly(8), "big")
        while left:
            writer.write(CHUNK[:left])
            await writer.drain()
            left -= min(left, len(CHUNK))
        await sink(reader, writer)

    handlers = {"echo": echo, "sink": sink, "source": source}

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handlers[options.handler](reader, writer)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass

    server = await asyncio.start_server(
        handler, "127.0.0.1", 0, ssl=context(options), backlog=BACKLOG, ssl_handshake_timeout=3600
    )
    ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def serve_backend(options: argparse.Namespace) -> None:
    """A plain echo, sink or source, for the subjects that only relay."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            self.left = 0
            self.paused = False

        def data_received(self, data: bytes) -> None:
            if options.handler == "echo":
                self.transport.write(data)
            elif options.handler == "source":
                self.left = int.from_bytes(data, "big")
                self.resume_writing()

        def pause_writing(self) -> None:
            self.paused = True

        def resume_writing(self) -> None:
            self.paused = False
            while self.left and not self.paused:
                piece = min(self.left, 256 * 1024)
                self.left -= piece
                self.transport.write(bytes(piece))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG)
        ready(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def listen(options: argparse.Namespace) -> socket.socket:
    """Listen on a port of our own, or on one that is shared."""
    shared = bool(options.port)
    return socket.create_server(("127.0.0.1", options.port), backlog=BACKLOG, reuse_port=shared)


def context(options: argparse.Namespace) -> ssl.SSLContext:
    """The same settings as `trio_duplex.Credentials.mutual` makes."""
    return pki.context(
        Path(options.folder), server=True, tickets=options.tickets, mutual=options.mutual
    )


def ready(port: int) -> None:
    """Tell the benchmark where we listen."""
    gc.collect()
    print(port, flush=True)


SERVERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "duplex": serve_duplex,
    "trio": serve_trio,
    "anyio": serve_anyio,
    "asyncio": serve_asyncio,
    "uvloop": serve_uvloop,
    "backend": serve_backend,
}


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("folder")
    parser.add_argument("--tickets", type=int, default=2)
    parser.add_argument("--one-way", dest="mutual", action="store_false")
    parser.add_argument("--window", type=float, default=5.0)
    parser.add_argument("--handshake-timeout", type=float, default=30.0)
    parser.add_argument("--handler", choices=TRIO_HANDLERS, default="echo")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", action="store_true")
    parser.add_argument(
        "--calm", action="store_true", help="collect garbage as docs/limits advises"
    )
    parser.add_argument(  # by default all peers come from one address
        "--limits", default='{"pending_per_address": Infinity}', help="trio_duplex.Limits, as JSON"
    )
    parser.add_argument("--files", type=int, default=0, help="ulimit -n; 0 for the most")
    parser.add_argument("--timed", action="store_true", help="tell times when SIGUSR2 comes")
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.INFO)
    processes.raise_file_limit()
    if options.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
    signal.signal(signal.SIGUSR1, lambda *_: gc.collect())
    if options.calm:
        gc.set_threshold(100_000, 50, 100)
    SERVERS[options.server](options)


if __name__ == "__main__":
    main()
