"""``trio-duplex connect``, as a user runs it: in each role, at either end, and how it ends."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from tests.support.authority import STRANGER
from tests.support.command import PATIENCE, Command, complete_command, run_command
from tests.support.half_closing import HalfClosingPeer, peer_context
from tests.support.patience import window_for
from trio_duplex import Role
from trio_duplex.cli._command import command

pytestmark = pytest.mark.slow

TEN_MEGABYTES = bytes(range(256)) * (10 << 12)
DIALLING_ROLES = pytest.mark.parametrize("role", ["client", "server", "either"])


def identity(folder: Path, name: str = "peer", trust: str = "ca") -> list[str]:
    """The options that name certificate, key and trust."""
    return [
        *("--cert", str(folder / f"{name}.pem"), "--key", str(folder / f"{name}.key")),
        *("--trust", str(folder / f"{trust}.pem")),
    ]


async def connect(
    *arguments: object, stdin: bytes = b"", stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    return await complete_command("connect", *arguments, stdin=stdin, stdout=stdout)


@asynccontextmanager
async def server(
    name: str, folder: Path, *options: object, role: str = "client"
) -> AsyncIterator[tuple[Command, str]]:
    """A service of ours, for peers of this role; gives it and its address."""
    window = window_for(Role.SERVER if role == "server" else Role.CLIENT)  # either: it speaks
    listen = ["--listen", "127.0.0.1:0", "--window", window]
    arguments = [*listen, *identity(folder, "node"), *options]
    async with run_command(name, *arguments) as running:
        ((host, port),) = await running.addresses()
        yield running, f"{host}:{port}"


@DIALLING_ROLES
async def test_echo_in_each_role(folder: Path, role: str) -> None:
    async with server("echo", folder, role=role) as (running, address):
        result = await connect(address, "--role", role, *identity(folder), "-v", stdin=b"hello\n")
        assert result.returncode == 0, result.stderr
        assert result.stdout == b"hello\n"
        ours = "server" if role == "server" else "client"  # if it is left to us, we speak at once
        told = result.stderr.decode()
        assert f"role: {ours} (" in told
        assert "TLSv1.3" in told
        assert "peer: node.example" in told
        assert "CN=the node" in told
        assert "--peer-name node.example" in told  # what would make it stricter
        await running.line("connected", "identity=", "peer.example")


@pytest.mark.parametrize("role", ["client", "server"])
async def test_ten_megabytes_through_proxy_with_half_close(folder: Path, role: str) -> None:
    async def digest_then_data(stream: trio.SocketStream) -> None:
        found = hashlib.sha256()
        async for data in stream:
            found.update(data)
        await stream.send_all(found.digest() + TEN_MEGABYTES)

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            lambda task_status: trio.serve_tcp(
                digest_then_data, 0, host="127.0.0.1", task_status=task_status
            )
        )
        backend = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with server("proxy", folder, "--to", backend, role=role) as (_, address):
            result = await connect(address, "--role", role, *identity(folder), stdin=TEN_MEGABYTES)
        nursery.cancel_scope.cancel()
    assert result.returncode == 0, result.stderr
    assert result.stdout[:32] == hashlib.sha256(TEN_MEGABYTES).digest()
    assert result.stdout[32:] == TEN_MEGABYTES


@pytest.mark.parametrize("role", list(Role), ids="peer is TLS {}".format)
async def test_the_end_that_is_dialled(folder: Path, role: Role) -> None:
    async with run_command(
        *("connect", "--listen", "127.0.0.1:0", "--window", window_for(role), "-v"),
        *identity(folder, "node"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as listening:
        line = await listening.line("listening on")
        peer = await HalfClosingPeer.dial(int(line.rpartition(":")[2]), folder, role)
        try:
            await listening.line(f"role: {role.other} (the peer ")
            assert listening.process.stdin is not None
            await listening.process.stdin.send_all(b"from standard input")
            await listening.process.stdin.aclose()
            assert await peer.receive_all() == b"from standard input"
            await peer.send(b"to standard output")
            await peer.send_end()
            assert listening.process.stdout is not None
            with trio.fail_after(PATIENCE):
                assert await listening.process.stdout.receive_some() == b"to standard output"
                assert await listening.process.wait() == 0
        finally:
            await peer.aclose()


async def test_two_ends_of_the_command(folder: Path, free_port: int) -> None:
    """`--wait` has the one that dials wait for the one that listens."""
    with trio.fail_after(2 * PATIENCE):
        address = f"127.0.0.1:{free_port}"
        results: dict[str, subprocess.CompletedProcess[bytes]] = {}

        async def run(name: str, *arguments: object) -> None:
            results[name] = await connect(
                *arguments, *identity(folder, name), stdin=f"I am {name}".encode()
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "peer", address, "--wait", PATIENCE)
            nursery.start_soon(run, "node", "--listen", address, "--wait", PATIENCE)
    assert (results["peer"].returncode, results["peer"].stdout) == (0, b"I am node")
    assert (results["node"].returncode, results["node"].stdout) == (0, b"I am peer")


async def test_an_announcement_spares_the_window(folder: Path) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--window", "inf", *identity(folder, "node")]
    async with run_command("echo", *arguments) as running:
        ((host, port),) = await running.addresses()
        options = ["--role", "server", "--announce", *identity(folder)]
        result = await connect(f"{host}:{port}", *options, stdin=b"hello")
        assert (result.returncode, result.stdout) == (0, b"hello"), result.stderr
        await running.line("connected", "reason=announced")


async def test_two_ends_that_meet_at_a_relay_without_roles(folder: Path) -> None:
    """Both speak at once, the two hellos cross, and each end takes another role."""
    reports: dict[str, list[str]] = {}

    async def run(name: str, address: str) -> None:
        options = ["--role", "either", *identity(folder, name), "-v"]
        result = await connect(address, *options, stdin=f"I am {name}".encode())
        assert result.returncode == 0, result.stderr
        other = "node" if name == "peer" else "peer"
        assert result.stdout == f"I am {other}".encode()
        reports[name] = result.stderr.decode().splitlines()

    async with trio.open_nursery() as nursery:
        address = await nursery.start(relay_of_crossing_ends)
        async with trio.open_nursery() as ends:
            for name in ("peer", "node"):
                ends.start_soon(run, name, address)
        nursery.cancel_scope.cancel()
    roles = [
        line.partition("role: ")[2].split()[0]
        for report in reports.values()
        for line in report
        if "role: " in line
    ]
    assert sorted(roles) == ["client", "server"]


async def relay_of_crossing_ends(task_status: trio.TaskStatus[str]) -> None:
    """A relay that joins two who dial it, and forwards once both have spoken."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def copy(data: bytes, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        while data:
            await sink.send_all(data)
            data = await source.receive_some()
        await sink.send_eof()

    async with listener:
        task_status.started(f"127.0.0.1:{listener.socket.getsockname()[1]}")
        async with await listener.accept() as one, await listener.accept() as two:
            openings = [await one.receive_some(), await two.receive_some()]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, openings[0], one, two)
                nursery.start_soon(copy, openings[1], two, one)


