"""HTTP requests over a connection that is there already: `trio_duplex.httpcore`."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import h11
import httpcore
import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from tests.support.peers import credentials as listener_credentials
from tests.support.peers import each_version
from trio_duplex import Connection, Role, open_tcp_connection, serve_tcp
from trio_duplex.httpcore import ConnectionBackend
from trio_duplex.testing import open_connection_pair

pytestmark = pytest.mark.slow


DEVICE = "server.example"  # as the kit names the server's end


async def serve(connection: Connection, *, last: bool = False) -> None:
    """Answer each request with its target; hang up after the first if it is the ``last``."""
    http = h11.Connection(h11.SERVER)
    target = b""
    while True:
        event = http.next_event()
        while event is h11.NEED_DATA:
            http.receive_data(bytes(await connection.receive_some()))
            event = http.next_event()
        if isinstance(event, h11.Request):
            target = event.target
        elif isinstance(event, h11.EndOfMessage):
            head = h11.Response(status_code=200, headers=[("content-length", str(len(target)))])
            for part in (head, h11.Data(data=target), h11.EndOfMessage()):
                await connection.send_all(http.send(part) or b"")
            if last:
                await connection.aclose()
                return
            http.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed):
            return


@asynccontextmanager
async def open_pool(connection: Connection) -> AsyncIterator[httpcore.AsyncConnectionPool]:
    async with httpcore.AsyncConnectionPool(
        network_backend=ConnectionBackend(connection), max_connections=1
    ) as pool:
        yield pool


async def test_requests_go_over_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    pair = await open_connection_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, pair.server)
        async with open_pool(pair.client) as pool:
            for path in ("/one", "/two"):
                response = await pool.request("GET", f"https://{DEVICE}{path}")
                assert (response.status, response.content) == (200, path.encode())
        # `serve` would raise if the pool closed the connection without a close_notify.
    await pair.server.aclose()


async def test_over_tcp_it_notices_that_the_peer_has_left() -> None:
    """Between two requests nobody reads, so httpcore asks the socket."""
    left = trio.Event()
    failures: list[BaseException] = []

    async def handler(connection: Connection) -> None:
        async with open_pool(connection) as pool:
            host = connection.peer.names[0]
            assert (await pool.request("GET", f"https://{host}/x")).content == b"/x"
            await left.wait()
            with pytest.raises(httpcore.ConnectError, match="dial again") as info:
                await pool.request("GET", f"https://{host}/x")
            failures.append(info.value)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: serve_tcp(
                handler,
                0,
                listener_credentials(),
                host="127.0.0.1",
                window=0.05,
                raise_handler_errors=True,
                task_status=task_status,
            )
        )
        host, port = server.addresses[0]
        device = await open_tcp_connection(host, port, listener_credentials(), role=Role.SERVER)
        await serve(device, last=True)
        left.set()
        await server.drain(10)
    assert len(failures) == 1


class Together:
    """An ASGI application that answers no request before all have come."""

    def __init__(self, requests: int) -> None:
        self._missing = requests
        self._all_here = trio.Event()

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self._missing -= 1
        if not self._missing:
            self._all_here.set()
        await self._all_here.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


@each_version
@pytest.mark.parametrize(
    ("alpn", "spoken", "at_once"),
    [(("h2",), b"HTTP/2", 5), (("http/1.1",), b"HTTP/1.1", 1)],
    ids=["h2", "http/1.1"],
)
async def test_a_server_that_called_home_is_spoken_to_as_alpn_has_it(
    alpn: tuple[str, ...], spoken: bytes, at_once: int, version: ssl.TLSVersion
) -> None:
    """Hypercorn behind the device's end. With HTTP/2, five requests are under way at once."""
    credentials = listener_credentials(version, alpn=alpn)
    answers: dict[str, tuple[bytes, bytes]] = {}
    asked = trio.Event()

    async def handler(connection: Connection) -> None:
        host = connection.peer.names[0]

        async def ask(pool: httpcore.AsyncConnectionPool, path: str) -> None:
            response = await pool.request("GET", f"https://{host}{path}")
            answers[path] = (response.extensions["http_version"], response.content)

        async with httpcore.AsyncConnectionPool(
            network_backend=ConnectionBackend(connection), max_connections=1, http2=True
        ) as pool:
            for _ in range(2):  # the connection is kept
                async with trio.open_nursery() as nursery:
                    for number in range(at_once):
                        nursery.start_soon(ask, pool, f"/{number}")
        asked.set()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(
                    serve_tcp,
                    handler,
                    0,
                    credentials,
                    host="127.0.0.1",
                    window=0.05,
                    raise_handler_errors=True,
                )
            )
            host, port = server.addresses[0]
            device = await open_tcp_connection(host, port, credentials, role=Role.SERVER)
            app = ASGIWrapper(cast("ASGIFramework", Together(at_once)))
            tls = cast("trio.SSLStream[trio.SocketStream]", device.tls)
            await TCPServer(app, Config(), WorkerContext(None), {}, tls)
            await asked.wait()
            await server.drain(10)
    assert answers == {f"/{n}": (spoken, f"/{n}".encode()) for n in range(at_once)}


