"""`trio-duplex proxy`, as a user runs it: real backends, real peers in both roles, OpenSSL's among them."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.command import PATIENCE, Command, complete_command, run_command
from tests.support.half_closing import HalfClosingPeer
from tests.support.patience import window_for
from tests.support.tools import require_tool
from trio_duplex import Role

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("role", list(Role), ids="peer is TLS {}".format)
TEN_MEGABYTES = 10 << 20

Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def digest_then_data(stream: trio.SocketStream) -> None:
    """A backend that reads to the end, and answers with the hash and as much again."""
    found = hashlib.sha256()
    size = 0
    async for data in stream:
        found.update(data)
        size += len(data)
    await stream.send_all(found.digest() + bytes(size))


@asynccontextmanager
async def backend(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """A backend on loopback; gives its port."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, handler, port, host="127.0.0.1")
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def run_proxy(
    credentials: list[str], *options: object, role: Role = Role.CLIENT, fresh: bool = False
) -> AsyncIterator[tuple[Command, int]]:
    """Start it, for peers of this role; give it and its port."""
    window = window_for(role)
    arguments = ["--listen", "127.0.0.1:0", "--window", window, *credentials, *options]
    async with run_command("proxy", *arguments, fresh=fresh) as command:
        ((_, port),) = await command.addresses()
        yield command, port


async def ask(port: int, folder: Path, role: Role, data: bytes = b"") -> bytes:
    """Send data and the end; give the answer, to its due end."""
    peer = await HalfClosingPeer.dial(port, folder, role)
    try:
        await peer.send(data)
        await peer.send_end()
        return await peer.receive_all()
    finally:
        await peer.aclose()


class Listening:
    """A backend that reads to the end.

    Attributes:
        heard: What it has read.
        ends: How each connection ended: ``"end"``, or ``"cut"`` by a reset.
        done: Set when a connection has ended.
    """

    def __init__(self) -> None:
        self.heard = bytearray()
        self.ends: list[str] = []
        self.done = trio.Event()

    async def __call__(self, stream: trio.SocketStream) -> None:
        try:
            async for data in stream:
                self.heard.extend(data)
            self.ends.append("end")
        except trio.BrokenResourceError:
            self.ends.append("cut")
        self.done.set()


async def say(text: bytes, stream: trio.SocketStream) -> None:
    """A backend that says its text, and waits for the end."""
    await stream.send_all(text)
    async for _ in stream:
        pass


# ------------------------------------------------------------------------------------------------ data


@BOTH
async def test_ten_megabytes_each_way_with_half_close(
    folder: Path, credentials: list[str], role: Role
) -> None:
    sent = os.urandom(TEN_MEGABYTES)
    async with (
        backend(digest_then_data) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", role=role) as (command, port),
    ):
        answer = await ask(port, folder, role, sent)
        assert answer[:32] == hashlib.sha256(sent).digest()
        assert len(answer) == 32 + TEN_MEGABYTES
        assert f"role={role.other.value}" in await command.line("closed", "number=1")
        assert await command.stop() == 0


@pytest.mark.interop
@BOTH
async def test_connect_as_peer(folder: Path, credentials: list[str], role: Role) -> None:
    sent = os.urandom(TEN_MEGABYTES)
    async with (
        backend(digest_then_data) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", role=role) as (command, port),
    ):
        files = ["--cert", "peer.pem", "--key", "peer.key", "--trust", "ca.pem"]
        with trio.fail_after(PATIENCE):
            result = await complete_command(
                *("connect", f"127.0.0.1:{port}", "--role", role.value, *files),
                cwd=folder,
                stdin=sent,
            )
        assert result.stdout[:32] == hashlib.sha256(sent).digest()
        assert len(result.stdout) == 32 + TEN_MEGABYTES
        assert f"role={role.other.value}" in await command.line("closed", "number=1")