@pytest.mark.parametrize(
    ("options", "speaks"),
    [
        (["--window", "5"], True),
        (["--window", "silent"], False),
        (["--window", "speaking"], True),
        (["--window", "learned"], True),
    ],
    ids=str,
)
async def test_who_dials_can_wait_for_a_peer_that_speaks(
    folder: Path, options: list[str], speaks: bool
) -> None:
    """The peer that listens may be a TLS client; then, it is one; else, a TLS server."""
    role = Role.CLIENT if speaks else Role.SERVER
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"

        async def answer() -> None:
            stream = await listener.accept()
            peer = HalfClosingPeer(stream, peer_context(folder, role), role)
            await peer.do_handshake()
            await peer.send(b"from the peer")
            await peer.send_end()
            await peer.receive_all()
            await peer.aclose()

        nursery.start_soon(answer)
        result = await connect(
            address, "--role", "either", *options, *identity(folder, "node"), "-v"
        )
    assert (result.returncode, result.stdout) == (0, b"from the peer"), result.stderr
    assert f"role: {role.other} (" in result.stderr.decode()


async def test_without_half_close_the_peer_ends_it(folder: Path) -> None:
    async with run_command(
        *("connect", "--listen", "127.0.0.1:0", "--no-half-close"),
        *identity(folder, "node"),
    ) as listening:
        line = await listening.line("listening on")
        peer = await HalfClosingPeer.dial(int(line.rpartition(":")[2]), folder, Role.CLIENT)
        try:
            with trio.move_on_after(0.5) as scope:
                await peer.receive()
            assert scope.cancelled_caught  # standard input was empty, and nothing was said of it
            await peer.send_end()
            with trio.fail_after(PATIENCE):
                assert await listening.process.wait() == 0
        finally:
            await peer.aclose()


