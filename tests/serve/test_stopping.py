"""Draining and stopping: peers are told, nobody is waited for too long, and nothing goes on."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.authority import AUTHORITY
from tests.support.peers import (
    NODE,
    MemoryListener,
    RecordingStream,
    client_hello,
    credentials,
    each_role,
    each_version,
    echo,
    peer_context,
    peer_stream,
    receive_all,
    receive_exactly,
)
from trio_duplex import Connection, Credentials, Limits, Role, Server, serve_listeners, serve_tcp

pytestmark = pytest.mark.slow


EXAMPLES = Path(__file__).parents[2] / "docs/examples"

WINDOWS = {Role.SERVER: 5.0, Role.CLIENT: 0.05}
"""Seconds: who is silent over real sockets waits them out."""


# ------------------------------------------------------------------------------------- a close_notify


class StandardPeer:
    """A peer made of the standard library alone, with sockets that block, in a thread.

    Args:
        role: The role that it plays.
        port: Where it dials, on 127.0.0.1.
    """

    def __init__(self, role: Role, port: int, context: ssl.SSLContext) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
            self._tls = context.wrap_socket(
                raw, server_side=role is Role.SERVER, suppress_ragged_eofs=False
            )
        try:
            self.check_echo()
        except BaseException:
            self._tls.close()
            raise

    def check_echo(self) -> None:
        self._tls.sendall(b"hello")
        assert self._tls.recv(100) == b"hello"

    def leave(self) -> bytes:
        """Send a close_notify, and read ours."""
        with self._tls, self._tls.unwrap() as raw:
            return raw.recv(100)

    def last_words(self) -> bytes:
        """Read to the end, which must be a close_notify: a bare end of stream raises."""
        with self._tls:
            try:
                return self._tls.recv(100)
            except ssl.SSLError as exc:
                if exc.reason != "UNEXPECTED_EOF_WHILE_READING":
                    raise
                raise ssl.SSLEOFError(*exc.args) from exc  # as CPython 3.11.2 should


Stop = Callable[[Server, trio.Nursery, list[Connection]], Awaitable[object]]


async def by_draining_at_once(server: Server, *_: object) -> None:
    assert (await server.drain(0)).cancelled == 1


async def by_draining(server: Server, *_: object) -> None:
    assert (await server.drain(0.01)).cancelled == 1


async def by_cancelling_the_server(server: Server, *_: object) -> None:
    server.cancel_scope.cancel()


async def by_cancelling_the_nursery(_: Server, nursery: trio.Nursery, *__: object) -> None:
    nursery.cancel_scope.cancel()


async def by_cancelling_the_connection(
    _: Server, __: trio.Nursery, open_: list[Connection]
) -> None:
    open_[0].cancel_scope.cancel()


@pytest.mark.parametrize(
    "stop",
    [
        by_draining_at_once,
        by_draining,
        by_cancelling_the_server,
        by_cancelling_the_nursery,
        by_cancelling_the_connection,
    ],
)
@each_version
@each_role
async def test_an_established_peer_gets_a_close_notify(
    role: Role, version: ssl.TLSVersion, stop: Stop
) -> None:
    open_: list[Connection] = []

    async def handler(connection: Connection) -> None:
        open_.append(connection)
        await echo(connection)

    context = peer_context(role.other, version)
    async with trio.open_nursery() as nursery:
        serve = partial(serve_tcp, host="127.0.0.1", window=WINDOWS[role])
        server: Server = await nursery.start(serve, handler, 0, credentials(version))
        peer = await trio.to_thread.run_sync(StandardPeer, role.other, port(server), context)
        await stop(server, nursery, open_)
        with trio.CancelScope(shield=True):
            assert await trio.to_thread.run_sync(peer.last_words) == b""
        nursery.cancel_scope.cancel()


def port(server: Server) -> int:
    (address,) = server.addresses
    assert isinstance(address, tuple)
    return address[1]


@pytest.mark.parametrize("how", ["drained", "cancelled"])
async def test_a_peer_that_does_not_read_is_not_waited_for(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, limits=Limits(close_timeout=3))
        server: Server = await nursery.start(serve, echo, [listener], credentials())
        ours, theirs = trio.testing.lockstep_stream_pair()
        listener.push(ours)
        peer = peer_stream(theirs, Role.CLIENT)
        await peer.do_handshake()
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        if how == "drained":
            await server.drain(7)
            assert trio.current_time() - started == pytest.approx(7 + 3)
        else:
            server.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert server.statistics().open == 1  # its close is under way, cancelled or not
            await server.drain(math.inf)
            assert trio.current_time() - started == pytest.approx(3)
        assert server.statistics().open == 0
        assert await peer.receive_some() == b""  # what was sent was no less than it should be


@each_version
@each_role
@pytest.mark.parametrize("timeout", ["idle_timeout", "send_timeout"])
async def test_a_broken_connection_is_closed_like_any_other(
    timeout: str, role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    # Its transport is closed by then, and a close_notify can't be sent: that must not end the server.
    async def handler(connection: Connection) -> None:
        if timeout == "idle_timeout":
            await connection.receive_some()
        else:
            await connection.send_all(bytes(100_000))

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        options: dict[str, Any] = {timeout: 2}
        limits = Limits(**options)
        serve = partial(serve_listeners, limits=limits, window=WINDOWS[role])
        server: Server = await nursery.start(serve, handler, [listener], credentials(version))
        near, far = trio.testing.lockstep_stream_pair()
        listener.push(near)
        await peer_stream(far, role.other, version).do_handshake()
        await trio.sleep(10)
        assert server.statistics().handler_failures == {"BrokenResourceError": 1}
        assert server.statistics().open == 0
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------- every phase


class Peers:
    """Peers of one server in memory, each brought into one phase of its life, to stay there."""

    def __init__(self) -> None:
        self.listener = MemoryListener()
        self.streams: dict[str, RecordingStream] = {}
        self.policy_asked = trio.Event()

    async def policy(self, *_: object) -> None:
        if not self.policy_asked.is_set():  # the first is to stay there
            self.policy_asked.set()
            await trio.sleep_forever()

    def _connect(self, phase: str) -> RecordingStream:
        stream = self.streams[phase] = self.listener.connect()
        return stream

    async def in_policy(self) -> None:
        await peer_stream(self._connect("policy"), Role.CLIENT).do_handshake()
        await self.policy_asked.wait()

    async def in_handler(self) -> None:
        tls = peer_stream(self._connect("handler"), Role.CLIENT)
        await tls.send_all(b"hello")
        assert await tls.receive_some() == b"hello"

    async def in_close(self) -> None:
        ours, theirs = trio.testing.lockstep_stream_pair()
        self.streams["close"] = RecordingStream(theirs)
        self.listener.push(ours)
        tls = peer_stream(self.streams["close"], Role.CLIENT)
        await tls.do_handshake()
        await tls.send_all(b"bye")

    async def in_opening(self) -> None:
        await self._connect("opening").send_all(client_hello()[:3])

    async def in_server_handshake(self) -> None:
        stream = self._connect("server handshake")
        await stream.send_all(client_hello())
        assert await stream.receive_some()

    async def greeted(self) -> None:
        assert await self._connect("greeted").receive_some()

    async def in_line(self) -> None:
        self._connect("in line")

    async def in_window(self) -> None:
        self._connect("window")


async def say_bye(connection: Connection) -> None:
    async for chunk in connection:
        if chunk == b"bye":
            return
        await connection.send_all(chunk)


@pytest.mark.parametrize("timeout", [0, 4])
async def test_peers_in_every_phase(timeout: float, autojump_clock: trio.testing.MockClock) -> None:
    peers = Peers()
    mine = Credentials.mutual(
        certificate_chain=NODE, trust=AUTHORITY, peer=peers.policy, allow_self=True
    )
    limits = Limits(client_handshakes=1, greeting_patience=math.inf, close_timeout=50)
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, window=10, handshake_timeout=math.inf, limits=limits)
        server: Server = await nursery.start(serve, say_bye, [peers.listener], mine)
        await peers.in_policy()
        await peers.in_handler()
        await peers.in_opening()
        await peers.in_server_handshake()
        await peers.greeted()
        await peers.in_line()
        await trio.sleep(11)  # those in line have had their window
        await peers.in_window()
        await peers.in_close()
        await trio.testing.wait_all_tasks_blocked()
        statistics = server.statistics()
        assert statistics.open == 2
        assert statistics.pending == 3  # in window, in line, in its opening
        assert sum(statistics.handshaking.values()) == 3
        assert server._acceptor.room.taken == len(peers.streams) == 8

        started = trio.current_time()
        result = await server.drain(timeout)
        # Dropped: in its window, in line, and greeted.
        assert (result.finished, result.cancelled, result.dropped) == (0, 5, 3)
        # Who is in its close has the time for it that it had anyway.
        assert trio.current_time() - started == pytest.approx(50)
        assert server._acceptor.room.taken == 0
        for stream in peers.streams.values():
            with contextlib.suppress(trio.BrokenResourceError):  # as lockstep streams say it
                await receive_all(stream)


async def test_peers_that_finish_in_time(autojump_clock: trio.testing.MockClock) -> None:
    # Whatever phase they are in when it begins: also who is only being looked at is let through.
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, window=2)
        server: Server = await nursery.start(serve, echo, [listener], credentials())

        async def peer(stream: trio.abc.Stream, role: Role, delay: float) -> None:
            tls = peer_stream(stream, role)
            await trio.sleep(delay)
            await tls.send_all(b"hello")
            assert await receive_exactly(tls, 5) == b"hello"
            await trio.sleep(3)
            await tls.send_all(b"again")
            assert await receive_exactly(tls, 5) == b"again"
            await tls.aclose()

        nursery.start_soon(peer, listener.connect(), Role.CLIENT, 0)
        await trio.sleep(1)
        nursery.start_soon(peer, listener.connect(), Role.CLIENT, 1)
        nursery.start_soon(peer, listener.connect(), Role.SERVER, 0)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        result = await server.drain(20, keep_silent=True)
        assert listener.closed
        assert (result.finished, result.cancelled) == (3, 0)
        assert trio.current_time() - started == pytest.approx(2 + 3)


# ----------------------------------------------------------------------------------------- signals

RUN_EXAMPLE = """
import functools, importlib, sys, trio, trio_duplex
sys.path.insert(0, sys.argv[1])
example = importlib.import_module(sys.argv[2])
vars(example).update(DRAIN_TIME=float(sys.argv[3]))
serve_tcp = trio_duplex.serve_tcp

