"""A running service: several in one process, reload, drain, networks, logs."""

from __future__ import annotations

import json
import math
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.authority import FLEET
from tests.support.command import Command, run_command
from tests.support.contexts import new_context
from tests.support.half_closing import HalfClosingPeer
from tests.support.material import (
    assert_echo,
    assert_stops_while_it_starts,
    presented_names,
    write_pair,
)
from tests.support.patience import window_for
from trio_duplex import Role

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("role", list(Role), ids="peer is TLS {}".format)


def write_configuration(
    folder: Path, text: str = "", top: str = "", *, window: float = math.inf
) -> Path:
    path = folder / "service.toml"
    path.write_text(
        f"cert = 'node.pem'\nkey = 'node.key'\ntrust = 'ca.pem'\nwindow = {window}\n{top}\n"
        f"[exec]\nlisten = '127.0.0.1:0'\nprogram = 'cat'\n{text}\n"
    )
    return path


@asynccontextmanager
async def run_exec(
    folder: Path, *options: object, role: Role = Role.CLIENT
) -> AsyncIterator[tuple[Command, int]]:
    """Start it, for peers of this role if the folder has no configuration."""
    path = folder / "service.toml"
    if not path.exists():
        write_configuration(folder, window=window_for(role))
    async with run_command("exec", "--config", path, *options) as command:
        ((_, port),) = await command.addresses()
        yield command, port


async def test_a_reload_breaks_none_of_200_connections(fresh: Path) -> None:
    # A speaking peer of a busy machine has time enough, and the silent ones wait together.
    write_configuration(fresh, "processes = 300", window=4)
    async with run_exec(fresh, "--watch", "inf") as (command, port):
        peers: list[HalfClosingPeer] = []

        async def dial(role: Role) -> None:
            peers.append(await HalfClosingPeer.dial(port, fresh, role))

        for role, count in [(Role.SERVER, 100), *[(Role.CLIENT, 20)] * 5]:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(dial, role)
        stop = trio.Event()
        carried = 0

        async def carry(peer: HalfClosingPeer) -> None:
            nonlocal carried
            while not stop.is_set():
                await assert_echo(peer, bytes(1000))
                carried += 1
            await assert_echo(peer, b"the end")
            await peer.send_end()
            assert await peer.receive_all() == b""
            await peer.aclose()

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(carry, peer)
            write_pair(fresh, "node", "renewed.example")
            write_configuration(fresh, "processes = 300\nhandshake-timeout = 12", window=4)
            command.process.send_signal(signal.SIGHUP)
            line = await command.line("reloaded", "SIGHUP")
            assert "node.pem" in line
            assert "handshake-timeout is 12" in line
            before = carried
            new = await HalfClosingPeer.dial(port, fresh, Role.CLIENT)
            assert presented_names(new) == ["renewed.example"]
            await assert_echo(new, b"new")
            await new.aclose()
            while carried < before + 200:
                await trio.sleep(0.01)
            stop.set()
        assert len(peers) == 200
        assert await command.stop() == 0


@BOTH
async def test_a_bad_new_file_leaves_the_old_one_in_force(fresh: Path, role: Role) -> None:
    async with run_exec(fresh, "--watch", "inf", role=role) as (command, port):
        (fresh / "node.pem").write_text("nothing of the kind")
        command.process.send_signal(signal.SIGHUP)
        assert "stays in force" in await command.line("reload-failed")
        peer = await HalfClosingPeer.dial(port, fresh, role)
        assert presented_names(peer) == ["node.example"]
        await peer.aclose()
        write_configuration(fresh, "windo = 3")
        command.process.send_signal(signal.SIGHUP)
        assert "did you mean" in await command.line("reload-failed", count=2)


async def test_changed_files_are_read(fresh: Path) -> None:
    async with run_exec(fresh, "--watch", "0.2") as (command, port):
        write_pair(fresh, "node", "renewed.example")
        await command.line("reloaded", "changed files", "node.pem")
        peer = await HalfClosingPeer.dial(port, fresh, Role.CLIENT)
        assert presented_names(peer) == ["renewed.example"]
        await peer.aclose()


async def test_reload_every(fresh: Path) -> None:
    async with run_exec(fresh, "--reload-every", "0.3", "--watch", "inf") as (command, _):
        await command.line("reloaded", "--reload-every", "changed=nothing", count=2)


async def test_several_services_in_one_process(fresh: Path) -> None:
    write_configuration(
        fresh,
        "[exec.first]\nprogram = ['echo', 'one']\n"
        "[exec.second]\nprogram = ['echo', 'two']\nlisten = '0.0.0.0:0'\n",
        top="log-format = 'json'",
    )
    async with run_command("exec", "--config", fresh / "service.toml") as command:
        await command.line("listening", count=2)
        ports = {
            entry["name"]: int(entry["address"].rpartition(":")[2])
            for entry in map(json.loads, command.find("listening"))
        }
        for name, answer in (("first", b"one\n"), ("second", b"two\n")):
            peer = await HalfClosingPeer.dial(ports[name], fresh, Role.CLIENT)
            assert await peer.receive_all() == answer
            await peer.aclose()
            closed = json.loads(await command.line('"closed"', f'"{name}"'))
            assert closed["service"] == name
            assert closed["role"] == "server"
            assert closed["peer"].startswith("127.0.0.1:")
        assert await command.stop() == 0
        assert all(map(json.loads, command.lines))