@BOTH
async def test_a_backend_that_ends_first_still_hears_the_peer(
    folder: Path, credentials: list[str], role: Role
) -> None:
    sent = os.urandom(1 << 20)
    heard = bytearray()
    done = trio.Event()

    async def end_first(stream: trio.SocketStream) -> None:
        await stream.send_all(b"I have said it all")
        await stream.send_eof()
        async for data in stream:
            heard.extend(data)
        done.set()

    async with (
        backend(end_first) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", role=role) as (command, port),
    ):
        peer = await HalfClosingPeer.dial(port, folder, role)
        assert await peer.receive_all() == b"I have said it all"
        await peer.send(sent)
        await peer.send_end()
        await done.wait()
        assert heard == sent
        await peer.aclose()
        assert "error" not in await command.line("closed", "number=1")


@BOTH
async def test_a_peer_that_stays_when_the_backend_has_ended_is_closed(
    folder: Path, credentials: list[str], role: Role
) -> None:
    async def end(stream: trio.SocketStream) -> None:
        pass

    options = ["--half-close-timeout", "0.3"]
    async with (
        backend(end) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", *options, role=role) as (command, port),
    ):
        peer = await HalfClosingPeer.dial(port, folder, role)
        assert await peer.receive_all() == b""
        await command.line("closed", "number=1")
        await peer.aclose()