async def serve_here(handler, port, credentials, *, task_status=trio.TASK_STATUS_IGNORED):
    async with trio.open_nursery() as nursery:
        serve = functools.partial(serve_tcp, host="127.0.0.1")
        server = await nursery.start(serve, handler, 0, credentials)
        print(server.addresses[0][1], flush=True)
        task_status.started(server)

trio_duplex.serve_tcp = serve_here
if hasattr(example, "prometheus_client"):
    serve_http = example.prometheus_client.start_http_server
    example.prometheus_client.start_http_server = lambda _, addr: serve_http(0, addr)
trio.run(example.main)
"""
"""An example as it is, but for its ports, and how long it drains."""


@contextlib.contextmanager
def running_example(
    name: str, folder: Path, drain_time: float
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """An example as a process of its own, and the port that it listens on."""
    AUTHORITY.cert_pem.write_to_path(folder / "fleet-ca.pem")
    node = AUTHORITY.issue_cert("example.example")
    node.private_key_pem.write_to_path(folder / "node.key")
    for blob in node.cert_chain_pems:
        blob.write_to_path(folder / "node.pem", append=True)
    command = [sys.executable, "-c", RUN_EXAMPLE, str(EXAMPLES), name, str(drain_time)]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_the_service_drains_at_a_signal(tmp_path: Path) -> None:
    context = peer_context(Role.CLIENT)
    with running_example("service", tmp_path, drain_time=5) as (process, port):
        stays = StandardPeer(Role.CLIENT, port, context)
        leaves = StandardPeer(Role.CLIENT, port, context)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        while is_listening(port):
            time.sleep(0.01)
        leaves.check_echo()  # it drains: who is connected is served
        assert leaves.leave() == b""
        assert stays.last_words() == b""
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - started >= 5
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_the_service_stops_at_the_second_signal(tmp_path: Path) -> None:
    with running_example("service", tmp_path, drain_time=1000) as (process, port):
        peer = StandardPeer(Role.CLIENT, port, peer_context(Role.CLIENT))
        process.send_signal(signal.SIGINT)
        while is_listening(port):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert peer.last_words() == b""
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.one_python
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["echo", "metrics", "rotation"])
def test_an_example_that_does_not_drain_stops_at_once(
    name: str, number: signal.Signals, tmp_path: Path
) -> None:
    with running_example(name, tmp_path, drain_time=0) as (process, port):
        peer = StandardPeer(Role.CLIENT, port, peer_context(Role.CLIENT))
        process.send_signal(number)
        # KeyboardInterrupt may strike in a send_all, and SIGTERM asks nobody.
        with contextlib.suppress(ssl.SSLEOFError):
            assert peer.last_words() == b""
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in errors) is (number is signal.SIGINT)


def test_every_example_that_serves_is_stopped_somewhere() -> None:
    serving = {path.stem for path in EXAMPLES.glob("*.py") if "serve_tcp" in path.read_text()}
    tests = Path(__file__).parents[1]
    elsewhere = [
        tests / "test_readme.py",
        *tests.glob("docs/test_*.py"),
    ]  # they run and stop theirs
    texts = "".join(path.read_text(encoding="utf-8") for path in elsewhere)
    here = {"echo", "metrics", "rotation", "service"}
    assert here <= serving
    assert {name for name in serving - here if name not in texts} == set()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True
