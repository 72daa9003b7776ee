"""Whether a peer is idle: `trio_duplex._stream.idle`, and over TCP, where the kernel counts.

`Connection.idle_timeout` in memory is tested in `test_connection_ends.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import socket
import ssl
import struct
import sys
from typing import Any

import pytest
import trio

from tests.support.peers import (
    RawPeer,
    connection_pair,
    credentials,
    each_role,
    each_version,
    receive_exactly,
    tcp_pair,
    unix_pair,
)
from trio_duplex import Connection, Role, negotiate
from trio_duplex._sockets.progress import Progress, is_tcp, peer_progress
from trio_duplex._stream.idle import IdleWatch

pytestmark = pytest.mark.slow


IDLE = 3.0
"""Seconds: of real time, because the kernel is asked; so long that a busy machine is not idle."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO as Linux has it")


def test_it_is_idle_when_the_time_is_over_and_nothing_came() -> None:
    watch = IdleWatch(80, 1000, countable=True)
    assert watch.next_look == 1000 + 80 / 8
    assert not watch.is_idle(1010, Progress(octets=5, heard=30, waiting=0), 0)
    assert watch.next_look == 1080
    assert watch.is_idle(1080, Progress(octets=5, heard=1, waiting=0), 0), "no bytes, no life"


def test_what_came_after_the_wait_began_is_counted_from_then() -> None:
    watch = IdleWatch(80, 1000, countable=True)
    assert not watch.is_idle(1010, Progress(octets=5, heard=7, waiting=0), 0)
    assert watch.next_look == 1003 + 80
    assert not watch.is_idle(1083, Progress(octets=6, heard=2, waiting=0), 0)
    assert watch.next_look == 1081 + 80
    assert watch.is_idle(1161, Progress(octets=6, heard=2, waiting=0), 0)


def test_what_is_on_its_way_is_looked_after() -> None:
    watch = IdleWatch(80, 1000, countable=True)
    now = 1000.0
    for octets in range(20):  # it moves
        now = watch.next_look
        assert not watch.is_idle(now, Progress(octets=octets, heard=0, waiting=9), 0)
        assert watch.next_look == now + 80 / 8
    last = now
    while not watch.is_idle(now, Progress(octets=19, heard=0, waiting=9), now):
        now = watch.next_look  # it does not, although we send, and it answers to keepalive
    assert now == last + 80


def test_where_nobody_counts_what_the_transport_took_is_life() -> None:
    watch = IdleWatch(80, 1000, countable=False)
    assert watch.next_look == 1080
    assert not watch.is_idle(1080, None, 1050)
    assert watch.next_look == 1130
    assert watch.is_idle(1130, None, 1050)


# --------------------------------------------------------------------------------------- the kernel


async def test_only_tcp_is_counted() -> None:
    for stream in unix_pair():
        assert not is_tcp(stream)
        assert peer_progress(stream) is None
        await stream.aclose()
    assert peer_progress(None) is None


@linux
async def test_the_kernel_counts_both_ways() -> None:
    ours, theirs = await tcp_pair()
    before = peer_progress(ours)
    assert before is not None
    await theirs.send_all(b"12345")
    await receive_exactly(ours, 5)
    await ours.send_all(b"123")
    await receive_exactly(theirs, 3)
    with trio.fail_after(60):
        while (now := peer_progress(ours)) and now.waiting:
            await trio.sleep(0.01)
    assert now is not None
    assert now.octets == before.octets + 8
    assert now.heard < 10
    await ours.aclose()
    assert peer_progress(ours) is None
    await theirs.aclose()


