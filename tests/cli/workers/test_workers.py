"""`--workers`, as a user runs it: processes on one socket, killed, stopped, reloaded, ended."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.command import PATIENCE, Command, run_command
from tests.support.half_closing import HalfClosingPeer
from tests.support.manager import READY, Manager
from tests.support.material import (
    assert_echo,
    assert_stops_while_it_starts,
    presented_names,
    write_pair,
)
from tests.support.patience import window_for
from trio_duplex import Role

pytestmark = pytest.mark.slow


if sys.platform == "win32":
    pytest.skip("Windows can't fork", allow_module_level=True)

BOTH = pytest.mark.parametrize("role", list(Role), ids="peer is TLS {}".format)
ENDED = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


def write_configuration(
    folder: Path, text: str = "", *, workers: int = 2, window: float = math.inf
) -> Path:
    path = folder / "service.toml"
    path.write_text(
        "cert = 'node.pem'\nkey = 'node.key'\ntrust = 'ca.pem'\n"
        f"window = {window}\nworkers = {workers}\n"
        f"watch = inf\n{text}\n[echo]\nlisten = '127.0.0.1:0'\n"
    )
    return path


class Workers:
    """A running supervisor, and what its log says of its workers."""

    def __init__(self, command: Command, port: int) -> None:
        self.command = command
        self.port = port

    @property
    def pids(self) -> dict[int, int]:
        """The process of each worker so far, by its number."""
        found = [
            re.search(r"worker=(\d+) pid=(\d+)", line)
            for line in self.command.find("worker-started")
        ]
        return {int(match[1]): int(match[2]) for match in found if match}

    async def serving(self, number: int) -> int:
        """Wait until a worker serves; its process."""
        await self.command.line("listening", f"worker={number}")
        return self.pids[number]

    async def worker_of(self, peer: HalfClosingPeer) -> int:
        """Which worker has a connection."""
        (_, port) = peer.stream.socket.getsockname()
        line = await self.command.line("connected", f"peer=127.0.0.1:{port}")
        match = re.search(r"worker=(\d+)", line)
        assert match is not None
        return int(match[1])


@asynccontextmanager
async def run_workers(
    folder: Path, *, count: int = 2, role: Role = Role.CLIENT
) -> AsyncGenerator[Workers]:
    """Start it for peers of this role, and see in the end that no process is left behind."""
    path = folder / "service.toml"
    if not path.exists():
        write_configuration(folder, workers=count, window=window_for(role))
    async with contextlib.AsyncExitStack() as stack:
        manager = stack.enter_context(Manager.listening())
        environ = {"NOTIFY_SOCKET": manager.address}
        command = await stack.enter_async_context(
            run_command("echo", "--config", path, environ=environ)
        )
        workers: Workers | None = None
        try:
            addresses = await command.addresses(count)
            await manager.told(READY)  # the supervisor knows, too
            workers = Workers(command, addresses[0][1])
            yield workers
        finally:
            with trio.CancelScope(shield=True):
                if command.process.returncode is None:
                    command.process.kill()
                await command.process.wait()
                for pid in () if workers is None else workers.pids.values():
                    await wait_gone(pid)


async def wait_gone(pid: int) -> None:
    with trio.move_on_after(PATIENCE):
        while is_running(pid):
            await trio.sleep(0.02)
        return
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"process {pid} is left behind")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that is nobody's child any more, and has ended, waits for init.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def dial_many(
    workers: Workers, folder: Path, role: Role, count: int, *, at_once: int = 20
) -> list[HalfClosingPeer]:
    peers: list[HalfClosingPeer] = []

    async def dial() -> None:
        peers.append(await HalfClosingPeer.dial(workers.port, folder, role))

    for start in range(0, count, at_once):
        async with trio.open_nursery() as nursery:
            for _ in range(start, min(count, start + at_once)):
                nursery.start_soon(dial)
    return peers


async def dial_until(workers: Workers, folder: Path, role: Role, number: int) -> HalfClosingPeer:
    """Dial until a connection comes to this worker; the others have ended then.

    There is no bound on how many come to another one first: this one may be the process that a
    busy machine lets wait.
    """
    with trio.move_on_after(PATIENCE):
        while True:
            found: HalfClosingPeer | None = None
            for peer in await dial_many(workers, folder, role, 8):
                if found is None and await workers.worker_of(peer) == number:
                    found = peer
                else:
                    await end(peer)
            if found is not None:
                await assert_echo(found, b"hello")
                return found
    raise AssertionError(f"none came to worker {number}")


async def end(peer: HalfClosingPeer) -> None:
    """End a connection, and see that the worker has closed it too."""
    await peer.send_end()
    assert await peer.receive_all() == b""
    assert await peer.stream.receive_some() == b""
    await peer.aclose()


@BOTH
async def test_each_worker_serves_both_roles(fresh: Path, role: Role) -> None:
    async with run_workers(fresh, role=role) as workers:
        for number in (1, 2):
            peer = await dial_until(workers, fresh, role, number)
            await assert_echo(peer, bytes(100_000))
            await peer.aclose()
        assert await workers.command.stop() == 0
        await workers.command.line("draining", "worker=1")
        await workers.command.line("draining", "worker=2")


async def test_nobody_can_dial_once_each_worker_says_that_it_drains(fresh: Path) -> None:
    async with run_workers(fresh) as workers:
        peer = await dial_until(workers, fresh, Role.CLIENT, 1)
        other = await dial_until(workers, fresh, Role.CLIENT, 2)
        workers.command.process.terminate()
        await workers.command.line("draining", "worker=1")
        await workers.command.line("draining", "worker=2")
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", workers.port)
        for each in (peer, other):
            await assert_echo(each, b"still served")
            await each.aclose()
        assert await workers.command.process.wait() == 0


@BOTH
async def test_killed_worker_costs_its_own_connections_only(fresh: Path, role: Role) -> None:
    async with run_workers(fresh, role=role) as workers:
        peers = await dial_many(workers, fresh, role, 20)
        of = [await workers.worker_of(peer) for peer in peers]
        victim = of[0]
        lost: list[int] = []

        async def carry(peer: HalfClosingPeer, worker: int) -> None:
            try:
                for _ in range(200):
                    await assert_echo(peer, bytes(1000))
                    await trio.sleep(0.01)
            except (*ENDED, AssertionError):
                lost.append(worker)
            await trio.aclose_forcefully(peer.stream)

        async with trio.open_nursery() as nursery:
            for peer, worker in zip(peers, of, strict=True):
                nursery.start_soon(carry, peer, worker)
            await trio.sleep(0.1)
            os.kill(workers.pids[victim], signal.SIGKILL)
        assert lost == [victim] * of.count(victim)
        line = await workers.command.line("worker-ended", f"worker={victim}", "by=SIGKILL")
        assert "restart_in=" in line
        await workers.serving(3)
        peer = await dial_until(workers, fresh, role, 3)
        await peer.aclose()
        assert await workers.command.stop() == 0


async def test_stopped_worker_loses_none_of_100_dials(fresh: Path) -> None:
    async with run_workers(fresh) as workers:
        os.kill(workers.pids[1], signal.SIGSTOP)
        for number in range(100):
            # As TLS client: each silent peer waits for the window.
            peer = await HalfClosingPeer.dial(workers.port, fresh, Role.CLIENT)
            await assert_echo(peer, b"%d" % number)
            assert await workers.worker_of(peer) == 2
            await peer.aclose()
        os.kill(workers.pids[1], signal.SIGCONT)
        assert await workers.command.stop() == 0


async def test_workers_that_die_are_restarted_ever_later(fresh: Path) -> None:
    async with run_workers(fresh) as workers:
        for number in range(1, 5):
            os.kill(await workers.serving(number), signal.SIGKILL)
            await workers.command.line("worker-ended", f"worker={number}")
        # Worker 2 served all the time until it was killed; each death has one successor.
        await workers.serving(6)
        assert sorted(workers.pids) == [1, 2, 3, 4, 5, 6]
        delays = [
            float(line.rpartition("restart_in=")[2]) for line in workers.command.find("restart_in")
        ]
        assert all(
            delay <= bound for delay, bound in zip(delays, (0.5, 1.0, 2.0, 4.0), strict=True)
        )
        assert await workers.command.stop() == 0


async def test_reload_breaks_none_of_200_connections(fresh: Path) -> None:
    # A speaking peer of a busy machine has time enough, and the silent ones wait together.
    write_configuration(fresh, window=4)
    async with run_workers(fresh) as workers:
        peers = [
            *await dial_many(workers, fresh, Role.CLIENT, 100),
            *await dial_many(workers, fresh, Role.SERVER, 100, at_once=100),
        ]
        stop = trio.Event()
        rounds = 0

        async def carry(peer: HalfClosingPeer) -> None:
            nonlocal rounds
            while not stop.is_set():
                await assert_echo(peer, bytes(1000))
                rounds += 1
            await assert_echo(peer, b"the end")
            await peer.aclose()

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(carry, peer)
            write_pair(fresh, "node", "renewed.example")
            workers.command.process.send_signal(signal.SIGHUP)
            assert "node.pem" in await workers.command.line("reloaded", "SIGHUP")
            before = rounds
            new = await HalfClosingPeer.dial(workers.port, fresh, Role.CLIENT)
            assert presented_names(new) == ["renewed.example"]
            await assert_echo(new, b"new")
            assert await workers.worker_of(new) in {3, 4}
            while rounds < before + 200:
                await trio.sleep(0.01)
            assert is_running(workers.pids[1])
            assert is_running(workers.pids[2])
            stop.set()
        assert len(peers) == 200
        for number in (1, 2):
            await workers.command.line("worker-left", f"worker={number}", "code=0")
        assert is_running(workers.pids[3])
        await assert_echo(new, b"still")
        await new.aclose()
        assert await workers.command.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopped_while_it_starts(fresh: Path, number: signal.Signals) -> None:
    path = write_configuration(fresh)
    await assert_stops_while_it_starts(
        fresh, number, "echo", "--config", path, never="worker-started"
    )


@pytest.mark.parametrize("bad", ["certificate", "configuration"])
async def test_bad_new_file_keeps_the_old_workers(fresh: Path, bad: str) -> None:
    async with run_workers(fresh) as workers:
        if bad == "certificate":
            (fresh / "node.pem").write_text("nothing of the kind")
        else:
            write_configuration(fresh, "windo = 3")
        workers.command.process.send_signal(signal.SIGHUP)
        assert "stays in force" in await workers.command.line("reload-failed")
        # Nor does a worker that is replaced now read it.
        os.kill(workers.pids[1], signal.SIGKILL)
        await workers.serving(3)
        for number in (2, 3):
            peer = await dial_until(workers, fresh, Role.CLIENT, number)
            await peer.aclose()
        assert await workers.command.stop() == 0


async def test_reload_that_is_asked_for_while_it_starts(fresh: Path) -> None:
    path = write_configuration(fresh)
    async with run_command("echo", "--config", path) as command:
        await command.line("worker-started")  # and none of them serves yet
        command.process.send_signal(signal.SIGHUP)
        await command.line("reloaded")
        await command.line("worker-left", count=2)
        assert await command.stop() == 0


async def test_reload_changes_how_many_there_are(fresh: Path) -> None:
    async with run_workers(fresh) as workers:
        write_configuration(fresh, workers=3)
        workers.command.process.send_signal(signal.SIGHUP)
        assert "workers is 3" in await workers.command.line("reloaded")
        assert sorted(workers.pids) == [1, 2, 3, 4, 5]
        assert await workers.command.stop() == 0


@BOTH
async def test_sigterm_lets_connections_finish(fresh: Path, role: Role) -> None:
    async with run_workers(fresh, role=role) as workers:
        peers = [await dial_until(workers, fresh, role, number) for number in (1, 2)]
        workers.command.process.terminate()
        await workers.command.line("draining", "worker=1")
        await workers.command.line("draining", "worker=2")
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", workers.port)
        for peer in peers:
            await assert_echo(peer, b"not yet")
            await peer.aclose()
        assert await workers.command.process.wait() == 0
        await workers.command.line("stopped", "finished=1", "worker=1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stopped", [False, True], ids=["", "a worker is stopped"])
async def test_second_signal_ends_at_once(
    fresh: Path, number: signal.Signals, stopped: bool
) -> None:
    async with run_workers(fresh) as workers:
        peer = await dial_until(workers, fresh, Role.CLIENT, 1)
        if stopped:
            os.kill(workers.pids[2], signal.SIGSTOP)
        workers.command.process.send_signal(number)
        await workers.command.line("draining", "worker=1")
        await assert_echo(peer, b"still served")
        workers.command.process.send_signal(number)
        assert await workers.command.process.wait() == 128 + number
        if stopped:
            await workers.command.line("worker-hangs", "worker=2")
        with contextlib.suppress(*ENDED):
            assert not await peer.receive_all()
        await trio.aclose_forcefully(peer.stream)


async def test_drain_timeout_counts_in_every_worker(fresh: Path) -> None:
    write_configuration(fresh, "drain-timeout = 0.2")
    async with run_workers(fresh) as workers:
        peer = await dial_until(workers, fresh, Role.CLIENT, 2)
        assert await workers.command.stop() == 0
        await workers.command.line("stopped", "cancelled=1", "worker=2")
        await trio.aclose_forcefully(peer.stream)


async def test_workers_end_when_their_supervisor_is_killed(fresh: Path) -> None:
    write_configuration(fresh, "drain-timeout = 0.5")
    async with run_workers(fresh) as workers:
        peer = await dial_until(workers, fresh, Role.CLIENT, 1)
        workers.command.process.kill()
        await workers.command.process.wait()
        for pid in workers.pids.values():
            await wait_gone(pid)
        # Their sockets are closed: another can have the address.
        socket.create_server(("127.0.0.1", workers.port)).close()
        await trio.aclose_forcefully(peer.stream)


async def test_sigterm_to_a_worker_drains_it_and_it_is_replaced(fresh: Path) -> None:
    async with run_workers(fresh) as workers:
        peer = await dial_until(workers, fresh, Role.CLIENT, 1)
        os.kill(workers.pids[1], signal.SIGTERM)
        await workers.command.line("draining", "worker=1")
        await assert_echo(peer, b"still served")
        await peer.aclose()
        await workers.command.line("worker-ended", "worker=1", "code=0")
        await workers.serving(3)
        assert await workers.command.stop() == 0
