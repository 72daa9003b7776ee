"""`trio-duplex exec`, as a user runs it: a process of its own, real peers in both roles."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.command import PATIENCE, Command, run_command
from tests.support.half_closing import HalfClosingPeer
from tests.support.patience import window_for
from trio_duplex import Role

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("role", list(Role), ids="peer is TLS {}".format)
"""The role of the peer; we play the other."""


@asynccontextmanager
async def run_exec(
    credentials: list[str],
    *program: str,
    role: Role = Role.CLIENT,
    window: float | None = None,
    options: tuple[str, ...] = (),
) -> AsyncIterator[tuple[Command, int]]:
    """Start it, for peers of this role; give it and its port."""
    window = window_for(role) if window is None else window
    arguments = ["--listen", "127.0.0.1:0", "--window", str(window), *credentials, *options]
    async with run_command("exec", *arguments, "--", *program) as command:
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


@BOTH
async def test_cat_echoes_a_megabyte_and_ends_with_a_close_notify(
    folder: Path, credentials: list[str], role: Role
) -> None:
    sent = os.urandom(1 << 20)
    async with run_exec(credentials, "cat", role=role) as (command, port):
        peer = await HalfClosingPeer.dial(port, folder, role)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, sent)
            assert await peer.receive_exactly(len(sent)) == sent
        await peer.send_end()
        assert await peer.receive_all() == b""
        await peer.aclose()
        assert await command.stop() == 0


@BOTH
async def test_the_environment_tells_role_and_peer_and_no_more_than_asked(
    folder: Path, credentials: list[str], role: Role
) -> None:
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    options = ("--env", "COLOUR=blue", "--pass-env", "PASSED_*", "--alpn", "echo")
    listen = ["--listen", "127.0.0.1:0", "--window", str(window_for(role))]
    arguments = [*listen, *credentials, *options]
    environ = {"PASSED_ON": "1", "SECRET": "2", "PYTHONCOERCECLOCALE": "0"}
    async with run_command(
        "exec", *arguments[:-2], "--", sys.executable, "-c", script, environ=environ
    ) as command:
        ((_, port),) = await command.addresses()
        found = json.loads(await ask(port, folder, role))
    found.pop("LC_CTYPE", None)  # Python's own doing
    expected = {
        "PATH": os.environ["PATH"],
        "COLOUR": "blue",
        "PASSED_ON": "1",
        "PROTO": "TCP",
        "TCPREMOTEIP": "127.0.0.1",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(port),
        "TCPCONNNUM": "1",
        "SSLREMOTEIP": "127.0.0.1",
        "SSLLOCALIP": "127.0.0.1",
        "SSLLOCALPORT": str(port),
        "SSL_PROTOCOL": "TLSv1.3",
        "TRIO_DUPLEX_ROLE": role.other.value,
        "TRIO_DUPLEX_REASON": "spoke" if role is Role.CLIENT else "silent",
        "TRIO_DUPLEX_PEER": "peer.example",
    }
    assert found.items() >= expected.items()
    assert found.keys() - expected.keys() == {
        "TCPREMOTEPORT",
        "SSLREMOTEPORT",
        "SSL_CIPHER",
        "SSL_PEER_CERT_HASH",
        "SSL_PEER_CERT_SUBJECT",
        "TRIO_DUPLEX_WAITED",
    }
    assert found["SSL_PEER_CERT_HASH"].startswith("SHA256:")
    assert "CN=the peer" in found["SSL_PEER_CERT_SUBJECT"]


@BOTH
async def test_a_program_that_closes_its_output_goes_on_reading(
    folder: Path, credentials: list[str], tmp_path: Path, role: Role
) -> None:
    script = f"echo that is all; exec >&-; cat >{tmp_path}/heard"
    async with run_exec(credentials, "sh", "-c", script, role=role) as (command, port):
        peer = await HalfClosingPeer.dial(port, folder, role)
        assert await peer.receive_all() == b"that is all\n"  # with a close_notify, while it runs
        await peer.send(bytes(1 << 20))
        await peer.send_end()
        await command.line("closed", "number=1")
        assert (tmp_path / "heard").read_bytes() == bytes(1 << 20)
        await peer.aclose()


@BOTH
@pytest.mark.parametrize("end", ["exit 3", "kill -KILL $$"])
async def test_a_program_that_dies_ends_without_a_close_notify(
    folder: Path, credentials: list[str], role: Role, end: str
) -> None:
    script = f"echo half; echo 'why it died' >&2; {end}"
    async with run_exec(credentials, "sh", "-c", script, role=role) as (command, port):
        with pytest.raises((ConnectionResetError, trio.BrokenResourceError)):
            await ask(port, folder, role)
        assert "why it died" in await command.line("stderr", "number=1")
        assert ("code=3" if end == "exit 3" else "code=-9") in await command.line("exited")


@BOTH
async def test_a_program_that_hangs_gets_term_and_then_kill(
    folder: Path, credentials: list[str], role: Role, tmp_path: Path
) -> None:
    script = f"trap 'echo >{tmp_path}/term' TERM; echo up; while :; do sleep 0.1; done"
    # So much later is it killed that it has written by then, on a machine that does a lot else.
    options = ("--eof-grace", "0.2", "--term-grace", "5")
    async with run_exec(credentials, "sh", "-c", script, role=role, options=options) as (
        command,
        port,
    ):
        peer = await HalfClosingPeer.dial(port, folder, role)
        assert await peer.receive_exactly(3) == b"up\n"  # by now, it has its trap
        await peer.send_end()
        assert f"code={-signal.SIGKILL}" in await command.line("exited", "number=1")
        assert (tmp_path / "term").exists()
        await peer.aclose()
        assert await command.stop() == 0


@BOTH
@pytest.mark.parametrize("program", ["exec 0<&-; sleep 600", "sleep 600"], ids=["closed", "unread"])
async def test_a_program_that_never_reads_holds_nobody_when_the_peer_goes(
    folder: Path, credentials: list[str], role: Role, program: str
) -> None:
    options = ("--eof-grace", "0.2", "--term-grace", "0.5")
    async with run_exec(credentials, "sh", "-c", program, role=role, options=options) as (
        command,
        port,
    ):
        peer = await HalfClosingPeer.dial(port, folder, role)
        await peer.send(bytes(1000))
        await peer.send_end()
        await command.line("exited", "number=1")
        await peer.aclose()


@BOTH
async def test_a_program_that_never_reads_meets_back_pressure(
    folder: Path, credentials: list[str], role: Role
) -> None:
    options = ("--term-grace", "0")
    async with run_exec(credentials, "sleep", "600", role=role, options=options) as (_, port):
        peer = await HalfClosingPeer.dial(port, folder, role)
        with trio.move_on_after(1) as scope:
            await peer.send(bytes(64 << 20))
        assert scope.cancelled_caught
        await peer.aclose()


async def test_no_more_processes_than_said(folder: Path, credentials: list[str]) -> None:
    async with run_exec(credentials, "cat", options=("--processes", "1")) as (_, port):
        first = await HalfClosingPeer.dial(port, folder, Role.CLIENT)
        await first.send(b"x")
        assert await first.receive_exactly(1) == b"x"
        second = await HalfClosingPeer.dial(port, folder, Role.CLIENT)
        await second.send(b"y")
        with trio.move_on_after(0.3) as scope:
            await second.receive_exactly(1)
        assert scope.cancelled_caught
        await first.send_end()
        assert await first.receive_all() == b""
        assert await second.receive_exactly(1) == b"y"
        await first.aclose()
        await second.aclose()


async def test_a_program_that_vanished_is_one_line(
    folder: Path, credentials: list[str], tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o700)
    async with run_exec(credentials, str(program)) as (command, port):
        assert await ask(port, folder, Role.CLIENT) == b"here\n"
        program.unlink()
        with pytest.raises((ConnectionResetError, trio.BrokenResourceError)):
            await ask(port, folder, Role.CLIENT)
        assert "No such file" in await command.line("program-not-started", "number=2")
        program.write_text("#!/bin/sh\necho again\n")
        program.chmod(0o700)
        assert await ask(port, folder, Role.CLIENT) == b"again\n"
        assert not command.find("Traceback")


async def test_a_drain_waits_for_programs(folder: Path, credentials: list[str]) -> None:
    async with run_exec(credentials, "cat") as (command, port):
        peer = await HalfClosingPeer.dial(port, folder, Role.CLIENT)
        await peer.send(b"a")
        assert await peer.receive_exactly(1) == b"a"
        command.process.terminate()
        await command.line("draining")
        await peer.send(b"b")
        assert await peer.receive_exactly(1) == b"b"
        await peer.send_end()
        assert await peer.receive_all() == b""
        await peer.aclose()
        assert await command.process.wait() == 0


async def test_a_second_signal_ends_at_once(folder: Path, credentials: list[str]) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 1; done"
    async with run_exec(credentials, "sh", "-c", script, options=("--term-grace", "60")) as (
        command,
        port,
    ):
        peer = await HalfClosingPeer.dial(port, folder, Role.CLIENT)
        assert await peer.receive_exactly(3) == b"up\n"
        command.process.terminate()
        await command.line("draining")
        command.process.terminate()
        with trio.fail_after(PATIENCE):
            assert await command.process.wait() == 128 + signal.SIGTERM
        await peer.aclose()


async def test_many_at_once(folder: Path, credentials: list[str]) -> None:
    answers: list[bytes] = []

    async def one(role: Role, text: bytes) -> None:
        answers.append(await ask(port, folder, role, text))

    # The silent wait together, and no speaking peer is later than that.
    async with run_exec(credentials, "tr", "a-z", "A-Z", window=4) as (_, port):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                role = Role.CLIENT if number % 2 else Role.SERVER
                nursery.start_soon(partial(one, role, b"peer %d" % number))
    assert sorted(answers) == sorted(b"PEER %d" % number for number in range(20))


@BOTH
async def test_what_a_program_wrote_before_its_end_reaches_a_slow_peer(
    folder: Path, credentials: list[str], role: Role
) -> None:
    script = "head -c 8000000 /dev/zero; echo last words >&2"
    async with run_exec(credentials, "sh", "-c", script, role=role) as (command, port):
        peer = await HalfClosingPeer.dial(port, folder, role)
        await trio.sleep(2)  # longer than its pipes may stay open after its end
        assert len(await peer.receive_all()) == 8_000_000
        await peer.aclose()
        await command.line("last words")


async def test_a_child_left_behind_holds_nobody(folder: Path, credentials: list[str]) -> None:
    async with run_exec(credentials, "sh", "-c", "sleep 600 & echo done") as (_, port):
        with trio.fail_after(PATIENCE):
            assert await ask(port, folder, Role.CLIENT) == b"done\n"
