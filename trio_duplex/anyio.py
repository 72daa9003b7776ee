"""A connection as an AnyIO stream: the extra ``anyio``.

For code that is written for AnyIO and runs on Trio, such as a handler that takes an
``anyio.abc.ByteStream``. Errors are AnyIO's, and the extra attributes are those that
AnyIO's own TLS streams have, and three of ours.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from trio_duplex import Connection, Decision, PeerIdentity

try:
    from anyio import (
        BrokenResourceError,
        BusyResourceError,
        ClosedResourceError,
        EndOfStream,
        TypedAttributeSet,
        typed_attribute,
    )
    from anyio.abc import ByteStream, SocketAttribute
    from anyio.streams.tls import TLSAttribute
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        f"trio_duplex.anyio needs {exc.name}: pip install 'trio-duplex[anyio]'", name=exc.name
    ) from exc

__all__ = ["ConnectionAttribute", "ConnectionStream"]


class ConnectionAttribute(TypedAttributeSet):
    """What a `ConnectionStream` tells beside AnyIO's socket and TLS attributes.

    Attributes:
        connection: The `trio_duplex.Connection` underneath.
        decision: The role taken, why, and how long it took.
        peer: Who the peer's certificate says it is; absent for an anonymous peer.
    """

    connection: Connection = typed_attribute()
    decision: Decision = typed_attribute()
    peer: PeerIdentity = typed_attribute()


class ConnectionStream(ByteStream):
    """A `trio_duplex.Connection` as an ``anyio.abc.ByteStream``. It needs Trio underneath.

    Sending and receiving are the connection's own, with its timeouts, and so is closing.
    A peer that ends without a close_notify is an ``anyio.BrokenResourceError``, not the end
    of the stream. Every error has the connection's own error as its ``__cause__``: a
    `trio_duplex.CertificateRejectedError`, for example.

    The extra attributes are those of `ConnectionAttribute`, and of
    ``anyio.streams.tls.TLSAttribute`` all but ``ssl_object`` and ``shared_ciphers``. Over
    TCP there are those of ``anyio.abc.SocketAttribute``, too.

    Args:
        connection: An open connection; the stream is its owner from now on.

    Example::

        async def handler(connection: trio_duplex.Connection) -> None:
            stream = ConnectionStream(connection)
            print(stream.extra(ConnectionAttribute.decision))
            async for chunk in stream:
                await stream.send(chunk)

        await trio_duplex.serve_tcp(handler, 8443, credentials)
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one byte.

        Args:
            max_bytes: The most to return, in bytes.

        Raises:
            anyio.EndOfStream: The peer has ended the stream with a close_notify.
            anyio.BrokenResourceError: Nothing more can come.
            anyio.ClosedResourceError: The connection was closed here.
            anyio.BusyResourceError: Another task is receiving.
            ValueError: ``max_bytes`` is less than 1.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
        with _anyio_errors("receiving from"):
            data = await self._connection.receive_some(max_bytes)
        if not data:
            raise EndOfStream
        return bytes(data)

    async def send(self, item: bytes) -> None:
        """Send all of the bytes.

        Raises:
            anyio.BrokenResourceError: The connection is broken.
            anyio.ClosedResourceError: The connection was closed here, or
                `send_eof` was called.
            anyio.BusyResourceError: Another task is sending.
        """
        with _anyio_errors("sending to"):
            await self._connection.send_all(item)

    async def send_eof(self) -> None:
        """Send a close_notify: nothing more comes from us. Receiving goes on.

        Raises:
            anyio.BrokenResourceError: The connection is broken.
            anyio.ClosedResourceError: The connection was closed here.
            anyio.BusyResourceError: Another task is sending.
        """
        with _anyio_errors("sending to"):
            await self._connection.send_eof()

    async def aclose(self) -> None:
        """Close as `trio_duplex.Connection.aclose` does: with a close_notify, in bounded time."""
        await self._connection.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """What ``extra()`` finds."""
        connection, tls = self._connection, self._connection.tls
        found: dict[Any, Callable[[], Any]] = {
            ConnectionAttribute.connection: lambda: connection,
            ConnectionAttribute.decision: lambda: connection.decision,
            TLSAttribute.alpn_protocol: tls.selected_alpn_protocol,
            TLSAttribute.channel_binding_tls_unique: tls.get_channel_binding,
            TLSAttribute.cipher: tls.cipher,
            # pyright takes the attribute for a value of its type, which is what it becomes.
            TLSAttribute.peer_certificate: tls.getpeercert,  # pyright: ignore[reportUnhashable]
            TLSAttribute.peer_certificate_binary: lambda: tls.getpeercert(binary_form=True),
            TLSAttribute.server_side: lambda: connection.role.name == "SERVER",
            TLSAttribute.standard_compatible: lambda: True,
            TLSAttribute.tls_version: tls.version,
        }
        if not connection.is_anonymous:
            found[ConnectionAttribute.peer] = lambda: connection.peer
        transport = tls.transport_stream
        if isinstance(transport, trio.SocketStream):
            found |= _socket_attributes(transport)
        return found


def _socket_attributes(transport: trio.SocketStream) -> dict[Any, Callable[[], Any]]:
    trio_socket = transport.socket

    def address(name: tuple[Any, ...] | str) -> tuple[Any, ...] | str:
        return name[:2] if isinstance(name, tuple) else name

    found: dict[Any, Callable[[], Any]] = {
        SocketAttribute.family: lambda: trio_socket.family,
        SocketAttribute.local_address: lambda: address(trio_socket.getsockname()),
        SocketAttribute.remote_address: lambda: address(trio_socket.getpeername()),
    }
    if trio_socket.family in (socket.AF_INET, socket.AF_INET6):
        found[SocketAttribute.local_port] = lambda: trio_socket.getsockname()[1]
        found[SocketAttribute.remote_port] = lambda: trio_socket.getpeername()[1]
    return found


@contextmanager
def _anyio_errors(doing: str) -> Generator[None]:
    """Raise AnyIO's error for each of Trio's."""
    try:
        yield
    except trio.BusyResourceError as exc:
        raise BusyResourceError(doing) from exc
    except trio.ClosedResourceError as exc:
        raise ClosedResourceError(*exc.args) from exc
    except (trio.BrokenResourceError, ssl.SSLError) as exc:
        raise BrokenResourceError(str(exc)) from exc
