"""HTTP requests over a connection that was accepted: the extra ``http``.

A silent peer is a TLS server that dialled us. Where it speaks HTTP, the handler in the
client role sends it requests: `ConnectionBackend` gives httpcore the connection that is
already there, in place of one that it would dial.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import trio

from trio_duplex import Connection, NamedPeer, PeerRejectedError, Role

try:
    import httpcore
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        f"trio_duplex.httpcore needs {exc.name}: pip install 'trio-duplex[http]'", name=exc.name
    ) from exc

__all__ = ["ConnectionBackend"]


class ConnectionBackend(httpcore.AsyncNetworkBackend):
    """Lets httpcore send its requests over one connection, instead of dialling.

    Give it to an ``httpcore.AsyncConnectionPool`` with ``max_connections=1``, and ask for
    ``https://`` URLs whose host is a name in the peer's certificate. TLS is on already, so
    httpcore begins none; what it would have verified, the name, is verified here as
    `trio_duplex.NamedPeer` does it. ``http://`` URLs, of which nobody verifies anything, are
    refused. If ALPN selected ``h2``, httpcore speaks HTTP/2. It needs the package ``h2`` then, and
    sends several requests at once if the pool has ``http2=True``.

    The connection serves requests for as long as the peer keeps it open. When it has
    ended, a request raises ``httpcore.ConnectError``: the peer must dial again.

    Args:
        connection: An open connection on which we are the TLS client; the pool closes it.

    Raises:
        ValueError: We are the TLS server on the connection: then the peer sends requests.

    Example::

        async def ask(connection: trio_duplex.Connection) -> None:
            backend = ConnectionBackend(connection)
            async with httpcore.AsyncConnectionPool(
                network_backend=backend, max_connections=1
            ) as pool:
                host = connection.peer.dns_names[0]
                response = await pool.request("GET", f"https://{host}/state")
                print(response.status, response.content)
    """

    def __init__(self, connection: Connection) -> None:
        if connection.role is not Role.CLIENT:
            raise ValueError(
                "we are the TLS server on this connection, so the peer is who sends requests; "
                "serve it HTTP, or ask it to stay silent when it dials"
            )
        self._connection = connection
        self._used = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Hand out the connection, once; where it leads was settled when the peer dialled."""
        await trio.lowlevel.checkpoint()
        if self._used:
            raise httpcore.ConnectError(
                f"the connection of {self._connection.peer} has ended; the peer must dial again"
            )
        self._used = True
        return _Stream(self._connection)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Never: there is one connection, and it is here already."""
        raise httpcore.ConnectError("a connection that was accepted has no path to dial")

    async def sleep(self, seconds: float) -> None:
        """Sleep between retries of httpcore's."""
        await trio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """The connection, as httpcore uses a stream. `start_tls` only verifies the name."""

    def __init__(self, connection: Connection, *, verified: bool = False) -> None:
        self._connection = connection
        self._verified = verified

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _errors(httpcore.ReadTimeout, httpcore.ReadError), trio.fail_after(_seconds(timeout)):
            return bytes(await self._connection.receive_some(max_bytes))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not self._verified:
            raise httpcore.UnsupportedProtocol("ask for https://: this connection is TLS already")
        with (
            _errors(httpcore.WriteTimeout, httpcore.WriteError),
            trio.fail_after(_seconds(timeout)),
        ):
            await self._connection.send_all(buffer)

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        connection = self._connection
        try:
            NamedPeer(server_hostname or "")(
                connection.peer, connection.role, connection.remote_address
            )
        except (PeerRejectedError, ValueError) as exc:
            raise httpcore.ConnectError(
                f"the peer is not {server_hostname}, but {connection.peer}"
            ) from exc
        return _Stream(connection, verified=True)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - as httpcore has it
        connection = self._connection
        match info:
            case "ssl_object":
                return connection.tls  # which has the methods of the SSLObject within
            case "client_addr":
                return connection.local_address
            case "server_addr":
                return connection.remote_address
            case "socket":
                transport = connection.tls.transport_stream
                return transport.socket if isinstance(transport, trio.SocketStream) else None
            case "is_readable":  # asked between requests: a peer that speaks then has hung up
                trio_socket = self.get_extra_info("socket")
                return trio_socket is not None and trio_socket.is_readable()
            case _:
                return None


def _seconds(timeout: float | None) -> float:
    return math.inf if timeout is None else timeout


@contextmanager
def _errors(timeout: type[Exception], other: type[Exception]) -> Generator[None]:
    """Raise httpcore's errors for Trio's."""
    try:
        yield
    except trio.TooSlowError as exc:
        raise timeout(str(exc)) from exc
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise other(str(exc)) from exc