@BOTH
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_as_peer(
    folder: Path, credentials: list[str], role: Role, version: str, free_port: int
) -> None:
    openssl, socat = require_tool("openssl"), require_tool("socat")
    tls = ["-cert", "peer.pem", "-key", "peer.key", "-CAfile", "ca.pem", version, "-quiet"]
    sent = os.urandom(TEN_MEGABYTES // 2).hex().encode()  # nothing that openssl takes for a command
    received = bytearray()

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            received.extend(data)
            await stream.send_all(data)
            if len(received) == len(sent):
                return  # the end, which must reach the peer behind all the data

    async with (
        backend(echo) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", role=role) as (_, port),
    ):
        dialling: list[trio.Process] = []
        if role is Role.CLIENT:
            command = [openssl, "s_client", "-connect", f"127.0.0.1:{port}", *tls]
        else:
            command = [
                openssl,
                "s_server",
                "-accept",
                str(free_port),
                "-Verify",
                "1",
                "-naccept",
                "1",
                *tls,
            ]
        process = await trio.lowlevel.open_process(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if role is Role.SERVER:
                dialling.append(
                    await trio.lowlevel.open_process(
                        [
                            socat,
                            f"TCP:127.0.0.1:{port}",
                            f"TCP:127.0.0.1:{free_port},retry=600,interval=0.1",
                        ]
                    )
                )
            answer = b""
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(process.stdin.send_all, sent)
                    while data := await process.stdout.receive_some():
                        answer += data
                await process.wait()
            assert process.returncode == 0
            assert hashlib.sha256(answer).digest() == hashlib.sha256(sent).digest()
            assert bytes(received) == sent
        finally:
            with trio.CancelScope(shield=True):
                for each in (process, *dialling):
                    if each.returncode is None:
                        each.kill()
                    await each.wait()
                await trio.aclose_forcefully(process.stdin)
                await trio.aclose_forcefully(process.stdout)


@BOTH
async def test_back_pressure(folder: Path, credentials: list[str], role: Role) -> None:
    async def never_reads(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with (
        backend(never_reads) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", role=role, fresh=True) as (command, port),
    ):
        peer = await HalfClosingPeer.dial(port, folder, role)
        with trio.move_on_after(1) as scope:
            await peer.send(bytes(64 << 20))
        assert scope.cancelled_caught
        rss = int(Path(f"/proc/{command.process.pid}/statm").read_text().split()[1]) * 4096
        assert rss < 120 << 20
        await peer.aclose()


@BOTH
async def test_the_roles_have_backends_of_their_own(
    folder: Path, credentials: list[str], role: Role
) -> None:
    async with (
        backend(partial(say, b"to server")) as to_server,
        backend(partial(say, b"to client")) as to_client,
        run_proxy(
            credentials,
            "--to-server",
            f"127.0.0.1:{to_server}",
            "--to-client",
            f"127.0.0.1:{to_client}",
            role=role,
        ) as (_, port),
    ):
        assert await ask(port, folder, role) == f"to {role.other.value}".encode()


async def test_a_unix_socket_as_backend_and_as_listener(
    folder: Path, credentials: list[str], socket_folder: Path
) -> None:
    async with trio.open_nursery() as nursery:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(socket_folder / "backend"))
        sock.listen(5)
        listener = trio.SocketListener(sock)
        nursery.start_soon(trio.serve_listeners, partial(say, b"unix"), [listener])
        path = socket_folder / "front"
        arguments = [
            "--listen",
            f"unix:{path}",
            *credentials,
            "--to",
            f"unix:{socket_folder}/backend",
        ]
        async with run_command("proxy", *arguments) as command:
            await command.line("listening", f"unix:{path}")
            peer = HalfClosingPeer(
                await trio.open_unix_socket(path), *HalfClosingPeer.tls_client(folder)
            )
            await peer.do_handshake()
            await peer.send_end()
            assert await peer.receive_all() == b"unix"
            await peer.aclose()
            assert await command.stop() == 0
        assert not path.exists()
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------ backends


@BOTH
async def test_a_backend_that_is_down_costs_one_connection(
    folder: Path, credentials: list[str], role: Role, free_port: int
) -> None:
    to = f"127.0.0.1:{free_port}"
    async with run_proxy(credentials, "--to", to, role=role) as (command, port):
        peer = await HalfClosingPeer.dial(port, folder, role)
        assert await peer.receive_all() == b""  # a clean close
        await peer.aclose()
        assert "refused" in (await command.line("backend-down", "number=1")).lower()
        async with backend(partial(say, b"up again"), free_port):
            assert await ask(port, folder, role) == b"up again"
        assert len(command.find("backend-down")) == 1
        assert not command.find("Traceback")


async def test_the_next_backend_is_tried(
    folder: Path, credentials: list[str], free_port: int
) -> None:
    down = free_port
    async with (
        backend(partial(say, b"second")) as up,
        run_proxy(credentials, "--to", f"127.0.0.1:{down}", "--to", f"127.0.0.1:{up}") as (_, port),
    ):
        assert await ask(port, folder, Role.CLIENT) == b"second"


async def test_a_backend_of_a_name_that_does_not_resolve(
    folder: Path, credentials: list[str]
) -> None:
    async with run_proxy(credentials, "--to", "nowhere.invalid:80") as (command, port):
        peer = await HalfClosingPeer.dial(port, folder, Role.CLIENT)
        assert await peer.receive_all() == b""
        await peer.aclose()
        assert "does not resolve" in await command.line("backend-down")


@BOTH
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_the_backend_is_told_who_came(
    folder: Path, credentials: list[str], role: Role, version: str
) -> None:
    heard = bytearray()

    async def listen(stream: trio.SocketStream) -> None:
        async for data in stream:
            heard.extend(data)
        await stream.send_all(b"heard")

    async with (
        backend(listen) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", "--send-proxy", version, role=role) as (
            _,
            port,
        ),
    ):
        assert await ask(port, folder, role, b"payload") == b"heard"
    header = bytes(heard)
    assert header.endswith(b"payload")
    if version == "v1":
        assert header.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
    else:
        assert header.startswith(b"\r\n\r\n\0\r\nQUIT\n")
        assert b"TLSv1.3" in header
        assert b"the peer" in header
        assert f"role={role.other.value}".encode() in header


@BOTH
async def test_an_idle_connection_is_ended(
    folder: Path, credentials: list[str], role: Role
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        with pytest.raises(trio.BrokenResourceError):  # a cut, and no end of the data
            await say(b"once", stream)
        cut.set()

    cut = trio.Event()
    async with (
        backend(serve) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", "--idle-timeout", "4", role=role) as (
            _,
            port,
        ),
    ):
        peer = await HalfClosingPeer.dial(port, folder, role)
        assert await peer.receive_exactly(4) == b"once"
        with (
            trio.fail_after(PATIENCE),
            pytest.raises((ConnectionResetError, trio.BrokenResourceError)),
        ):
            await peer.receive()
        await peer.aclose()
        with trio.fail_after(PATIENCE):
            await cut.wait()


@BOTH
@pytest.mark.parametrize("due", [True, False], ids=["close_notify", "cut"])
async def test_the_backend_can_tell_an_end_from_a_cut(
    folder: Path, credentials: list[str], role: Role, due: bool
) -> None:
    backend_saw = Listening()
    async with (
        backend(backend_saw) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", role=role) as (command, port),
    ):
        peer = await HalfClosingPeer.dial(port, folder, role)
        await peer.send(b"half a request")
        if due:
            await peer.send_end()
            await backend_saw.done.wait()
        while len(backend_saw.heard) < 14:
            await trio.sleep(0.01)
        await peer.aclose()
        await command.line("number=1")
        await backend_saw.done.wait()
    assert (bytes(backend_saw.heard), backend_saw.ends) == (
        b"half a request",
        ["end" if due else "cut"],
    )


@pytest.mark.parametrize("peer", ["s_client", "s_server"])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_that_ends_first(
    folder: Path, credentials: list[str], tmp_path: Path, peer: str, version: str, free_port: int
) -> None:
    """At the end of its standard input it goes, and all that it sent is there.

    `s_client` says a close_notify; `s_server` only closes the socket.
    """
    openssl, socat = require_tool("openssl"), require_tool("socat")
    tls = ["-cert", "peer.pem", "-key", "peer.key", "-CAfile", "ca.pem", version]
    sent = os.urandom(TEN_MEGABYTES // 2).hex().encode()
    (tmp_path / "sent").write_bytes(sent)
    backend_saw = Listening()
    role = Role.CLIENT if peer == "s_client" else Role.SERVER
    async with (
        backend(backend_saw) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", role=role) as (_, port),
        trio.open_nursery() as nursery,
    ):
        if peer == "s_client":
            command = [openssl, peer, "-connect", f"127.0.0.1:{port}", *tls]
        else:
            command = [
                openssl,
                peer,
                "-accept",
                str(free_port),
                "-nbio",  # else it may wait in a read for ever, while it has something to send
                "-naccept",
                "1",
                "-Verify",
                "1",
                *tls,
            ]
            relay = [
                socat,
                f"TCP:127.0.0.1:{port}",
                f"TCP:127.0.0.1:{free_port},retry=600,interval=0.1",
            ]
            nursery.start_soon(partial(trio.run_process, relay, check=False))
        with (tmp_path / "sent").open("rb") as stdin, trio.fail_after(PATIENCE):
            await trio.run_process(
                command, cwd=folder, stdin=stdin, capture_stdout=True, capture_stderr=True
            )
            await backend_saw.done.wait()
        nursery.cancel_scope.cancel()
    assert bytes(backend_saw.heard) == sent
    assert backend_saw.ends == ["end" if peer == "s_client" else "cut"]


@BOTH
async def test_a_backend_that_resets_is_one_line_and_no_due_end(
    folder: Path, credentials: list[str], role: Role
) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half an ans")
        await stream.receive_some(1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with (
        backend(reset) as to,
        run_proxy(credentials, "--to", f"127.0.0.1:{to}", role=role) as (command, port),
    ):
        peer = await HalfClosingPeer.dial(port, folder, role)
        assert await peer.receive_exactly(11) == b"half an ans"
        await peer.send(b"x")
        with pytest.raises((ConnectionResetError, trio.BrokenResourceError)):
            await peer.receive_all()
        await peer.aclose()
        await command.line("backend-broken", "number=1")
        assert not command.find("Traceback")
