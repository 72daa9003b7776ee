"""``trio-duplex echo``, as a user runs it: what comes is sent back, and each peer has its line."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.command import Command, run_command
from tests.support.contexts import new_context
from tests.support.half_closing import HalfClosingPeer, peer_context
from tests.support.patience import window_for
from trio_duplex import Role

pytestmark = pytest.mark.slow


@asynccontextmanager
async def run_echo(
    credentials: list[str], *options: object, role: Role = Role.CLIENT
) -> AsyncIterator[tuple[Command, int]]:
    """Start it, for peers of this role; give it and its port."""
    window = window_for(role)
    arguments = ["--listen", "127.0.0.1:0", "--window", window, *credentials, *options]
    async with run_command("echo", *arguments) as command:
        ((_, port),) = await command.addresses()
        yield command, port


@pytest.mark.parametrize("role", list(Role), ids="peer is TLS {}".format)
async def test_echo_in_both_roles(folder: Path, credentials: list[str], role: Role) -> None:
    async with run_echo(credentials, role=role) as (command, port):
        peer = await HalfClosingPeer.dial(port, folder, role)
        try:
            await peer.send(b"hello")
            await peer.send_end()
            assert await peer.receive_all() == b"hello"
        finally:
            await peer.aclose()
        reason = "spoke" if role is Role.CLIENT else "silent"
        await command.line("connected", f"role={role.other}", f"reason={reason}", "peer.example")
        assert await command.stop() == 0


async def test_a_window_by_policy(folder: Path, credentials: list[str]) -> None:
    async with run_echo(credentials, "--window", "silent") as (command, port):
        peer = await HalfClosingPeer.dial(port, folder, Role.SERVER)
        try:
            await peer.send(b"hello")
            await peer.send_end()
            assert await peer.receive_all() == b"hello"
        finally:
            await peer.aclose()
        await command.line("connected", "role=client", "reason=rule")
        assert await command.stop() == 0


async def test_each_refusal_has_its_line(folder: Path, credentials: list[str]) -> None:
    async with run_echo(credentials) as (command, port):
        own = peer_context(folder, Role.CLIENT)
        own.load_cert_chain(folder / "node.pem", folder / "node.key")
        without = new_context(Role.CLIENT)
        without.load_verify_locations(folder / "ca.pem")
        for number, (context, error) in enumerate(
            [(own, "SelfConnectionError"), (without, "HandshakeError")], start=1
        ):
            stream = trio.SSLStream(
                await trio.open_tcp_stream("127.0.0.1", port), context, https_compatible=True
            )
            try:
                with contextlib.suppress(trio.BrokenResourceError):  # an alert, or a due end
                    await stream.do_handshake()
                    assert await stream.receive_some() == b""
            finally:
                await trio.aclose_forcefully(stream)
            await command.line("failed", f"number={number}", f"error={error}")
        async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
            await plain.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await command.line("failed", "error=NotTLSError", "HTTP")
