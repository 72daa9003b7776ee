"""Closing a connection: what was sent before it arrives."""

from __future__ import annotations

import socket
import ssl

import trio
from support import credentials, each_version, raw_peer, tcp_pair

from trio_duplex import Role, negotiate

UPLOAD = bytes(range(256)) * 256
"""64 KiB: our kernel takes it all, and the peer's, which is given a small buffer, does not."""


@each_version
async def test_an_upload_arrives_though_we_read_nothing(version: ssl.TLSVersion) -> None:
    # A TLS 1.3 server's session tickets come after the handshake. Left unread they would turn our
    # close into a reset, at which the kernel drops what it has not sent yet.
    stream, peer = await tcp_pair()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(UPLOAD))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    handed_over = trio.Event()
    received = bytearray()

    async def be_silent() -> None:
        tls, incoming, _ = await raw_peer(peer, Role.SERVER, version)
        await handed_over.wait()
        while True:
            try:
                chunk = tls.read(65536)
            except ssl.SSLWantReadError:
                data = await peer.receive_some()
                assert data, "the stream ended without close_notify"
                incoming.write(data)
            else:
                if not chunk:  # the close_notify
                    return await peer.aclose()
                received.extend(chunk)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_silent)
            async with await negotiate(stream, credentials(version), window=0) as connection:
                await connection.send_all(UPLOAD)
                handed_over.set()
    assert received == UPLOAD
