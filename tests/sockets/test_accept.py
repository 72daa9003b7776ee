"""Addresses as accept(2) tells them: `trio_duplex._sockets.accept`."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peers import MemoryListener
from trio_duplex._sockets.accept import BATCH, Connected, Entrance


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05"])
async def test_a_peer_that_resets_before_it_is_accepted_has_its_address(said: bytes) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with socket.create_connection(listener.socket.getsockname()) as probe:
        probe.sendall(said)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        name = probe.getsockname()
    async with listener:
        with trio.fail_after(10), Entrance(listener) as entrance:
            sock, address = await entrance.accept()
        assert not isinstance(sock, trio.abc.Stream)
        sock.close()
    assert address == name


async def test_a_closed_listener() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await listener.aclose()
    with Entrance(listener) as entrance, pytest.raises(trio.ClosedResourceError):
        await entrance.accept()


@asynccontextmanager
async def listening() -> AsyncIterator[trio.SocketListener]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4 * BATCH)
    async with listener:
        yield listener


@contextmanager
def dialled(listener: trio.SocketListener, count: int) -> Iterator[list[socket.socket]]:
    peers = [socket.create_connection(listener.socket.getsockname()) for _ in range(count)]
    try:
        yield peers
    finally:
        for peer in peers:
            peer.close()


def close(connection: Connected) -> None:
    assert not isinstance(connection, trio.abc.Stream)
    assert connection.fileno() != -1
    connection.close()


async def test_so_many_in_one_pass_and_then_others_run() -> None:
    passes = 0

    async def count_passes() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    found: list[int] = []
    async with listening() as listener, trio.open_nursery() as nursery:
        with dialled(listener, 3 * BATCH), Entrance(listener) as entrance, trio.fail_after(20):
            nursery.start_soon(count_passes)
            for _ in range(3 * BATCH):
                connection, _ = await entrance.accept()
                found.append(passes)
                close(connection)
        nursery.cancel_scope.cancel()
    most = max(found.count(passes) for passes in set(found))
    assert BATCH // 2 < most <= 2 * BATCH  # two, if the other came first and then last
    assert len(set(found)) >= 2


async def test_each_has_the_address_of_its_own_peer_and_does_not_block() -> None:
    async with listening() as listener:
        with dialled(listener, 5) as peers, Entrance(listener) as entrance, trio.fail_after(20):
            found = []
            for _ in peers:
                connection, address = await entrance.accept()
                assert isinstance(connection, socket.socket | trio.socket.SocketType)
                found.append(address)
                with socket.socket(fileno=connection.detach()) as plain:
                    with pytest.raises(BlockingIOError):
                        plain.recv(1)
            assert sorted(map(str, found)) == sorted(str(peer.getsockname()) for peer in peers)


async def test_a_default_timeout_of_the_program_changes_nothing() -> None:
    async with listening() as listener:
        with dialled(listener, 2), Entrance(listener) as entrance:
            socket.setdefaulttimeout(30)
            try:
                for _ in range(2):
                    close((await entrance.accept())[0])
                with trio.move_on_after(0.05) as scope:
                    await entrance.accept()
            finally:
                socket.setdefaulttimeout(None)
            assert scope.cancelled_caught


async def test_a_listener_that_is_closed_while_we_wait() -> None:
    async with listening() as listener:
        with dialled(listener, 1), Entrance(listener) as entrance, trio.fail_after(20):
            close((await entrance.accept())[0])
            async with trio.open_nursery() as nursery:

                async def accept() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await entrance.accept()

                nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                listener.socket.close()
            with pytest.raises(trio.ClosedResourceError):
                await entrance.accept()


async def test_it_leaves_the_listener_open() -> None:
    async with listening() as listener:
        with dialled(listener, 2), trio.fail_after(20):
            for _ in range(2):
                with Entrance(listener) as entrance:
                    close((await entrance.accept())[0])
        assert listener.socket.fileno() != -1


class Counting(trio.socket.SocketType):
    """A listening socket of a class of its own."""

    def __init__(self, real: trio.socket.SocketType) -> None:
        self._real = real
        self.accepted = 0

    @property
    def type(self) -> socket.SocketKind:
        return self._real.type

    def getsockopt(self, *args: Any) -> Any:
        return self._real.getsockopt(*args)

    def fileno(self) -> int:
        return self._real.fileno()

    async def accept(self) -> tuple[trio.socket.SocketType, object]:
        accepted = await self._real.accept()
        self.accepted += 1
        return accepted


async def test_a_socket_of_another_class_is_asked_each_time() -> None:
    async with listening() as listener:
        other = Counting(listener.socket)
        with dialled(listener, 3), Entrance(trio.SocketListener(other)) as entrance:
            for _ in range(3):
                close((await entrance.accept())[0])
        assert other.accepted == 3


async def test_any_other_listener() -> None:
    memory = MemoryListener()
    memory.connect()
    with Entrance(memory) as entrance:
        connection, address = await entrance.accept()
    assert isinstance(connection, trio.abc.Stream)
    assert address is None


class Turns(trio.abc.Instrument):
    """Counts the turns of Trio's loop."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_each_batch_ends_a_turn_later() -> None:
    """What is done at its end is done once for all connections that came together."""
    turns, accepted, turn = Turns(), 0, 0
    ends: list[tuple[int, int]] = []  # how many were accepted, and the turns since the last of them
    async with listening() as listener:
        with (
            dialled(listener, 2 * BATCH + 5),
            Entrance(listener, lambda: ends.append((accepted, turns.count - turn))) as entrance,
            trio.move_on_after(20) as scope,
        ):
            trio.lowlevel.add_instrument(turns)
            try:
                while True:
                    close((await entrance.accept())[0])
                    accepted, turn = accepted + 1, turns.count
                    if accepted == 2 * BATCH + 5:
                        scope.deadline = trio.current_time() + 0.1
            finally:
                trio.lowlevel.remove_instrument(turns)
    (count, _), *others = ends  # the first connection is accepted by Trio
    assert count == 0
    assert others == [(BATCH, 1), (2 * BATCH, 1), (2 * BATCH + 5, 1)]


async def test_a_listener_that_is_closed_when_a_batch_ends() -> None:
    async with listening() as listener:
        with dialled(listener, 1), trio.fail_after(20), Entrance(listener) as entrance:
            close((await entrance.accept())[0])
            entrance._after_batch = listener.socket.close
            with pytest.raises(trio.ClosedResourceError):
                await entrance.accept()
