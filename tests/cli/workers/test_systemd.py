"""What systemd is told of several workers, and what it hands them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.command import Command, run_command
from tests.support.half_closing import HalfClosingPeer
from tests.support.manager import READY, Manager
from tests.support.patience import window_for
from trio_duplex import Role

pytestmark = pytest.mark.slow


if sys.platform == "win32":
    pytest.skip("Windows can't fork", allow_module_level=True)


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager.listening() as made:
        yield made


@asynccontextmanager
async def run_workers(
    credentials: list[str], manager: Manager, *options: object, watchdog: str = ""
) -> AsyncGenerator[Command]:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": watchdog}
    arguments = ("echo", "--listen", "127.0.0.1:0", "--workers", 2, *credentials, *options)
    async with run_command(*arguments, environ=environ) as command:
        yield command


def pids(status: list[str]) -> dict[int, int]:
    """The workers that a status names, each with its process."""
    (line,) = (line for line in status if line.startswith("STATUS="))
    return {int(number): int(pid) for number, pid in re.findall(r"(\d+) \(pid (\d+)\)", line)}


async def test_notifications(credentials: list[str], manager: Manager) -> None:
    async with run_workers(credentials, manager) as command:
        # Ready when all are: the status has both.
        before = pids(await manager.told(READY))
        assert [*before] == [1, 2]
        command.process.send_signal(signal.SIGHUP)
        await manager.told("RELOADING=1", "MONOTONIC_USEC=")
        assert [*pids(await manager.told(READY))] == [3, 4]
        command.process.terminate()
        await manager.told("STOPPING=1")
        assert await command.process.wait() == 0


async def test_status_names_the_replacement(credentials: list[str], manager: Manager) -> None:
    async with run_workers(credentials, manager) as command:
        os.kill(pids(await manager.told(READY))[1], signal.SIGKILL)
        await manager.told("workers 2 (pid")
        await manager.told("3 (pid")
        assert await command.stop() == 0


async def test_watchdog_is_fed_while_workers_live(credentials: list[str], manager: Manager) -> None:
    """A worker that hangs is killed and replaced; systemd hears nothing of it.

    Eight seconds, or a worker that a busy machine lets wait would have hung, too.
    """
    async with run_workers(credentials, manager, watchdog="8000000") as command:
        found = pids(await manager.told(READY))
        await manager.told("WATCHDOG=1")
        os.kill(found[1], signal.SIGSTOP)
        await command.line("worker-hangs", "worker=1")
        await command.line("worker-ended", "worker=1", "by=SIGKILL")
        await command.line("listening", "worker=3")
        await manager.told("WATCHDOG=1")
        assert not command.find("worker=2", "worker-ended")
        assert await command.stop() == 0


async def test_watchdog_starves_with_a_supervisor_that_hangs(
    credentials: list[str], manager: Manager
) -> None:
    async with run_workers(credentials, manager, watchdog="400000") as command:
        await manager.told("WATCHDOG=1")
        command.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{command.process.pid}/stat")
        while stat.read_text().rpartition(") ")[2][0] != "T":  # stopped
            await trio.sleep(0.01)
        manager.forget()  # what it said before
        with trio.move_on_after(1.5) as starved:  # more than three times the watchdog's
            await manager.told("WATCHDOG=1")
        assert starved.cancelled_caught
        command.process.send_signal(signal.SIGCONT)
        assert await command.stop() == 0


@pytest.mark.parametrize("role", list(Role), ids="peer is TLS {}".format)
async def test_inherited_listening_socket(folder: Path, credentials: list[str], role: Role) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        number, port = listener.fileno(), listener.getsockname()[1]
        arguments = ("echo", "--listen", f"fd:{number}", "--workers", 2)
        options = (*credentials, "--window", window_for(role))
        async with run_command(*arguments, *options, pass_fds=[number]) as command:
            await command.line("listening", "worker=2")
            peer = await HalfClosingPeer.dial(port, folder, role)
            await peer.send(b"hello")
            assert await peer.receive_exactly(5) == b"hello"
            await peer.aclose()
            assert await command.stop() == 0


async def test_one_connection_is_for_one_process(credentials: list[str]) -> None:
    """What ``Accept=yes`` hands over can't be shared."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        arguments = ("echo", "--listen", f"fd:{number}", "--workers", 2, *credentials)
        async with run_command(*arguments, pass_fds=[number]) as command:
            assert await command.process.wait() == 2
            assert "leave --workers out" in await command.line(f"fd:{number}")


async def test_unix_socket_goes_with_the_last(
    credentials: list[str], manager: Manager, socket_folder: Path
) -> None:
    path = socket_folder / "s"
    arguments = ("echo", "--listen", f"unix:{path}", "--workers", 2, *credentials)
    async with run_command(*arguments, environ={"NOTIFY_SOCKET": manager.address}) as command:
        line = await command.line("worker-started", "worker=1")
        await manager.told(READY)  # or one that ends now has never served
        os.kill(int(line.rpartition("pid=")[2]), signal.SIGTERM)
        await command.line("worker-ended", "worker=1")
        assert path.is_socket()
        assert await command.stop() == 0
        assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_replacement_serves_with_a_key_that_only_root_can_read(
    folder: Path, credentials: list[str]
) -> None:
    """It is forked from what was read before root's rights went."""
    arguments = ("echo", "--listen", "127.0.0.1:0", "--workers", 2, "--user", "nobody")
    options = (*credentials, "--window", "inf")
    async with contextlib.AsyncExitStack() as stack:
        manager = stack.enter_context(Manager.listening(abstract=True))
        environ = {"NOTIFY_SOCKET": manager.address}
        command = await stack.enter_async_context(
            run_command(*arguments, *options, environ=environ)
        )
        (_, port), _ = await command.addresses(2)
        await manager.told(READY)  # or those that end now have never served
        for number in (1, 2):
            line = await command.line("worker-started", f"worker={number}")
            os.kill(int(line.rpartition("pid=")[2]), signal.SIGKILL)
        await command.line("listening", "worker=4")
        peer = await HalfClosingPeer.dial(port, folder, Role.CLIENT)
        await peer.send(b"hello")
        assert await peer.receive_exactly(5) == b"hello"
        await peer.aclose()
        assert await command.stop() == 0
