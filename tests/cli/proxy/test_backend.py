"""Reaching a backend: names are resolved anew, so that one that moves is found."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.ports import held_port
from trio_duplex.cli._proxy.backend import BackendDownError, connect
from trio_duplex.cli._service.addresses import TcpAddress, UnixAddress

pytestmark = pytest.mark.slow


class Names(trio.abc.HostnameResolver):
    """Resolves every name to one address, which a test may change."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Give the address."""
        place = (self.address, int(port))
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place)]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        """Nobody asks."""
        raise NotImplementedError


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    made = Names()
    before = trio.socket.set_custom_hostname_resolver(made)
    yield made
    trio.socket.set_custom_hostname_resolver(before)


async def test_a_backend_whose_name_moves_is_found(names: Names) -> None:
    with socket.create_server(("127.0.0.1", 0)) as old:
        port = old.getsockname()[1]
        with socket.create_server(("127.0.0.2", port)):
            for address in ("127.0.0.1", "127.0.0.2"):
                names.address = address
                with await connect([TcpAddress("backend.test", port)], timeout=60) as connected:
                    assert connected.getpeername() == (address, port)
                    assert not connected.getblocking()


async def test_each_backend_that_is_down_is_told(names: Names) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens
        backend = TcpAddress("backend.test", bound.getsockname()[1])
        with pytest.raises(BackendDownError, match=r"backend\.test.*; backend\.test"):
            await connect([backend, backend], timeout=60)


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
async def test_an_ip_address_is_dialled_and_not_looked_up(
    names: Names, family: socket.AddressFamily, host: str
) -> None:
    names.address = "192.0.2.1"  # where nobody is
    with held_port(host) as port:
        with socket.create_server((host, port), family=family):
            with await connect([TcpAddress(host, port)], timeout=60) as connected:
                assert connected.getpeername()[:2] == (host, port)
                assert not connected.getblocking()
        with pytest.raises(BackendDownError, match="refused"):
            await connect([TcpAddress(host, port)], timeout=60)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets")
async def test_a_unix_socket(socket_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(socket_folder / "backend"))
        listening.listen()
        backend = UnixAddress(str(socket_folder / "backend"))
        with await connect([backend], timeout=60) as connected:
            assert connected.getpeername() == backend.path
            assert not connected.getblocking()


async def test_a_backend_that_does_not_answer(names: Names) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with contextlib.ExitStack() as held:
            for _ in range(4):  # its backlog is full: the kernel drops what comes
                waiting = held.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
            with pytest.raises(BackendDownError, match="did not answer within"):
                await connect([TcpAddress(*address)], timeout=0.2)
