"""Addresses as accept(2) tells them: `trio_duplex._sockets.accept`."""

from __future__ import annotations

import socket
import struct

import pytest
import trio

from trio_duplex._sockets.accept import Entrance


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05"])
async def test_a_peer_that_resets_before_it_is_accepted_has_its_address(said: bytes) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with socket.create_connection(listener.socket.getsockname()) as probe:
        probe.sendall(said)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        name = probe.getsockname()
    async with listener:
        with trio.fail_after(10), Entrance(listener) as entrance:
            sock, address = await entrance.accept()
        assert not isinstance(sock, trio.abc.Stream)
        sock.close()
    assert address == name


async def test_a_closed_listener() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await listener.aclose()
    with Entrance(listener) as entrance, pytest.raises(trio.ClosedResourceError):
        await entrance.accept()
