"""Certificates in a folder that a test may change, and what a peer makes of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import trio

from tests.support.authority import AUTHORITY
from tests.support.command import Command, run_command
from tests.support.half_closing import HalfClosingPeer


def write_pair(folder: Path, name: str, *names: str) -> None:
    """Write ``NAME.pem`` and ``NAME.key``, a certificate that bears these names and its key."""
    leaf = AUTHORITY.issue_cert(*names)
    # As certbot does: the new file is put in the place of the old one.
    for source, suffix in ((leaf.private_key_pem, "key"), (leaf.cert_chain_pems[0], "pem")):
        new = folder / f"{name}.{suffix}.new"
        source.write_to_path(new)
        new.chmod(0o600)
        new.replace(folder / f"{name}.{suffix}")


def presented_names(peer: HalfClosingPeer) -> list[str]:
    """The names in the certificate that the peer was shown."""
    certificate = peer.tls.getpeercert()
    assert certificate is not None
    return [str(entry[1]) for entry in certificate["subjectAltName"]]


async def assert_echo(peer: HalfClosingPeer, data: bytes) -> None:
    """Send data to a service that sends it back."""
    await peer.send(data)
    assert await peer.receive_exactly(len(data)) == data


@contextlib.asynccontextmanager
async def passphrase_that_is_late(
    folder: Path,
) -> AsyncGenerator[tuple[list[str], Callable[[Command], Awaitable[None]]]]:
    """A passphrase file that gives nothing yet.

    Gives the options that name it, and a function that waits until a command reads it.
    """
    fifo = folder / "passphrase"
    os.mkfifo(fifo)
    writer: int | None = None

    async def wait_until_read(command: Command) -> None:
        nonlocal writer
        while writer is None:
            try:
                writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads it yet
                assert command.process.returncode is None
                await trio.sleep(0.01)
        # It has opened the file. A signal that came now, before it reads, would wait for the end of that.
        os.write(writer, b"x")
        while struct.unpack("i", fcntl.ioctl(writer, termios.FIONREAD, bytes(4))) != (0,):
            await trio.sleep(0.01)

    try:
        yield ["--key-passphrase-file", str(fifo)], wait_until_read
    finally:
        if writer is not None:
            os.close(writer)


async def assert_stops_while_it_starts(
    folder: Path, number: signal.Signals, *arguments: object, never: str
) -> None:
    """Send a signal to a command that still waits for its passphrase.

    Args:
        folder: Where the passphrase file is made.
        number: The signal.
        arguments: The command's.
        never: What its log must not have, because it did not get so far.
    """
    async with passphrase_that_is_late(folder) as (options, wait_until_read):
        async with run_command(*arguments, *options) as command:
            await wait_until_read(command)
            command.process.send_signal(number)
            assert await command.process.wait() == 0
            await command.line("stopped", number.name)
            assert not command.find(never)
            assert not command.find("Traceback")