@pytest.mark.parametrize("url", ["https://other.example/", "https://127.0.0.1/"])
async def test_the_name_is_verified(url: str, autojump_clock: trio.testing.MockClock) -> None:
    pair = await open_connection_pair()
    async with open_pool(pair.client) as pool:
        with pytest.raises(httpcore.ConnectError, match="the peer is not"):
            await pool.request("GET", url)
    assert pair.client.bytes_sent == 0
    await pair.server.aclose()


async def test_http_urls_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    pair = await open_connection_pair()
    async with open_pool(pair.client) as pool:
        with pytest.raises(httpcore.UnsupportedProtocol, match="https"):
            await pool.request("GET", f"http://{DEVICE}/")
    assert pair.client.bytes_sent == 0
    await pair.server.aclose()


async def test_the_server_end_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    pair = await open_connection_pair()
    with pytest.raises(ValueError, match="TLS server"):
        ConnectionBackend(pair.server)
    await trio.aclose_forcefully(pair.server)
    await trio.aclose_forcefully(pair.client)


async def test_timeouts(autojump_clock: trio.testing.MockClock) -> None:
    pair = await open_connection_pair()
    async with open_pool(pair.client) as pool:
        started = trio.current_time()
        with pytest.raises(httpcore.ReadTimeout):
            await pool.request(
                "GET", f"https://{DEVICE}/", extensions={"timeout": {"read": 3, "write": 3}}
            )
        assert 3 <= trio.current_time() - started <= 4.1  # and a second to close
    await trio.aclose_forcefully(pair.server)


async def test_a_cut_is_a_read_error(autojump_clock: trio.testing.MockClock) -> None:
    pair = await open_connection_pair()

    async def cut() -> None:
        await pair.server.receive_some()
        await trio.aclose_forcefully(pair.server.tls.transport_stream)

    async with trio.open_nursery() as nursery, open_pool(pair.client) as pool:
        nursery.start_soon(cut)
        with pytest.raises(httpcore.ReadError):
            await pool.request("GET", f"https://{DEVICE}/")
    await trio.aclose_forcefully(pair.server)


async def test_facts_of_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    pair = await open_connection_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, pair.server)
        async with open_pool(pair.client) as pool:
            response = await pool.request("GET", f"https://{DEVICE}/")
            stream = response.extensions["network_stream"]
            assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert stream.get_extra_info("server_addr") == pair.client.remote_address
            assert stream.get_extra_info("client_addr") == pair.client.local_address
            assert stream.get_extra_info("no such thing") is None
    await pair.server.aclose()


def test_without_the_extra_the_error_names_it() -> None:
    code = (
        "import sys; sys.modules['httpcore'] = None\n"
        "try:\n    import trio_duplex.httpcore\n"
        "except ModuleNotFoundError as exc: print(exc)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install 'trio-duplex[http]'" in result.stdout
