"""Serving: nurseries, cancel scopes, draining, whose fault it was: `trio_duplex._serve.serve`."""

from __future__ import annotations

import errno
import gc
import logging
import math
import select
import ssl
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.support.peers import (
    MemoryListener,
    RecordingStream,
    caught,
    client_hello,
    credentials,
    each_role,
    each_version,
    echo,
    memory_pair,
    open_descriptors,
    peer_context,
    peer_stream,
    receive_all,
    receive_exactly,
    reset,
)
from trio_duplex import (
    Connection,
    Credentials,
    DrainResult,
    DuplexListener,
    Handler,
    Limits,
    Role,
    Server,
    by_role,
    negotiate,
    open_tcp_connection,
    serve_listeners,
    serve_tcp,
)
from trio_duplex._serve.acceptor import CAPACITY_PAUSE
from trio_duplex.events import (
    Accepted,
    ConnectionClosed,
    Event,
    HandshakeCompleted,
    RoleDecided,
)

pytestmark = pytest.mark.slow


@asynccontextmanager
async def serving(
    handler: Handler, *listeners: trio.abc.Listener[trio.abc.Stream], **options: Any
) -> AsyncIterator[Server]:
    """A server for the length of the block; what it raises leaves the block."""
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, **options)
        server = await nursery.start(serve, handler, listeners, credentials())
        yield server
        server.cancel_scope.cancel()


class Outcome:
    """Serve in a task whose failure does not end the others, and keep what it raised."""

    error: BaseException | None = None
    ended = False

    async def serve(
        self,
        handler: Handler,
        *listeners: trio.abc.Listener[trio.abc.Stream],
        task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
        **options: Any,
    ) -> None:
        serve = partial(serve_listeners, task_status=task_status, **options)
        self.error = await caught(partial(serve, handler, listeners, credentials()))
        self.ended = True


async def outcome(
    handler: Handler, *listeners: MemoryListener, **options: Any
) -> BaseException | None:
    """Serve a speaking peer on each listener for a minute: what it raised."""
    result = Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(result.serve, **options), handler, *listeners)
        for listener in listeners:
            nursery.start_soon(keep_talking, listener.connect())
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    return result.error


async def keep_talking(stream: trio.abc.Stream, role: Role = Role.CLIENT) -> bytes:
    """A peer in this role, until the connection ends: what it has received."""
    tls = peer_stream(stream, role)
    data = b""
    try:
        await tls.send_all(b"hello")
        async for chunk in tls:
            data += chunk
    except trio.BrokenResourceError:
        data += b"<broken>"
    return data


async def call(listener: MemoryListener, role: Role = Role.CLIENT) -> trio.SSLStream[Any]:
    """Dial as a peer in this role, and shake hands."""
    tls = peer_stream(listener.connect(), role)
    await tls.do_handshake()
    return tls


async def sleep_forever(connection: Connection) -> None:
    await trio.sleep_forever()


# ------------------------------------------------------------------------------------ what is served


