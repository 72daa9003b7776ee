"""Started by `systemd-socket-activate`, as inetd does it, and watched at a notification socket."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.authority import AUTHORITY
from tests.support.command import PATIENCE, run_command, start_command
from tests.support.patience import window_for
from tests.support.peers import echo
from tests.support.tools import require_tool
from trio_duplex import Credentials, Role, open_tcp_connection

pytestmark = pytest.mark.interop

MESSAGE = os.urandom(100_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("node", "peer"):
        certificate = AUTHORITY.issue_cert(f"{name}.example")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
        (folder / f"{name}.pem").chmod(0o600)
    return folder


@asynccontextmanager
async def backend() -> AsyncIterator[int]:
    async def quiet_echo(stream: trio.SocketStream) -> None:
        try:
            await echo(stream)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, quiet_echo, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def proxy(
    folder: Path, listen: str, to: int, *options: object, role: Role = Role.CLIENT
) -> list[object]:
    return [
        *("proxy", "--listen", listen, "--to", f"127.0.0.1:{to}", "--window", window_for(role)),
        *("--cert", folder / "node.pem", "--trust", folder / "ca.pem", *options),
    ]


async def talk(folder: Path, port: int, role: Role) -> None:
    """Be a peer in this role, and have everything come back."""
    peer = Credentials.mutual(certificate_chain=folder / "peer.pem", trust=folder / "ca.pem")
    with trio.fail_after(PATIENCE):
        async with await open_tcp_connection("127.0.0.1", port, peer, role=role) as connection:
            received = b""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.send_all, MESSAGE)
                while len(received) < len(MESSAGE):
                    received += await connection.receive_some()
            assert received == MESSAGE


def activate(*options: object) -> list[str]:
    """`systemd-socket-activate`, which passes on only what it is told."""
    passed = [f"{name}={os.environ[name]}" for name in ("PATH", "PYTHONPATH") if name in os.environ]
    return [
        require_tool("systemd-socket-activate"),
        *(f"--setenv={each}" for each in passed),
        *map(str, options),
    ]


async def wait_listening(port: int) -> None:
    """Wait for it without dialling, which would be taken for a client."""
    with trio.fail_after(PATIENCE):
        while f"0100007F:{port:04X} 00000000:0000 0A" not in Path("/proc/net/tcp").read_text():
            await trio.sleep(0.05)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("name", ["duplex", "3"])
async def test_socket_activation(folder: Path, name: str, role: Role, free_port: int) -> None:
    port = free_port
    async with backend() as to:
        options = [] if name == "3" else ["--fdname", name]
        prefix = activate("-l", f"127.0.0.1:{port}", *options)
        arguments = proxy(folder, f"fd:{name}", to, role=role)
        async with run_command(*arguments, prefix=prefix) as command:
            await wait_listening(port)
            await talk(folder, port, role)
            await talk(folder, port, role)  # the same process, which goes on
            assert await command.stop() == 0


@pytest.mark.parametrize("role", list(Role))
async def test_process_for_each_connection(folder: Path, role: Role, free_port: int) -> None:
    port = free_port
    async with backend() as to:
        prefix = activate("-l", f"127.0.0.1:{port}", "--accept")
        arguments = proxy(folder, "fd:3", to, role=role)
        async with run_command(*arguments, prefix=prefix) as command:
            await wait_listening(port)
            await talk(folder, port, role)
            await command.line("died with code 0")


@pytest.mark.parametrize("role", list(Role))
async def test_inetd_and_nothing_of_the_log_goes_to_the_peer(folder: Path, role: Role) -> None:
    """All three standard streams are the connection."""
    async with backend() as to:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, folder, listener.getsockname()[1], role)
                accepted, _ = await trio.to_thread.run_sync(listener.accept)
                with accepted:
                    number = accepted.fileno()
                    arguments = proxy(folder, "fd:0", to, "-v", role=role)
                    process = await start_command(
                        *arguments, stdin=number, stdout=number, stderr=number
                    )
                with trio.fail_after(PATIENCE):
                    assert await process.wait() == 0


@pytest.fixture
def manager(socket_folder: Path) -> Iterator[tuple[str, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(socket_folder / "notify"))
        sock.setblocking(False)
        yield str(socket_folder / "notify"), sock


async def told(sock: socket.socket, line: str) -> list[str]:
    """Wait for a datagram with this line; give its lines."""
    waiting = trio.socket.from_stdlib_socket(sock)
    with trio.fail_after(PATIENCE):
        while True:
            lines = (await waiting.recv(4096)).decode().split("\n")
            if line in lines:
                return lines


async def test_notifications(folder: Path, manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    # A socket of datagrams holds ten, and what does not fit is lost: few are to come unasked.
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000"}
    async with run_command(*proxy(folder, "127.0.0.1:0", 1), environ=environ) as command:
        assert (await told(sock, "READY=1"))[1].startswith("STATUS=serving proxy")
        for _ in range(2):
            await told(sock, "WATCHDOG=1")
        command.process.send_signal(signal.SIGHUP)
        assert (await told(sock, "RELOADING=1"))[1].startswith("MONOTONIC_USEC=")
        await told(sock, "READY=1")
        command.process.terminate()
        await told(sock, "STOPPING=1")
        assert await command.process.wait() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_becomes_the_user_and_still_serves(folder: Path) -> None:
    """The key is root's alone; nobody else could have read it."""
    async with backend() as to:
        options = ("--user", "nobody", "--group", "nogroup")
        async with run_command(*proxy(folder, "127.0.0.1:0", to, *options)) as command:
            ((_, port),) = await command.addresses()
            await talk(folder, port, Role.CLIENT)
            status = Path(f"/proc/{command.process.pid}/status").read_text().splitlines()
            ids = {
                line.split()[0]: line.split()[1:] for line in status if line[:3] in ("Uid", "Gid")
            }
            assert ids == {"Uid:": ["65534"] * 4, "Gid:": ["65534"] * 4}


@pytest.mark.parametrize(
    ("options", "environ", "code", "says"),
    [
        (["--user", "nobody-there"], {}, 2, "no user"),
        (["--listen", "fd:tls"], {}, 4, "FileDescriptorName"),
        (["--listen", "fd:99"], {}, 4, "fd:99"),
    ],
)
async def test_what_is_missing_is_one_line(
    folder: Path, options: list[str], environ: dict[str, str], code: int, says: str
) -> None:
    async with run_command(*proxy(folder, "127.0.0.1:0", 1, *options), environ=environ) as command:
        assert await command.process.wait() == code
        await command.line(says)
        assert len([line for line in command.lines if "trio-duplex:" in line]) == 1


async def test_stopped_process_of_two_on_one_socket_loses_nobody(folder: Path) -> None:
    """What `trio-duplex-worker@.service` relies on: the kernel wakes a process that accepts."""
    async with backend() as to:
        with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
            number, port = listener.fileno(), listener.getsockname()[1]
            start = partial(
                run_command, *proxy(folder, f"fd:{number}", to), pass_fds=(listener.fileno(),)
            )
            async with start() as stopped, start() as serving:
                await stopped.line("listening")
                await serving.line("listening")
                stopped.process.send_signal(signal.SIGSTOP)
                for _ in range(100):
                    await talk(folder, port, Role.CLIENT)
                assert not stopped.find("closed")
                await serving.line("closed", count=100)
