"""A TLS peer that ends its own direction with a close_notify and goes on reading, in either role.

``trio.SSLStream`` can't: it has no ``send_eof``. OpenSSL can, in TLS 1.2 and 1.3.
"""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import trio

from tests.support.contexts import new_context
from trio_duplex import Role


def peer_context(folder: Path, role: Role) -> ssl.SSLContext:
    """The context of a peer that plays this role, with ``peer.pem`` and ``ca.pem`` of a folder."""
    context = new_context(role)
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "peer.pem", folder / "peer.key")
    return context


class HalfClosingPeer:
    """A connected peer."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext, role: Role) -> None:
        self.stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=role is Role.SERVER)

    @classmethod
    async def dial(cls, port: int, folder: Path, role: Role) -> HalfClosingPeer:
        """Connect, and shake hands in this role, which is the peer's."""
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        peer = cls(stream, peer_context(folder, role), role)
        try:
            await peer.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return peer

    @staticmethod
    def tls_client(folder: Path) -> tuple[ssl.SSLContext, Role]:
        """What makes a peer a TLS client."""
        return peer_context(folder, Role.CLIENT), Role.CLIENT

    async def do_handshake(self) -> None:
        """Shake hands."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
        await self._flush()

    async def send(self, data: bytes) -> None:
        """Send some data."""
        for start in range(0, len(data), 1 << 16):
            self.tls.write(data[start : start + (1 << 16)])
            await self._flush()

    async def send_end(self) -> None:
        """Send the close_notify; `receive` goes on."""
        # OpenSSL would look for the peer's close_notify here, and object to data that has come already.
        unread = self._incoming.read()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._incoming.write(unread)
        await self._flush()

    async def receive(self, most: int = 1 << 16) -> bytes:
        """Receive some data; ``b""`` is the peer's close_notify, and nothing else."""
        while True:
            try:
                return self.tls.read(most)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""

    async def receive_all(self) -> bytes:
        """Receive to the due end."""
        pieces: list[bytes] = []
        while data := await self.receive():
            pieces.append(data)
        return b"".join(pieces)

    async def receive_exactly(self, size: int) -> bytes:
        """Receive so many bytes."""
        found = b""
        while len(found) < size:
            data = await self.receive(size - len(found))
            assert data, f"ended after {len(found)} of {size} bytes"
            found += data
        return found

    async def aclose(self) -> None:
        """Close the socket, without another word."""
        await self.stream.aclose()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self.stream.send_all(data)

    async def _fill(self) -> None:
        data = await self.stream.receive_some(1 << 16)
        if not data:
            raise ConnectionResetError("the stream ended without a close_notify")
        self._incoming.write(data)