@each_version
async def test_both_kinds_of_peers_on_one_listener(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    seen: list[tuple[Role, float]] = []

    async def handler(connection: Connection) -> None:
        seen.append((connection.role, trio.current_time()))
        await echo(connection)

    async with serving(handler, memory):
        async with trio.open_nursery() as peers:

            async def peer(role: Role) -> None:
                async with peer_stream(memory.connect(), role, version) as tls:
                    await tls.send_all(b"hello")
                    assert await receive_exactly(tls, 5) == b"hello"

            for role in (Role.SERVER, Role.CLIENT, Role.SERVER):
                peers.start_soon(peer, role)
    assert seen == [(Role.SERVER, 0.0), (Role.CLIENT, 5.0), (Role.CLIENT, 5.0)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@each_version
async def test_tcp(host: str, version: ssl.TLSVersion) -> None:
    sockets: list[trio.abc.Stream] = []

    async def handler(connection: Connection) -> None:
        sockets.append(connection.transport_stream)
        await echo(connection)

    with trio.fail_after(20):
        for role, window in ((Role.CLIENT, math.inf), (Role.SERVER, 0)):
            async with trio.open_nursery() as nursery:
                serve = partial(serve_tcp, host=host, window=window, backlog=5)
                server: Server = await nursery.start(serve, handler, 0, credentials(version))
                ((found, port),) = cast("list[tuple[str, int]]", server.addresses)
                assert found == host
                assert port != 0
                async with await open_tcp_connection(
                    host, port, credentials(), role=role
                ) as connection:
                    await connection.send_all(b"hello")
                    assert await receive_exactly(connection, 5) == b"hello"
                server.cancel_scope.cancel()
    assert [type(stream) for stream in sockets] == [trio.SocketStream] * 2


@each_role
async def test_unix_sockets(role: Role, socket_folder: Path) -> None:
    path = str(socket_folder / "socket")
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    with trio.fail_after(10):
        window = math.inf if role is Role.SERVER else 0
        async with serving(echo, trio.SocketListener(sock), window=window) as server:
            assert server.addresses == [path]
            async with peer_stream(await trio.open_unix_socket(path), role.other) as tls:
                await tls.send_all(b"hello")
                assert await receive_exactly(tls, 5) == b"hello"


@each_role
async def test_by_role(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()

    async def serve(connection: Connection) -> None:
        await connection.send_all(b"I am server")

    async def consume(connection: Connection) -> None:
        await connection.send_all(b"I am client")

    async with serving(by_role(server=serve, client=consume), memory):
        data = await receive_all(await call(memory, role.other))
    assert data == f"I am {role}".encode()


async def test_addresses_and_listeners(tmp_path: Path) -> None:
    listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    memory = MemoryListener()
    async with serving(sleep_forever, memory, *listeners) as server:
        assert server.listeners == (memory, *listeners)
        address = listeners[0].socket.getsockname()
        assert server.addresses == [address]  # one that has none to tell is left out
        assert server.listener_scope(memory) is not server.listener_scope(listeners[0])
        with pytest.raises(ValueError):
            server.listener_scope(MemoryListener())
    assert server.addresses == [address]  # and afterwards too


async def test_no_listeners_nothing_to_do() -> None:
    with trio.fail_after(60), trio.testing.assert_checkpoints():
        await serve_listeners(echo, [], credentials())


# ------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize("option", ["window", "handshake_timeout"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (math.nan, ValueError), (True, TypeError), ("5", TypeError)],
)
async def test_invalid_duration_opens_no_socket(
    option: str, value: Any, error: type[Exception]
) -> None:
    (busy,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with busy:
        port = busy.socket.getsockname()[1]
        # Had it tried to listen, it would be an OSError.
        with pytest.raises(error, match=option):
            await serve_tcp(echo, port, credentials(), host="127.0.0.1", **{option: value})
        memory = MemoryListener()
        with pytest.raises(error, match=option):
            await serve_listeners(echo, [memory], credentials(), **{option: value})
        assert not memory.closed
        with pytest.raises(OSError, match="in use"):
            await serve_tcp(echo, port, credentials(), host="127.0.0.1")


async def test_invalid_handler_opens_no_socket() -> None:
    before = open_descriptors()
    no_handler = cast("Handler", None)
    with pytest.raises(TypeError, match="handler"):
        await serve_tcp(no_handler, 0, credentials(), host="127.0.0.1")
    memory = MemoryListener()
    with pytest.raises(TypeError, match="handler"):
        await serve_listeners(no_handler, [memory], credentials())
    assert not memory.closed
    assert open_descriptors() == before


async def no_observer(event: object) -> None:
    """An async function: nobody would await it."""


@pytest.mark.parametrize(
    ("option", "value"),
    [("limits", 1000), ("observers", [None]), ("observers", [no_observer]), ("observers", print)],
)
async def test_invalid_limits_and_observers_open_no_socket(option: str, value: Any) -> None:
    wrong = {option: value}
    (busy,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with busy:
        port = busy.socket.getsockname()[1]
        with pytest.raises(TypeError, match=option.removesuffix("s")):
            await serve_tcp(echo, port, credentials(), host="127.0.0.1", **wrong)
    memory = MemoryListener()
    with pytest.raises(TypeError, match=option.removesuffix("s")):
        await serve_listeners(echo, [memory], credentials(), **wrong)
    with pytest.raises(TypeError, match=option.removesuffix("s")):
        DuplexListener(memory, credentials(), **wrong)
    assert not memory.closed


async def test_invalid_credentials_open_no_socket() -> None:
    """A TLS context, as Trio's own functions take it, is an easy mistake."""
    context = cast("Credentials", peer_context(Role.SERVER))
    before = open_descriptors()
    memory = MemoryListener()
    for refused in (
        partial(serve_tcp, echo, 0, context, host="127.0.0.1"),
        partial(serve_listeners, echo, [memory], context),
        partial(open_tcp_connection, "127.0.0.1", 1, context),
        partial(negotiate, memory_pair()[0], context),
    ):
        with pytest.raises(TypeError, match="credentials"):
            await refused()
    with pytest.raises(TypeError, match="credentials"):
        DuplexListener(memory, context)
    async with serving(echo, memory) as server:
        with pytest.raises(TypeError, match="credentials"):
            server.replace_credentials(context)
        await call(memory)
    assert open_descriptors() == before


async def test_a_port_that_is_taken_leaves_no_descriptor() -> None:
    mine = credentials()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        before = open_descriptors()
        with pytest.raises(OSError, match="in use"):
            await serve_tcp(echo, listener.socket.getsockname()[1], mine, host="127.0.0.1")
        assert open_descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
async def test_without_a_descriptor_left_it_closes_its_listeners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left() -> select.epoll:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(select, "epoll", none_left)
    listeners = [MemoryListener(), MemoryListener()]
    with pytest.raises(OSError, match="too many"):
        await serve_listeners(echo, listeners, credentials())
    assert all(listener.closed for listener in listeners)


@pytest.mark.parametrize("what", ["waiting rooms", "the limit of open files"])
async def test_listeners_are_closed_even_if_we_are_cancelled(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, and what is told is why."""
    resource = pytest.importorskip("resource")

    def fail(*_: object) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    limits = Limits()
    if what == "waiting rooms":
        if sys.platform != "linux":
            pytest.skip("epoll is Linux's")
        monkeypatch.setattr(select, "epoll", fail)
    else:
        limits = Limits(raise_open_files=True)
        monkeypatch.setattr(resource, "setrlimit", fail)
    listeners = [MemoryListener(), MemoryListener()]
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(OSError, match="too many"):
            await serve_listeners(echo, listeners, credentials(), limits=limits)
    assert all(listener.closed for listener in listeners)


# ---------------------------------------------------------------------------------- peers at fault


async def garbage(stream: RecordingStream) -> None:
    await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")


async def hangs_up(stream: RecordingStream) -> None:
    await stream.aclose()


async def hangs_up_in_its_hello(stream: RecordingStream) -> None:
    await stream.send_all(client_hello()[:3])
    await stream.aclose()


async def hangs_up_after_ours(stream: RecordingStream) -> None:
    await stream.receive_some()
    await stream.aclose()


async def speaks_late(stream: RecordingStream) -> None:
    await trio.sleep(5.5)
    await stream.send_all(client_hello())
    await stream.send_all(bytes.fromhex("1503030002020a"))  # unexpected_message, to ours


async def echoes(stream: RecordingStream) -> None:
    await echo(stream)


@pytest.mark.parametrize(
    ("script", "level", "error"),
    [
        (hangs_up, logging.DEBUG, "PeerClosedError"),
        (hangs_up_in_its_hello, logging.DEBUG, "PeerClosedError"),
        (garbage, logging.INFO, "NotTLSError"),
        (hangs_up_after_ours, logging.DEBUG, "HandshakeError"),
        (speaks_late, logging.INFO, "GlareError"),
        (echoes, logging.INFO, "SelfConnectionError"),
    ],
)
async def test_a_peers_fault_ends_its_own_connection(
    script: Callable[[RecordingStream], Awaitable[object]],
    level: int,
    error: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_duplex")
    memory = MemoryListener()
    handled = 0

    async def handler(connection: Connection) -> None:
        nonlocal handled
        handled += 1
        await echo(connection)

    async with serving(handler, memory, raise_handler_errors=True):
        async with trio.open_nursery() as peers:
            peers.start_soon(script, memory.connect())
            await trio.sleep(40)
            assert handled == 0, "the handler is never called"
            started, *told = caplog.records
            assert started.getMessage().startswith("limits ")
            assert [(r.levelno, r.exc_info) for r in told] == [(level, None)]
            assert error in caplog.text
            async with await call(memory) as tls:  # and the server lives
                await tls.send_all(b"hello")
                assert await receive_exactly(tls, 5) == b"hello"
            peers.cancel_scope.cancel()


async def test_hostile_peers_leave_no_socket_behind() -> None:
    """Real sockets: the file descriptors are counted."""
    before = open_descriptors()

    async def hostile(port: int, number: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        match number % 6:
            case 0:
                reset(stream)
            case 1:
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                await caught(partial(receive_all, stream))
            case 2:
                await stream.send_all(client_hello()[:4])
                reset(stream)
            case 3:
                await stream.send_all(client_hello())
                await stream.receive_some()
                reset(stream)
            case 4:
                await stream.send_all(client_hello()[:100])
                await stream.send_eof()
                await caught(partial(receive_all, stream))
            case _:
                await stream.send_all(bytes.fromhex("15030300020228"))
                await caught(partial(receive_all, stream))
        await stream.aclose()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tcp, host="127.0.0.1", window=math.inf)
            server: Server = await nursery.start(serve, echo, 0, credentials())
            ((_, port),) = cast("list[tuple[str, int]]", server.addresses)
            async with trio.open_nursery() as peers:
                for number in range(60):
                    peers.start_soon(hostile, port, number)
            assert (await server.drain(10)).cancelled == 0
        assert open_descriptors() == before


# ------------------------------------------------------------------------------------ handlers at fault


async def test_a_handlers_bug_is_logged_and_ends_its_own_connection(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryListener()

    async def buggy(connection: Connection) -> None:
        if await connection.receive_some() == b"hello":
            raise ZeroDivisionError
        await connection.send_all(b"fine")

    async with serving(buggy, memory):
        other = await call(memory)
        assert await keep_talking(memory.connect()) == b"<broken>", "no due end of the data"
        await trio.testing.wait_all_tasks_blocked()
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        error = record.exc_info[1]
        assert type(error) is ZeroDivisionError
        assert "buggy" in caplog.text  # the traceback
        await other.send_all(b"how are you?")
        assert await receive_all(other) == b"fine"


async def test_a_handlers_bug_is_raised_without_a_group_with_raise_handler_errors(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    bug = ZeroDivisionError()

    async def buggy(connection: Connection) -> None:
        raise bug

    memories = MemoryListener(), MemoryListener()
    assert await outcome(buggy, *memories, raise_handler_errors=True) is bug
    assert [memory.closed for memory in memories] == [True, True]
    assert caplog.records == []


async def test_bugs_of_a_handlers_own_nursery(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def buggy(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    async def twice(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)

    error = await outcome(buggy, MemoryListener(), raise_handler_errors=True)
    assert type(error) is ZeroDivisionError  # the one part of a group
    error = await outcome(twice, MemoryListener(), raise_handler_errors=True)
    assert isinstance(error, ExceptionGroup)
    assert [type(part) for part in error.exceptions] == [ZeroDivisionError] * 2
    assert await outcome(twice, MemoryListener()) is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("cancelled", ["server", "listener", "connection", "outside", "drain"])
@pytest.mark.parametrize("raised", [False, True])
async def test_a_bug_that_comes_with_a_cancellation_is_not_lost(
    raised: bool,
    cancelled: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler is cancelled, and one of its tasks fails in cleaning up: a group of both leaves it."""
    memory = MemoryListener()
    connections: list[Connection] = []

    async def fail_to_clean_up() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def buggy(connection: Connection) -> None:
        connections.append(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_to_clean_up)
            nursery.start_soon(trio.sleep_forever)

    result = Outcome()
    async with trio.open_nursery() as nursery:
        serve = partial(result.serve, raise_handler_errors=raised)
        server: Server = await nursery.start(serve, buggy, memory)
        await call(memory)
        await trio.testing.wait_all_tasks_blocked()
        match cancelled:
            case "server":
                server.cancel_scope.cancel()
            case "listener":
                server.listener_scope(memory).cancel()
            case "connection":
                connections[0].cancel_scope.cancel()
            case "drain":
                assert await server.drain(0) == DrainResult(finished=0, cancelled=1)
            case _:
                nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
        server.cancel_scope.cancel()
    if raised:
        assert type(result.error) is ZeroDivisionError
        assert caplog.records == []
    else:
        assert result.error is None
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "fail_to_clean_up" in caplog.text


async def test_a_peers_fault_that_leaves_a_handler_is_not_a_bug(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_duplex")
    memory = MemoryListener()

    async def two_tasks(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, connection)
            nursery.start_soon(trio.sleep_forever)

    for handler in (echo, two_tasks):
        caplog.clear()
        async with serving(handler, memory, raise_handler_errors=True):
            tls = await call(memory)
            await tls.transport_stream.aclose()  # with no close_notify
            await trio.sleep(10)
            faults = [r for r in caplog.records if "handler-failed" in r.getMessage()]
            assert [(r.levelno, r.exc_info) for r in faults] == [(logging.INFO, None)]
            await call(memory)
        memory = MemoryListener()


async def test_after_the_fault_of_another_peer_there_is_no_close_notify(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A proxy whose other end broke, and a client that must know that it has not got all."""
    memory = MemoryListener()

    async def proxy(connection: Connection) -> None:
        await connection.send_all(b"the first half")
        raise trio.BrokenResourceError("on the other connection")

    async with serving(proxy, memory):
        assert await keep_talking(memory.connect()) == b"the first half<broken>"


async def test_a_stream_that_breaks_as_it_is_closed_does_no_harm(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryListener()

    class BreakingAtClose(RecordingStream):
        async def aclose(self) -> None:
            await super().aclose()
            raise trio.BrokenResourceError

    async with serving(takes(1), memory, raise_handler_errors=True) as server:
        ours, theirs = memory_pair()
        memory.push(BreakingAtClose(ours))
        assert await keep_talking(theirs) == b""
        assert (await server.drain(10)).cancelled == 0
    assert caplog.records == []


@pytest.mark.parametrize("children", [False, True])
async def test_a_system_exit_keeps_its_code(
    children: bool, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()

    async def exit_now() -> None:
        raise SystemExit(3)

    async def leave(connection: Connection) -> None:
        if not children:
            await exit_now()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exit_now)
            nursery.start_soon(trio.sleep_forever)

    async with trio.open_nursery() as peers:
        peers.start_soon(peer_stream(memory.connect(), Role.CLIENT).do_handshake)
        with pytest.raises(SystemExit) as raised:
            await serve_listeners(leave, [memory], credentials())
    assert raised.value.code == 3


@pytest.mark.parametrize("leaving", [SystemExit(3), KeyboardInterrupt()], ids=repr)
async def test_an_exit_takes_precedence_over_a_bug_before_it(
    leaving: BaseException, autojump_clock: trio.testing.MockClock
) -> None:
    """A bug ends the server, and the exit comes as the others are cancelled."""
    memory = MemoryListener()

    async def handler(connection: Connection) -> None:
        if await connection.receive_some(1) == b"b":
            raise ZeroDivisionError
        try:
            await trio.sleep_forever()
        finally:
            raise leaving

    async def say(words: bytes) -> None:
        with suppress(trio.BrokenResourceError):
            tls = peer_stream(memory.connect(), Role.CLIENT)
            await tls.send_all(words)
            await tls.receive_some()

    async with trio.open_nursery() as peers:
        peers.start_soon(say, b"l")

        @peers.start_soon
        async def bug() -> None:
            await trio.sleep(1)
            await say(b"b")

        with pytest.raises(type(leaving)) as raised:
            await serve_listeners(handler, [memory], credentials(), raise_handler_errors=True)
    if isinstance(leaving, SystemExit):
        assert raised.value.code == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("raised", [False, True])
async def test_a_handler_that_closed_its_connection_itself(
    raised: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryListener()

    async def closing(connection: Connection) -> None:
        await connection.aclose()
        if raised:
            await connection.send_all(b"x")  # which is a bug

    async with serving(closing, memory):
        assert await keep_talking(memory.connect()) == b""
        await trio.testing.wait_all_tasks_blocked()
    assert len(caplog.records) == raised


# ------------------------------------------------------------------------------------------- closing


async def test_a_connection_ends_with_close_notify_when_its_handler_returns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()

    async def handler(connection: Connection) -> str:
        await connection.send_all(b"bye")
        return "whatever"

    async with serving(handler, memory):
        for role in Role:
            assert await receive_all(await call(memory, role)) == b"bye"


@pytest.mark.parametrize("cancelled", ["server", "listener", "connection"])
async def test_a_cancelled_connection_ends_with_close_notify(
    cancelled: str, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    connections: list[Connection] = []

    async def handler(connection: Connection) -> None:
        connections.append(connection)
        await trio.sleep_forever()

    async with serving(handler, memory) as server:
        tls = await call(memory)
        await trio.testing.wait_all_tasks_blocked()
        scopes = {
            "server": server.cancel_scope,
            "listener": server.listener_scope(memory),
            "connection": connections[0].cancel_scope,
        }
        scopes[cancelled].cancel()
        assert await tls.receive_some() == b""


async def test_no_close_hangs_if_the_peer_reads_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Neither where the handler returns, nor where all is cancelled; both take a bounded time."""
    memory = MemoryListener()
    for handler in (sleep_forever, lambda connection: trio.sleep(1)):
        ours, theirs = trio.testing.lockstep_stream_pair()
        memory.push(ours)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(
                partial(serve_listeners, handler, [memory], credentials())
            )
            await peer_stream(theirs, Role.CLIENT).do_handshake()
            await trio.testing.wait_all_tasks_blocked()
            if handler is not sleep_forever:
                await trio.sleep(1)
            server.cancel_scope.cancel()
        assert trio.current_time() - start <= 1 + 5
        memory = MemoryListener()


async def test_the_exception_of_a_cancelled_handler_is_not_replaced_by_the_close(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    server: Server | None = None

    async def handler(connection: Connection) -> None:
        assert server is not None
        server.cancel_scope.cancel()
        raise ZeroDivisionError

    result = Outcome()
    async with trio.open_nursery() as nursery:
        serve = partial(result.serve, raise_handler_errors=True)
        server = await nursery.start(serve, handler, memory)
        await call(memory)
    assert type(result.error) is ZeroDivisionError


async def test_a_connection_that_has_ended_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    seen: list[weakref.ref[trio.SSLStream[Any]]] = []

    async def handler(connection: Connection) -> None:
        seen.append(weakref.ref(connection.tls))

    async with serving(handler, memory):
        for _ in range(3):
            await receive_all(await call(memory))
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert [ref() for ref in seen] == [None] * 3


# ------------------------------------------------------------------------------------- cancel scopes


async def test_cancelling_one_listener_leaves_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = MemoryListener(), MemoryListener()
    async with serving(echo, one, other) as server:
        on_one, on_other = await call(one), await call(other)
        pending = one.connect()
        await trio.testing.wait_all_tasks_blocked()
        server.listener_scope(one).cancel()
        assert await on_one.receive_some() == b""
        await receive_all(pending)
        assert (one.closed, other.closed) == (True, False)
        await on_other.send_all(b"hello")
        assert await receive_exactly(on_other, 5) == b"hello"
        await call(other)


async def test_the_servers_cancel_scope_ends_all_of_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memories = [MemoryListener(), MemoryListener()]
    ends: list[trio.abc.Stream] = []
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            server: Server = await nursery.start(
                serve_listeners, sleep_forever, memories, credentials()
            )
            for memory in memories:
                ends += [await call(memory), memory.connect()]
                await trio.testing.wait_all_tasks_blocked()
            server.cancel_scope.cancel()
        for end in ends:
            await receive_all(end)
    assert [memory.closed for memory in memories] == [True, True]


async def test_cancelled_before_it_began(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    with trio.CancelScope() as scope:
        scope.cancel()
        await serve_listeners(echo, [memory], credentials())
    assert memory.closed


async def test_a_connection_has_a_deadline_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()

    async def handler(connection: Connection) -> None:
        connection.cancel_scope.deadline = trio.current_time() + 3
        await echo(connection)

    async with serving(handler, memory, raise_handler_errors=True):
        first = await call(memory)
        await trio.sleep(1)
        second = await call(memory)
        assert await first.receive_some() == b""
        assert trio.current_time() == 3
        await second.send_all(b"still here")
        assert await receive_exactly(second, 10) == b"still here"
        assert await second.receive_some() == b""
        assert trio.current_time() == 4


# ------------------------------------------------------------------------------------------ draining


def takes(seconds: float) -> Handler:
    async def handler(connection: Connection) -> None:
        await trio.sleep(seconds)

    return handler


async def test_drain_lets_handlers_finish_and_cancels_what_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    durations = iter([1, 2, 3, 50, 60])

    async def handler(connection: Connection) -> None:
        await trio.sleep(next(durations))

    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve_listeners, handler, [memory], credentials())
        ends = [await call(memory) for _ in range(5)]
        await trio.testing.wait_all_tasks_blocked()
        with trio.testing.assert_checkpoints():
            assert await server.drain(10) == DrainResult(finished=3, cancelled=2)
        assert trio.current_time() == 10
        assert memory.closed
        for end in ends[:3]:
            assert await end.receive_some() == b"", "each got its close_notify"
        for end in ends[3:]:  # their handlers were not waiting for them: it is a cut
            with pytest.raises(trio.BrokenResourceError):
                await end.receive_some()
    # And the server has returned.


async def test_drain_ends_with_the_last_handler(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(takes(3), memory) as server:
        await call(memory)
        await trio.testing.wait_all_tasks_blocked()
        assert await server.drain(math.inf) == DrainResult(finished=1, cancelled=0)
        assert trio.current_time() == 3


async def test_drain_counts_neither_those_before_nor_accepts_those_after(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(takes(1), memory) as server:
        await call(memory)
        await trio.sleep(2)
        await call(memory)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def too_late() -> None:
                await trio.sleep(0.5)
                assert memory.closed

            nursery.start_soon(too_late)
            assert await server.drain(10) == DrainResult(finished=1, cancelled=0)


async def test_drain_with_no_time_cancels_at_once(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(sleep_forever, memory) as server:
        tls = await call(memory)
        await trio.testing.wait_all_tasks_blocked()
        assert await server.drain(0) == DrainResult(finished=0, cancelled=1)
        assert trio.current_time() == 0
        assert await tls.receive_some() == b""


async def test_drain_when_idle(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(echo, memory) as server:
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                assert await server.drain(10) == DrainResult(finished=0, cancelled=0)
        assert trio.current_time() == 0
        assert memory.closed


async def test_drain_lets_pending_peers_go_on(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    handled: list[Role] = []

    async def handler(connection: Connection) -> None:
        handled.append(connection.role)

    async with serving(handler, memory) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, memory, Role.SERVER)
            nursery.start_soon(hangs_up_after_ours, memory.connect())
            memory.connect()  # one that never answers
            await trio.testing.wait_all_tasks_blocked()
            result = await server.drain(10, keep_silent=True)
            assert result == DrainResult(finished=2, cancelled=1)
            assert trio.current_time() == 10
    assert handled == [Role.CLIENT]


async def test_drain_only_one_listener(autojump_clock: trio.testing.MockClock) -> None:
    one, other = MemoryListener(), MemoryListener()
    async with serving(takes(60), one, other) as server:
        on_one, on_other = await call(one), await call(other)
        await trio.testing.wait_all_tasks_blocked()
        result = await server.drain(2, listener=one)
        assert result == DrainResult(finished=0, cancelled=1)
        assert (one.closed, other.closed) == (True, False)
        with pytest.raises(trio.BrokenResourceError):  # its handler was at something else
            await on_one.receive_some()
        await call(other)
        assert await on_other.receive_some() == b""
        assert trio.current_time() == 60
        with pytest.raises(ValueError):
            await server.drain(2, listener=MemoryListener())


async def test_drain_twice_at_once(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    results: dict[float, DrainResult] = {}
    async with serving(takes(30), memory) as server:
        await call(memory)
        await trio.testing.wait_all_tasks_blocked()

        async def drain(timeout: float) -> None:
            results[timeout] = await server.drain(timeout)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, math.inf)
            nursery.start_soon(drain, 5)
        assert trio.current_time() == 5
    assert results[5] == DrainResult(finished=0, cancelled=1)
    # The patient one saw it end before its own time was up.
    assert results[math.inf] == DrainResult(finished=1, cancelled=0)


async def test_drain_called_by_a_handler_is_cancelled_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    server: Server | None = None

    async def handler(connection: Connection) -> None:
        assert server is not None
        await server.drain(3)
        raise AssertionError("it cannot have seen its own end")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, raise_handler_errors=True)
            server = await nursery.start(serve, handler, [memory], credentials())
            tls = await call(memory)
            with pytest.raises(trio.BrokenResourceError):  # it was not the peer's turn
                await tls.receive_some()
        assert trio.current_time() == 3


async def test_drain_of_a_server_that_has_ended(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(echo, memory) as server:
        pass
    assert await server.drain(10) == DrainResult(finished=0, cancelled=0)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (math.nan, ValueError), (True, TypeError), ("1", TypeError)],
)
async def test_drain_with_an_invalid_duration(
    timeout: Any, error: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(echo, memory) as server:
        with pytest.raises(error, match="timeout"):
            await server.drain(timeout)
        await call(memory)  # it still accepts


async def test_a_drain_that_is_cancelled_leaves_the_connections(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(echo, memory) as server:
        tls = await call(memory)
        with trio.move_on_after(2):
            await server.drain(10)
        await tls.send_all(b"hello")
        assert await receive_exactly(tls, 5) == b"hello"


async def test_drain_over_tcp() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tcp, host="127.0.0.1", window=math.inf)
            server: Server = await nursery.start(serve, echo, 0, credentials())
            ((_, port),) = cast("list[tuple[str, int]]", server.addresses)
            connection = await open_tcp_connection("127.0.0.1", port, credentials())
            await connection.send_all(b"x")
            await receive_exactly(connection, 1)
            assert await server.drain(0) == DrainResult(finished=0, cancelled=1)
            assert await connection.receive_some() == b""
            await connection.aclose()
            with pytest.raises(OSError):
                await trio.open_tcp_stream("127.0.0.1", port)


async def test_each_event_names_the_peer_by_its_address() -> None:
    events: list[Event] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tcp, host="127.0.0.1", observers=[events.append])
            server: Server = await nursery.start(serve, echo, 0, credentials())
            stream = await trio.open_tcp_stream(*server.addresses[0])
            address = "{}:{}".format(*stream.socket.getsockname())
            tls = peer_stream(stream, Role.CLIENT)
            await tls.send_all(b"x")
            assert await receive_exactly(tls, 1) == b"x"
            await tls.aclose()
            await server.drain(10)
    assert [(type(event), event.peer, event.number) for event in events] == [  # type: ignore[attr-defined]
        (kind, address, 1) for kind in (Accepted, RoleDecided, HandshakeCompleted, ConnectionClosed)
    ]


async def test_a_cancellation_from_outside_is_not_swallowed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    returned = False
    with trio.move_on_after(1) as scope:
        await serve_listeners(echo, [MemoryListener()], credentials())
        returned = True
    assert scope.cancelled_caught
    assert not returned


# ---------------------------------------------------------------------------------- handler_nursery


async def test_handlers_in_another_nursery_survive_the_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with trio.open_nursery() as handlers:
        async with serving(echo, memory, handler_nursery=handlers):
            tls = await call(memory)
            await trio.testing.wait_all_tasks_blocked()
        assert memory.closed
        await tls.send_all(b"hello")
        assert await receive_exactly(tls, 5) == b"hello"
        handlers.cancel_scope.cancel()
    assert await tls.receive_some() == b""


async def test_handlers_in_another_nursery_are_drained_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with trio.open_nursery() as handlers:
        async with serving(takes(5), memory, handler_nursery=handlers) as server:
            await call(memory)
            await trio.sleep(3)
            await call(memory)
            await trio.testing.wait_all_tasks_blocked()
            assert await server.drain(3) == DrainResult(finished=1, cancelled=1)
        assert not handlers.cancel_scope.cancel_called
    assert trio.current_time() == 6


async def test_every_handler_in_another_nursery_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with trio.open_nursery() as handlers:
        async with serving(sleep_forever, memory, handler_nursery=handlers) as server:
            for _ in range(3):
                await call(memory)
            await trio.testing.wait_all_tasks_blocked()
            assert await server.drain(1) == DrainResult(finished=0, cancelled=3)
        assert not handlers.child_tasks
        assert not handlers.cancel_scope.cancel_called


async def test_a_handler_that_has_not_begun_is_drained_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()

    class Reluctant:
        """A nursery that starts its tasks late."""

        async def start_late(self, function: Any, *args: object) -> None:
            await trio.sleep(2)
            await function(*args)

        def start_soon(self, function: Any, *args: object) -> None:
            nursery.start_soon(self.start_late, function, *args)

    late = cast("trio.Nursery", Reluctant())
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            async with serving(sleep_forever, memory, handler_nursery=late) as server:
                await call(memory)
                await trio.testing.wait_all_tasks_blocked()
                assert await server.drain(1) == DrainResult(finished=0, cancelled=1)
    assert trio.current_time() == 2


async def test_handlers_bugs_in_another_nursery_do_not_touch_it(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(connection: Connection) -> None:
        raise ZeroDivisionError

    async with trio.open_nursery() as handlers:
        assert await outcome(buggy, MemoryListener(), handler_nursery=handlers) is None
        assert len(caplog.records) == 1
        error = await outcome(
            buggy, MemoryListener(), handler_nursery=handlers, raise_handler_errors=True
        )
        assert type(error) is ZeroDivisionError
        assert not handlers.cancel_scope.cancel_called


async def test_a_closed_handler_nursery_ends_the_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as handlers:
        pass
    memory = MemoryListener()
    result = Outcome()
    async with trio.open_nursery() as nursery:
        serve = partial(result.serve, handler_nursery=handlers)
        server: Server = await nursery.start(serve, echo, memory)
        with trio.fail_after(1):
            assert await keep_talking(memory.connect()) == b"<broken>"
    assert type(result.error) is RuntimeError
    assert memory.closed
    assert server._acceptor.room.taken == 0
    assert not any(service._handling for service in server._services)
    with trio.fail_after(1):
        assert await server.drain(0) == DrainResult(finished=0, cancelled=0)


# ------------------------------------------------------------------------------- listeners that fail


async def test_without_room_it_waits_and_goes_on(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryListener()
    memory.failures = [OSError(errno.EMFILE, "too many"), OSError(errno.ENFILE, "too many")]
    async with serving(echo, memory):
        await call(memory)
        assert memory.tries[:3] == [0.0, CAPACITY_PAUSE, 2 * CAPACITY_PAUSE]
        assert CAPACITY_PAUSE == 0.1
    words = [record.getMessage().split()[0] for record in caplog.records]
    assert words == ["listener-paused", "repeated"]  # said once, and how often in the end


async def test_a_drain_ends_the_wait_for_room(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    memory.failures = [OSError(errno.EMFILE, "too many")] * 10_000
    async with serving(echo, memory) as server:
        await trio.sleep(1.05)
        await server.drain(10)
    assert trio.current_time() == 1.05


@pytest.mark.parametrize(
    "failure", [OSError(errno.EBADF, "bad"), RuntimeError("odd"), trio.BrokenResourceError()]
)
async def test_a_permanent_failure_of_a_listener_ends_the_server(
    failure: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    good, bad = MemoryListener(), MemoryListener()
    bad.failures = [failure]
    assert await outcome(echo, good, bad) is failure  # bare, not in a group
    assert good.closed
    assert bad.closed


async def test_a_listener_closed_by_its_owner_lets_its_connections_finish() -> None:
    (one,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (other,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, window=math.inf)
            server: Server = await nursery.start(serve, echo, [one, other], credentials())
            ports = [one.socket.getsockname()[1], other.socket.getsockname()[1]]
            connection = await open_tcp_connection("127.0.0.1", ports[0], credentials())
            await one.aclose()
            await trio.testing.wait_all_tasks_blocked()
            await connection.send_all(b"hello")
            assert await receive_exactly(connection, 5) == b"hello"
            async with await open_tcp_connection("127.0.0.1", ports[1], credentials()):
                pass
            assert server.addresses == [("127.0.0.1", port) for port in ports]
            await other.aclose()
            await connection.aclose()
        # All are closed, and the server has returned.


async def test_a_keyboard_interrupt_is_raised_without_a_group(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It strikes in whatever task runs: here in a handler, below two nurseries of ours."""
    memory = MemoryListener()

    async def interrupted(connection: Connection) -> None:
        raise KeyboardInterrupt

    async with trio.open_nursery() as peers:
        peers.start_soon(peer_stream(memory.connect(), Role.CLIENT).do_handshake)
        with pytest.raises(KeyboardInterrupt):
            await serve_listeners(interrupted, [memory], credentials())
