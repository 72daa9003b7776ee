"""Trio's own tests of an open ``SSLStream``, from its installed package, run on a `Connection`.

The class that stands in the place of ``SSLStream`` there makes the handshake as `negotiate` does,
when it is first used. Left out are Trio's tests of what has no place here: a handshake that fails
within a send, attributes before the handshake, and renegotiation (by pyOpenSSL), which we refuse.
"""

from __future__ import annotations

import importlib
import ssl
import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peers import VERSIONS
from trio_duplex import Connection, Decision, Reason, Role
from trio_duplex._errors import HandshakeError
from trio_duplex._stream.settings import CLOSE_TIMEOUT, Settings
from trio_duplex._tls.flow import Flow
from trio_duplex._tls.handshake import Handshake

pytestmark = pytest.mark.slow


class Negotiated(trio.abc.Stream):
    """A `Connection` with the constructor and the lazy handshake of a ``trio.SSLStream``."""

    bare = False
    """Whether `Connection.tls` is asked for at once."""

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        server_side: bool = False,
        https_compatible: bool = False,
    ) -> None:
        self._transport = transport
        role = Role.SERVER if server_side else Role.CLIENT
        self._make = partial(Handshake, transport, context, role, server_hostname=server_hostname)
        self._decision = Decision(role, Reason.RULE, waited=0.0, window=0.0)
        self._https_compatible = https_compatible
        self._lock = trio.Lock()
        self._connection: Connection | None = None
        self.server_side = server_side

    async def open(self) -> Connection:
        if self._connection is None:
            async with self._lock:
                if self._connection is None:
                    self._connection = await self._negotiate()
        return self._connection

    async def _negotiate(self) -> Connection:
        handshake = self._make()
        received = b""
        try:
            if not self.server_side:
                await handshake.send(handshake.client_hello())
            received = await handshake.receive()
            await handshake.complete(received)
        except HandshakeError as exc:
            raise trio.BrokenResourceError from exc.__cause__
        await handshake.finish()
        flow = Flow(self._transport, handshake.engine, https_compatible=self._https_compatible)
        connection = Connection(
            flow,
            decision=self._decision,
            local_address=None,
            remote_address=None,
            settings=Settings(),
        )
        if self.bare:
            assert type(connection.tls) is trio.SSLStream
        return connection

    @property
    def transport_stream(self) -> trio.abc.Stream | None:
        flow = None if self._connection is None else self._connection._flow
        return None if flow is not None and flow.is_unwrapped else self._transport

    async def do_handshake(self) -> None:
        if self._connection is None:
            await self.open()
        elif self._connection._flow._closed:
            raise trio.ClosedResourceError
        else:
            await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await (await self.open()).receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await (await self.open()).send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        # An SSLStream makes no handshake here.
        await (self._connection or self._transport).wait_send_all_might_not_block()

    async def unwrap(self) -> tuple[trio.abc.Stream, bytes | bytearray]:
        return await (await self.open()).tls.unwrap()

    async def aclose(self) -> None:
        try:
            connection = await self.open()
        except BaseException:
            await trio.aclose_forcefully(self._transport)
            raise
        await connection.aclose()

    def get_channel_binding(self, kind: str = "tls-unique") -> bytes | None:
        assert self._connection is not None
        return self._connection.get_channel_binding(kind)

    def selected_alpn_protocol(self) -> str | None:
        assert self._connection is not None
        return self._connection.selected_alpn_protocol


class BareNegotiated(Negotiated):
    bare = True


IN_MEMORY = [
    "test_unwrap",
    "test_closing_nice_case",
    "test_send_all_fails_in_the_middle",
    "test_ssl_over_ssl",
    "test_ssl_bad_shutdown",
    "test_ssl_bad_shutdown_but_its_ok",
    "test_ssl_only_closes_stream_once",
    "test_ssl_https_compatibility_disagreement",
    "test_selected_alpn_protocol_when_not_set",
    "test_get_channel_binding_after_handshake",
]
OVER_SOCKETS = [
    "test_ssl_server_basics",
    "test_full_duplex_basics",
    "test_checkpoints",
    "test_send_all_empty_string",
]


@pytest.fixture(params=[Negotiated, BareNegotiated], ids=["direct", "bare"])
def trios(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Trio's module of tests, with our class in it."""
    if "OpenSSL" not in sys.modules:  # which it imports, for the tests that are left out here
        stand_in: Any = ModuleType("OpenSSL")
        stand_in.SSL = ModuleType("OpenSSL.SSL")
        monkeypatch.setitem(sys.modules, "OpenSSL", stand_in)
    module = importlib.import_module("trio._tests.test_ssl")
    monkeypatch.setattr(module, "SSLStream", request.param)
    return module


@pytest.fixture(params=VERSIONS, ids=["TLS1.2", "TLS1.3"])
def client_context(request: pytest.FixtureRequest, trios: ModuleType) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.options &= ~0x80  # OP_IGNORE_UNEXPECTED_EOF, as Trio has it
    trios.TRIO_TEST_CA.configure_trust(context)
    context.minimum_version = context.maximum_version = request.param
    return context


@pytest.mark.parametrize("name", IN_MEMORY)
async def test_in_memory(
    name: str,
    trios: ModuleType,
    client_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await getattr(trios, name)(client_context)


@pytest.mark.parametrize("https_compatible", [False, True])
async def test_generic(
    https_compatible: bool,
    trios: ModuleType,
    client_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await trios.test_SSLStream_generic(client_context, https_compatible)


@pytest.mark.parametrize("name", OVER_SOCKETS)
async def test_over_sockets(name: str, trios: ModuleType, client_context: ssl.SSLContext) -> None:
    with trio.fail_after(4 * CLOSE_TIMEOUT):
        await getattr(trios, name)(client_context)
