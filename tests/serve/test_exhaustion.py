"""A machine that has no room: the server says so once, waits, and recovers."""

from __future__ import annotations

import errno
import itertools
import logging
import resource
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.authority import AUTHORITY
from tests.support.child import Child, write_certificates
from tests.support.peers import (
    MemoryListener,
    client_hello,
    credentials,
    echo,
    peer_context,
    peer_stream,
    receive_all,
    receive_exactly,
)
from trio_duplex import DuplexListener, Role, Server, serve_listeners
from trio_duplex.events import ListenerPaused

pytestmark = pytest.mark.slow

NO_ROOM = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
each_errno = pytest.mark.parametrize("code", NO_ROOM, ids=errno.errorcode.__getitem__)

PASSING = [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ECONNRESET, errno.ETIMEDOUT]
"""What accept(2) says of the one connection that it was about to give out."""


async def check_served(stream: trio.abc.Stream, context: ssl.SSLContext | None = None) -> None:
    """Be a speaking peer that expects an echo."""
    tls = peer_stream(stream, Role.CLIENT, context=context)
    await tls.send_all(b"hello")
    assert await receive_exactly(tls, 5) == b"hello"
    await tls.aclose()


# ------------------------------------------------------------------------------- what accept() may say


def said(caplog: pytest.LogCaptureFixture, word: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage().startswith(word)]


@each_errno
async def test_no_room_is_logged_once(
    code: int, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    paused: list[ListenerPaused] = []
    listener = MemoryListener()
    listener.failures += [OSError(code, "no room") for _ in range(20)]

    def observe(event: object) -> None:
        if isinstance(event, ListenerPaused):
            paused.append(event)

    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(
                serve_listeners,
                echo,
                [listener],
                credentials(),
                observers=[observe],
            )
        )
        await check_served(listener.connect())
        assert server.statistics().pauses == 20
        assert [event.error.errno for event in paused] == [code] * 20
        # It backs off, and not for long.
        between = [b - a for a, b in zip(listener.tries, listener.tries[1:21], strict=False)]
        assert between == [pytest.approx(paused[0].seconds)] * 20
        assert 0.01 <= paused[0].seconds <= 1
        assert len(said(caplog, "listener-paused")) == 1
        assert not [record for record in caplog.records if record.exc_info]
        nursery.cancel_scope.cancel()


@each_errno
async def test_the_oldest_pending_peer_makes_room(code: int, autojump_clock: object) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_listeners, echo, [listener], credentials(), window=60)
        )
        silent = []
        for _ in range(3):
            silent.append(listener.connect())
            await trio.sleep(1)
        listener.failures += [OSError(code, "no room")] * 2
        listener.tries.clear()
        silent.append(listener.connect())  # the accept() that was waiting takes this one
        speaking = listener.connect()
        started = trio.current_time()
        await check_served(speaking)
        assert trio.current_time() == started  # nobody waited
        assert await receive_all(silent[0]) == b""
        assert await receive_all(silent[1]) == b""
        assert server.statistics().pending == 2
        nursery.cancel_scope.cancel()


async def test_a_duplex_listener_recovers_too(autojump_clock: object) -> None:
    listener = MemoryListener()
    listener.failures += [OSError(code, "no room") for code in NO_ROOM]
    async with DuplexListener(listener, credentials()) as duplex, trio.open_nursery() as nursery:
        nursery.start_soon(check_served, listener.connect())
        async with await duplex.accept() as connection:
            await echo(connection)


class FailingSocket(trio.socket.SocketType):
    """A listening socket whose accept(2) fails a few times, at first and after its first success."""

    def __init__(
        self, real: trio.socket.SocketType, codes: list[int], later: Sequence[int] = ()
    ) -> None:
        self._real = real
        self.codes = codes
        self._later = later

    @property
    def type(self) -> socket.SocketKind:
        return self._real.type

    @property
    def family(self) -> socket.AddressFamily:
        return self._real.family

    def getsockopt(self, *args: Any) -> Any:
        return self._real.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        self._real.setsockopt(*args)

    def getsockname(self) -> Any:
        return self._real.getsockname()

    def fileno(self) -> int:
        return self._real.fileno()

    def is_readable(self) -> bool:
        return self._real.is_readable()

    def close(self) -> None:
        self._real.close()

    async def accept(self) -> tuple[trio.socket.SocketType, object]:
        if self.codes:
            code = self.codes.pop(0)
            raise OSError(code, errno.errorcode[code])
        accepted = await self._real.accept()
        self.codes, self._later = list(self._later), ()
        return accepted


async def test_errors_of_one_connection_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    # Trio's listener does that; this holds that nothing of ours is in its way.
    caplog.set_level(logging.DEBUG)
    (real,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    failing = FailingSocket(real.socket, list(PASSING))
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            serve_listeners, echo, [trio.SocketListener(failing)], credentials()
        )
        with trio.fail_after(10):
            await check_served(await trio.open_tcp_stream(*real.socket.getsockname()[:2]))
        assert not failing.codes
        assert server.statistics().pauses == 0
        assert not [record for record in caplog.records if record.levelno > logging.INFO]
        nursery.cancel_scope.cancel()


