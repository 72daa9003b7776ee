"""A peer that is TLS server and never sends anything: all that we gave it must arrive."""

from __future__ import annotations

import socket
import threading

import pytest
import trio

from tests.interop.harness import TIMEOUT, VERSIONS, Files, Version, python_context
from trio_duplex import Role, negotiate

pytestmark = pytest.mark.interop

UPLOAD = bytes(range(256)) * 256
"""64 KiB: our kernel takes it all, and the peer's, which is given a small buffer, does not."""


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_upload_arrives_though_we_read_nothing(files: Files, version: Version) -> None:
    # A TLS 1.3 server's session tickets come after the handshake. Left unread they would turn our
    # close into a reset, at which the kernel drops what it has not delivered yet.
    context = python_context(files, Role.SERVER, [version])
    handed_over = threading.Event()

    def be_silent(port: int) -> bytes:
        received = bytearray()
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
                assert handed_over.wait(TIMEOUT)
                while chunk := tls.recv(65536):
                    received += chunk
        return bytes(received)

    received: list[bytes] = []

    async def peer() -> None:
        received.append(await trio.to_thread.run_sync(be_silent, port))

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    _, port = listener.socket.getsockname()
    with trio.fail_after(TIMEOUT):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(peer)
            stream = await listener.accept()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(UPLOAD))
            async with await negotiate(stream, files.credentials, window=0) as connection:
                await connection.send_all(UPLOAD)
                handed_over.set()
    assert received == [UPLOAD]