async def test_a_service_that_leaves_the_file_is_retired(fresh: Path) -> None:
    both = "[exec.a]\n[exec.b]\nlisten = '0.0.0.0:0'\n"
    write_configuration(fresh, both)
    async with run_command("exec", "--config", fresh / "service.toml") as command:
        _, (_, port) = await command.addresses(2)
        peer = await HalfClosingPeer.dial(port, fresh, Role.CLIENT)
        await assert_echo(peer, b"before")
        write_configuration(fresh, "[exec.a]\n")
        command.process.send_signal(signal.SIGHUP)
        await command.line("reloaded", "service b removed")
        await assert_echo(peer, b"after")
        await peer.aclose()
        assert await command.stop() == 0


@BOTH
@pytest.mark.parametrize(
    ("options", "welcome"),
    [
        (["--allow", "127.0.0.0/8"], True),
        (["--allow", "::/0"], False),
        (["--deny", "127.0.0.1"], False),
        (["--deny", "10.0.0.0/8"], True),
        (["--allow", "127.0.0.0/8", "--deny", "127.0.0.1"], False),
    ],
    ids=str,
)
async def test_networks(fresh: Path, role: Role, options: list[str], welcome: bool) -> None:
    async with run_exec(fresh, *options, role=role) as (command, port):
        if welcome:
            peer = await HalfClosingPeer.dial(port, fresh, role)
            await assert_echo(peer, b"hello")
            await peer.aclose()
        else:
            with pytest.raises((trio.BrokenResourceError, OSError)):  # a reset, here or there
                await HalfClosingPeer.dial(port, fresh, role)
            await command.line("denied", "peer=127.0.0.1")


async def test_a_drain_has_a_bound(fresh: Path) -> None:
    async with run_exec(fresh, "--drain-timeout", "0.3") as (command, port):
        peer = await HalfClosingPeer.dial(port, fresh, Role.CLIENT)
        await assert_echo(peer, b"x")
        assert await command.stop() == 0
        assert "cancelled=1" in await command.line("stopped")
        await peer.aclose()


async def test_nobody_can_dial_once_it_says_that_it_drains(fresh: Path) -> None:
    async with run_exec(fresh) as (command, port):
        peer = await HalfClosingPeer.dial(port, fresh, Role.CLIENT)
        # Its program runs: one that is being started has our sockets, too, until it is executed.
        await assert_echo(peer, b"served")
        command.process.terminate()
        await command.line("draining")
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", port)
        await assert_echo(peer, b"still served")
        await peer.aclose()
        assert await command.process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopped_while_idle(fresh: Path, number: signal.Signals) -> None:
    async with run_exec(fresh) as (command, port):
        command.process.send_signal(number)
        assert await command.process.wait() == 0
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", port)
        assert not command.find("Traceback")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopped_while_it_starts(fresh: Path, number: signal.Signals) -> None:
    path = write_configuration(fresh)
    await assert_stops_while_it_starts(fresh, number, "exec", "--config", path, never="listening")


@BOTH
async def test_a_revoked_peer_is_refused(fresh: Path, role: Role) -> None:
    revoked = x509.load_pem_x509_certificate((fresh / "peer.pem").read_bytes()).serial_number
    write_revocation_list(fresh / "crl.pem")
    options = ("--crl", fresh / "crl.pem", "--watch", "inf")
    async with run_exec(fresh, *options, role=role) as (command, port):
        peer = await HalfClosingPeer.dial(port, fresh, role)
        await assert_echo(peer, b"not revoked yet")
        await peer.aclose()
        write_revocation_list(fresh / "crl.pem", revoked)
        command.process.send_signal(signal.SIGHUP)
        assert "crl.pem" in await command.line("reloaded")
        await assert_refused(port, fresh, role)
        assert "revoked" in await command.line("failed")


def write_revocation_list(path: Path, *serial_numbers: int) -> None:
    path.write_bytes(FLEET.revocation_list(*serial_numbers).public_bytes(Encoding.PEM))


async def assert_refused(port: int, folder: Path, role: Role) -> None:
    """Dial; the handshake fails, or the first read does: in TLS 1.3 the client learns it then."""
    with pytest.raises((trio.BrokenResourceError, OSError)):  # a reset, here or there
        peer = await HalfClosingPeer.dial(port, folder, role)
        try:
            await peer.receive()
            raise ConnectionError
        finally:
            await peer.aclose()


@pytest.mark.parametrize("allowed", [True, False])
async def test_anonymous_clients_are_served_if_told_so(fresh: Path, allowed: bool) -> None:
    script = 'echo "$${TRIO_DUPLEX_PEER-nobody known}"'  # $$ is a dollar in the file
    write_configuration(fresh, f"[exec.ask]\nprogram = ['sh', '-c', '{script}']\n")
    options = ["--anonymous-clients"] if allowed else []
    async with run_exec(fresh, *options) as (_, port):
        context = new_context(Role.CLIENT)
        context.load_verify_locations(fresh / "ca.pem")
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        peer = HalfClosingPeer(stream, context, Role.CLIENT)
        try:
            await peer.do_handshake()
            if allowed:
                assert await peer.receive_all() == b"nobody known\n"
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await peer.receive_all()
        finally:
            await peer.aclose()


@BOTH
@pytest.mark.parametrize(
    ("options", "welcome"),
    [
        (["--peer-name", "peer.example"], True),
        (["--peer-name", "other.example", "--peer-name", "peer.example"], True),
        (["--peer-name", "other.example"], False),
        (["--peer-pin", "sha256:" + "0" * 64], False),
    ],
    ids=str,
)
async def test_who_may_come_in(fresh: Path, role: Role, options: list[str], welcome: bool) -> None:
    async with run_exec(fresh, *options, role=role) as (command, port):
        if welcome:
            peer = await HalfClosingPeer.dial(port, fresh, role)
            await assert_echo(peer, b"hello")
            await peer.aclose()
            return
        await assert_refused(port, fresh, role)
        await command.line("PeerRejectedError")