def vanish(stream: trio.SocketStream) -> object:
    """Have its kernel drop whatever comes: no ACK, no FIN, no RST. The result must be kept."""
    code = (ctypes.c_char * 8).from_buffer_copy(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: drop
    attach_filter = 26  # SO_ATTACH_FILTER
    stream.setsockopt(
        socket.SOL_SOCKET, attach_filter, struct.pack("HL", 1, ctypes.addressof(code))
    )
    return code


async def broken(connection: Connection) -> trio.BrokenResourceError:
    with pytest.raises(trio.BrokenResourceError) as caught:
        await connection.receive_some()
    return caught.value


@linux
@each_version
@each_role
async def test_sending_to_a_peer_that_is_gone_is_no_life(
    role: Role, version: ssl.TLSVersion
) -> None:
    ours, theirs = await tcp_pair()
    server, client = await connection_pair(
        version, streams=(ours, theirs) if role is Role.SERVER else (theirs, ours)
    )
    connection, _ = (server, client) if role is Role.SERVER else (client, server)
    connection.idle_timeout = IDLE
    kept = vanish(theirs)
    with trio.fail_after(20 * IDLE):
        async with trio.open_nursery() as nursery:

            async def beat() -> None:
                with contextlib.suppress(
                    trio.BrokenResourceError
                ):  # it may be the first to be told
                    while True:
                        await connection.send_all(b"heartbeat")
                        await trio.sleep(IDLE / 8)

            nursery.start_soon(beat)
            error = await broken(connection)
            nursery.cancel_scope.cancel()
    assert error.__cause__ is None  # our doing, and not the network's
    await trio.aclose_forcefully(connection)
    await trio.aclose_forcefully(theirs)
    del kept


@linux
async def test_the_kernel_is_asked_soon_after_a_wait_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later, an answer to keepalive would look like the last byte that the peer sent."""
    ours, theirs = await tcp_pair()
    connection, peer = await connection_pair(streams=(ours, theirs))
    connection.idle_timeout = 6 * IDLE
    asked = trio.Event()
    socket_type = type(ours.socket)
    ask = socket_type.getsockopt

    def getsockopt(sock: Any, level: int, option: int, *size: int) -> Any:
        if option == socket.TCP_INFO:
            asked.set()
        return ask(sock, level, option, *size)

    monkeypatch.setattr(socket_type, "getsockopt", getsockopt)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.receive_some)
        with trio.fail_after(3 * IDLE):
            await asked.wait()
        nursery.cancel_scope.cancel()
    for each in (connection, peer):
        await trio.aclose_forcefully(each)


@linux
@each_role
async def test_a_record_that_comes_slowly_is_life(role: Role) -> None:
    ours, theirs = await tcp_pair()
    peer = RawPeer(theirs, role.other)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        window = 0 if role is Role.CLIENT else math.inf
        connection = await negotiate(ours, credentials(), window=window)
    connection.idle_timeout = IDLE
    record = peer.encrypt(bytes(100))
    async with trio.open_nursery() as nursery:

        async def trickle() -> None:
            for start in range(0, len(record), 10):
                await theirs.send_all(record[start : start + 10])
                await trio.sleep(IDLE / 8)

        nursery.start_soon(trickle)
        started = trio.current_time()
        with trio.fail_after(50 * IDLE):
            assert await receive_exactly(connection, 100) == bytes(100)
        assert trio.current_time() - started > IDLE
    error = await broken(connection)
    assert error.__cause__ is None
    await trio.aclose_forcefully(theirs)


@linux
async def test_a_slow_reader_is_life() -> None:
    """One piece takes longer than the timeout, and nothing comes back but acknowledgments."""
    theirs = trio.socket.socket()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        await theirs.connect(listener.socket.getsockname())
        ours = await listener.accept()
    connection, peer = await connection_pair(streams=(ours, trio.SocketStream(theirs)))
    connection.idle_timeout = IDLE
    ended: list[float] = []
    started = trio.current_time()

    async def wait() -> None:
        await broken(connection)
        ended.append(trio.current_time() - started)

    with trio.fail_after(50 * IDLE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(connection.send_all, bytes(60_000))
            received = 0
            while received < 60_000:
                received += len(await peer.receive_some(4096))
                await trio.sleep(IDLE / 8)
            moved = trio.current_time() - started
            assert not ended
        assert moved > IDLE
        assert ended[0] > moved
    await trio.aclose_forcefully(peer)