async def test_nobody_makes_room_if_no_connection_is_waiting() -> None:
    # With the table exactly full, accept(2) fails although nobody is there to be accepted.
    (real,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    failing = FailingSocket(real.socket, [], later=[errno.EMFILE])
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, window=60)
        server: Server = await nursery.start(
            serve, echo, [trio.SocketListener(failing)], credentials()
        )
        with trio.fail_after(10):
            silent = await trio.open_tcp_stream(*real.socket.getsockname()[:2])
            while not server.statistics().accepted or failing.codes:
                await trio.sleep(0.001)
            await check_served(await trio.open_tcp_stream(*real.socket.getsockname()[:2]))
        assert not silent.socket.is_readable()
        assert server.statistics().pauses == 0
        assert server.statistics().pending == 1
        await silent.aclose()
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------- a process with few descriptors


CROWD = 400
FEW = 256


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for the crowd, which dials from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 2 * CROWD if hard == resource.RLIM_INFINITY else min(2 * CROWD, hard)
    if enough < CROWD + 100:
        pytest.skip(f"only {hard} file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def child(folder: Path) -> AsyncIterator[Child]:
    write_certificates(folder, AUTHORITY)
    with trio.fail_after(240):
        async with Child.start(folder, descriptors=FEW, window=100) as started:
            yield started


@asynccontextmanager
async def crowd_of(count: int, server: Child) -> AsyncIterator[list[trio.SocketStream]]:
    """So many that have dialled, and who are gone at the end."""
    crowd: list[trio.SocketStream] = []
    try:
        while len(crowd) < count:
            crowd.append(await trio.open_tcp_stream("127.0.0.1", server.port))
        yield crowd
    finally:
        for stream in crowd:
            stream.socket.close()


def most_lines(began: float) -> float:
    """How many lines a log may have since then: what happens often has one a second."""
    return 10 + 2 * (time.monotonic() - began)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux_only
async def test_more_silent_peers_than_descriptors(descriptors: None, tmp_path: Path) -> None:
    context, began = peer_context(Role.CLIENT), time.monotonic()
    async with child(tmp_path) as server:
        before = await server.look()
        async with crowd_of(CROWD, server) as crowd:
            # While they stay, there is room for who speaks: the oldest make it.
            for _ in range(3):
                await check_served(await trio.open_tcp_stream("127.0.0.1", server.port), context)
            during = await server.look()
            assert during["descriptors"] <= FEW
            assert FEW - 50 < during["pending"] < FEW
            gone = CROWD - during["pending"]
            for stream in crowd[:gone]:
                assert await receive_all(stream) == b""
            assert not any(stream.socket.is_readable() for stream in crowd[gone:])
        after = await server.idle()
        assert after["descriptors"] == before["descriptors"]
        assert after["tasks"] == before["tasks"]
        await check_served(await trio.open_tcp_stream("127.0.0.1", server.port), context)
    served = [line for line in server.log if ":closed " in line]
    assert len(served) == 4
    assert len(server.log) <= most_lines(began)
    assert "Traceback" not in "".join(server.log)


@linux_only
async def test_more_established_peers_than_descriptors(descriptors: None, tmp_path: Path) -> None:
    context, began = peer_context(Role.CLIENT), time.monotonic()

    async def hold(stream: trio.SocketStream) -> None:
        # Of those who dialled and had not spoken yet, the oldest had to make room.
        with suppress(trio.BrokenResourceError):
            await peer_stream(stream, Role.CLIENT, context=context).do_handshake()

    async with child(tmp_path) as server, trio.open_nursery() as nursery:
        before = await server.look()
        async with crowd_of(CROWD, server) as crowd, trio.open_nursery() as crowd_nursery:
            for stream in crowd:
                crowd_nursery.start_soon(hold, stream)
            while True:
                look = await server.look()
                if not look["pending"] and not look["handshaking"]:
                    if look["descriptors"] == FEW:
                        break
                    crowd.append(await trio.open_tcp_stream("127.0.0.1", server.port))
                    crowd_nursery.start_soon(hold, crowd[-1])
                await trio.sleep(0.02)
            # None of them can make room now: who comes late waits in the kernel's backlog.
            for _ in range(20):
                late = await trio.open_tcp_stream("127.0.0.1", server.port)
                nursery.start_soon(check_served, late, context)
            crowd_nursery.cancel_scope.cancel()
        while nursery.child_tasks:
            await trio.sleep(0.02)
        after = await server.idle()
        assert after["descriptors"] == before["descriptors"]
        assert after["tasks"] == before["tasks"]
    # Each connection that was served has its line, also here.
    assert len([line for line in server.log if ":closed " not in line]) <= most_lines(began)
    assert "Traceback" not in "".join(server.log)


# ----------------------------------------------------------------------------------------- a flood

GARBAGE = {
    "NotTLSError": [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"\0" * 100, b"\xff\xfe\xfd"],
    "HandshakeError": [client_hello()[:200] + b"\xff" * 2000],
    "PeerClosedError": [b"", b"\x16\x03"],
}


async def test_a_flood_of_garbage_makes_few_log_lines(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    listener = MemoryListener()
    rounds = 100
    started = time.monotonic()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve_listeners, echo, [listener], credentials())
        for _ in range(rounds):
            for data in itertools.chain.from_iterable(GARBAGE.values()):
                peer = listener.connect()
                await peer.send_all(data)
                await peer.send_eof()
        while sum(server.statistics().failed.values()) < rounds * 7:
            await trio.sleep(1)
        assert server.statistics().failed == {
            error: rounds * len(sent) for error, sent in GARBAGE.items()
        }
        assert server.statistics().pending == 0
        nursery.cancel_scope.cancel()
    # A line a second for each class of error, and a summary of each in the end.
    seconds = time.monotonic() - started
    assert len(caplog.records) <= 2 * (seconds + 1) + 2 + 1  # and one for the limits