@pytest.mark.parametrize(
    ("role", "name", "trust", "options", "code"),
    [
        ("client", "peer", "ca", ["--peer-name", "another.example"], 6),  # we refuse
        ("server", "peer", "ca", ["--peer-name", "another.example"], 6),
        ("client", "peer", "strangers", [], 6),  # an authority that we do not trust
        ("client", "node", "ca", [], 6),  # our own certificate
        ("server", "peer", "ca", ["--handshake-timeout", "0.1"], 5),  # the window is longer
    ],
)
async def test_exit_codes_of_negotiations(
    folder: Path, role: str, name: str, trust: str, options: list[str], code: int
) -> None:
    STRANGER.cert_pem.write_to_path(folder / "strangers.pem")
    # A window for peers that speak ends after every timeout.
    peers = "client" if code == 5 else role
    async with server("echo", folder, role=peers) as (_, address):
        result = await connect(address, "--role", role, *identity(folder, name, trust), *options)
    assert result.returncode == code, result.stderr
    assert result.stdout == b""
    assert result.stderr.startswith(b"trio-duplex: ")
    assert result.stderr.count(b"\n") == 1


async def test_exit_codes_of_what_is_no_tls_or_is_cut(folder: Path) -> None:
    async def speak_ssh(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            lambda task_status: trio.serve_tcp(
                speak_ssh, 0, host="127.0.0.1", task_status=task_status
            )
        )
        port = listeners[0].socket.getsockname()[1]
        result = await connect(f"127.0.0.1:{port}", *identity(folder))
        nursery.cancel_scope.cancel()
    assert result.returncode == 5
    assert b"SSH" in result.stderr

    async with run_command(
        "connect", "--listen", "127.0.0.1:0", *identity(folder, "node")
    ) as listening:
        line = await listening.line("listening on")
        peer = await HalfClosingPeer.dial(int(line.rpartition(":")[2]), folder, Role.CLIENT)
        await peer.aclose()  # without a close_notify
        with trio.fail_after(PATIENCE):
            assert await listening.process.wait() == 1
        await listening.line("data may be missing")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["127.0.0.1:1"], 4),
        (["127.0.0.1:1", "--wait", "0.2"], 4),
        (["nowhere.invalid:443"], 4),
        (["--listen", "127.0.0.1:0", "--wait", "0.2"], 4),
        (["--listen", "192.0.2.1:1"], 4),
        ([], 2),
        (["127.0.0.1:1", "--listen", "127.0.0.1:0"], 2),
        (["127.0.0.1"], 2),
        (["127.0.0.1:1", "--role", "both"], 2),
        (["127.0.0.1:1", "--wait", "soon"], 2),
        (["127.0.0.1:1", "--announce"], 2),  # as TLS client
        (["--listen", "127.0.0.1:0", "--role", "server", "--announce"], 2),
        (["127.0.0.1:1", "--window", "1"], 2),  # the role is given
        (["127.0.0.1:1", "--role", "either", "--window", "now"], 2),
        (["127.0.0.1:1", "--cert", "absent.pem"], 3),
    ],
)
def test_exit_codes_without_a_connection(folder: Path, arguments: list[str], code: int) -> None:
    result = CliRunner().invoke(command, ["connect", *identity(folder), *arguments])
    assert result.exit_code == code, result.output
    assert result.output.splitlines()[-1].startswith("trio-duplex: ")
    assert isinstance(result.exception, SystemExit)  # and no other


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
async def test_a_full_disk(folder: Path) -> None:
    async with server("echo", folder) as (_, address):
        with Path("/dev/full").open("wb") as full:
            result = await connect(address, *identity(folder), stdin=b"x", stdout=full.fileno())
    assert result.returncode == 1
    assert b"No space left" in result.stderr
    assert result.stderr.count(b"\n") == 1
