"""Where a stream's ends are: `trio_duplex._sockets.address`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from tests.support.peers import MemoryListener, memory_pair, reset, tcp_pair, unix_pair
from trio_duplex import HandshakeError
from trio_duplex._sockets.address import (
    Address,
    dialled,
    format_address,
    listener_address,
    local_address,
    remote_address,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_tcp(host: str) -> None:
    ours, theirs = await tcp_pair(host)
    async with ours, theirs:
        assert local_address(ours) == remote_address(theirs) == ours.socket.getsockname()
        assert remote_address(ours) == local_address(theirs) == theirs.socket.getsockname()
        address = remote_address(ours)
        assert address is not None
        assert len(address) == (2 if host == "127.0.0.1" else 4)
        assert address[0] == host


async def test_unix_socket(socket_folder: Path) -> None:
    path = str(socket_folder / "socket")
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    async with trio.SocketListener(sock) as listener:
        assert listener_address(listener) == path
        async with await trio.open_unix_socket(path) as dialled, await listener.accept() as stream:
            assert local_address(stream) == remote_address(dialled) == path
            assert remote_address(stream) is None  # the dialler's end has no name


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_address_of_a_listener_can_be_dialled(host: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        address = listener_address(listener)
        assert address == listener.socket.getsockname()[:2]
        assert isinstance(address, tuple)
        async with await trio.open_tcp_stream(*address), await listener.accept():
            pass


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("192.0.2.7", 80), ("192.0.2.7", 80)),
        (("2001:db8::1", 80, 0, 0), ("2001:db8::1", 80)),
        (("fe80::1", 80, 0, 2), ("fe80::1%2", 80)),
        (("fe80::1%eth0", 80, 0, 2), ("fe80::1%eth0", 80)),
        ("/run/node.socket", "/run/node.socket"),
        (None, None),
    ],
)
def test_form_for_dialling(address: Address | None, expected: tuple[str, int] | str | None) -> None:
    assert dialled(address) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="the abstract namespace is Linux's")
async def test_abstract_unix_socket() -> None:
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(b"\0trio_duplex-\xff-test")
    sock.listen()
    async with trio.SocketListener(sock) as listener:
        assert listener_address(listener) == r"@trio_duplex-\xff-test"


async def test_unnamed_socket_pair_has_no_addresses() -> None:
    ours, theirs = unix_pair()
    async with ours, theirs:
        assert local_address(ours) is None
        assert remote_address(ours) is None


async def test_closed_ones_have_no_addresses() -> None:
    ours, theirs = await tcp_pair()
    await ours.aclose()
    await theirs.aclose()
    assert local_address(ours) is None
    assert remote_address(ours) is None
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await listener.aclose()
    assert listener_address(listener) is None


async def test_a_reset_makes_the_kernel_forget_the_peer() -> None:
    ours, theirs = await tcp_pair()
    async with ours:
        reset(theirs)
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive_some()
        assert remote_address(ours) is None
        assert local_address(ours) is not None


async def test_other_streams_have_no_address() -> None:
    ours, theirs = memory_pair()
    assert local_address(ours) is remote_address(theirs) is None
    assert listener_address(MemoryListener()) is None


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.7", 80), "192.0.2.7:80"),
        (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80"),
        ("/run/node.socket", "/run/node.socket"),
        ("@name\n2026 ERROR \x1b[2J", "@name\\n2026 ERROR \\x1b[2J"),
        ("@\0\udcff\u202e", "@\\x00\\udcff\\u202e"),
        (None, None),
    ],
)
def test_format_address(address: Address | None, text: str | None) -> None:
    assert format_address(address) == text


def test_unprintable_names_are_escaped_in_errors() -> None:
    """Whoever dials picks the name of an abstract socket."""
    hostile = format_address("@\x1b]0;owned\x07\n")
    assert str(HandshakeError("failed", peer=hostile)).isprintable()
