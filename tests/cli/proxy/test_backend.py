"""Reaching a backend: names are resolved anew, so that one that moves is found."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from trio_duplex.cli._proxy.backend import BackendDownError, connect
from trio_duplex.cli._service.addresses import TcpAddress


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
                async with await connect([TcpAddress("backend.test", port)], timeout=5) as stream:
                    assert stream.socket.getpeername() == (address, port)


async def test_each_backend_that_is_down_is_told(names: Names) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens
        backend = TcpAddress("backend.test", bound.getsockname()[1])
        with pytest.raises(BackendDownError, match=r"backend\.test.*; backend\.test"):
            await connect([backend, backend], timeout=5)
