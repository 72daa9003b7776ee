"""Many streams from one listener, in the order in which they are ready: `trio_duplex._serve.listener`."""

from __future__ import annotations

import errno
import logging
import math
import ssl
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peers import (
    MemoryListener,
    RecordingStream,
    counting_credentials,
    credentials,
    each_version,
    echo,
    memory_pair,
    open_descriptors,
    peer_stream,
    receive_all,
    receive_exactly,
    reset,
)
from trio_duplex import Connection, DuplexListener, Role
from trio_duplex._serve.acceptor import CAPACITY_PAUSE

pytestmark = pytest.mark.slow


async def speak(stream: trio.abc.Stream, version: ssl.TLSVersion | None = None) -> None:
    """A speaking peer that is echoed."""
    await chat(peer_stream(stream, Role.CLIENT, version), b"spoken")


async def stay_silent(stream: trio.abc.Stream, version: ssl.TLSVersion | None = None) -> None:
    """A silent peer that is echoed."""
    await chat(peer_stream(stream, Role.SERVER, version), b"silent")


async def chat(tls: trio.SSLStream[trio.abc.Stream], word: bytes) -> None:
    async with tls:
        await tls.send_all(word)
        assert await receive_exactly(tls, len(word)) == word


# ------------------------------------------------------------------------------------------- accept


@each_version
async def test_trio_serves_it(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    roles: list[Role] = []

    async def handler(connection: Connection) -> None:
        async with connection:
            roles.append(connection.role)
            await echo(connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            trio.serve_listeners, handler, [DuplexListener(memory, credentials(version))]
        )
        async with trio.open_nursery() as peers:
            peers.start_soon(stay_silent, memory.connect(), version)
            peers.start_soon(speak, memory.connect(), version)
        nursery.cancel_scope.cancel()
    assert roles == [Role.SERVER, Role.CLIENT]
    assert memory.closed


async def test_a_silent_peer_never_delays_the_next(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    ready: list[tuple[Role, float]] = []
    async with (
        trio.open_nursery() as nursery,
        DuplexListener(memory, credentials()) as listener,
    ):
        for script in (stay_silent, speak, stay_silent, speak):
            nursery.start_soon(script, memory.connect())
        for _ in range(4):
            connection = await listener.accept()
            ready.append((connection.role, trio.current_time()))
            nursery.start_soon(echo, connection)
    assert ready == [(Role.SERVER, 0.0)] * 2 + [(Role.CLIENT, 5.0)] * 2


async def test_options_are_those_of_negotiate(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with (
        trio.open_nursery() as nursery,
        DuplexListener(
            memory, credentials(), window=0.5, handshake_timeout=1, https_compatible=True
        ) as listener,
    ):
        never = memory.connect()
        nursery.start_soon(peer_stream(memory.connect(), Role.SERVER).do_handshake)
        connection = await listener.accept()
        assert connection.decision.window == connection.decision.waited == 0.5
        before = len(connection.transport_stream.sent)  # type: ignore[attr-defined]
        await connection.aclose()
        assert len(connection.transport_stream.sent) == before  # type: ignore[attr-defined]
        await receive_all(never)
        assert trio.current_time() == 0.5 + 1


@pytest.mark.parametrize("option", ["window", "handshake_timeout"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (math.nan, ValueError), (True, TypeError), ("5", TypeError)],
)
def test_invalid_duration_is_refused_at_once(
    option: str, value: Any, error: type[Exception]
) -> None:
    memory = MemoryListener()
    with pytest.raises(error, match=option):
        DuplexListener(memory, credentials(), **{option: value})
    assert not memory.closed


async def test_without_a_nursery_it_says_what_to_do() -> None:
    memory = MemoryListener()
    listener = DuplexListener(memory, credentials())
    with pytest.raises(RuntimeError, match="nursery="):
        await listener.accept()
    assert memory.tries == []


async def test_a_nursery_may_be_passed(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with trio.open_nursery() as nursery:
        listener = DuplexListener(memory, credentials(), nursery=nursery)
        assert listener.transport_listener is memory
        nursery.start_soon(peer_stream(memory.connect(), Role.CLIENT).do_handshake)
        connection = await listener.accept()
        assert connection.role is Role.SERVER
        never = memory.connect()
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
        # The nursery was not ours to cancel.
        assert not nursery.cancel_scope.cancel_called
        await receive_all(never)
    assert memory.closed
    assert trio.current_time() == 0


async def test_in_async_with_a_passed_nursery_is_used_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with trio.open_nursery() as nursery:
        async with DuplexListener(memory, credentials(), nursery=nursery) as listener:
            nursery.start_soon(peer_stream(memory.connect(), Role.CLIENT).do_handshake)
            await listener.accept()
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1  # all of the listener's are below it
        assert memory.closed
        assert not nursery.cancel_scope.cancel_called


async def test_accept_is_a_checkpoint_even_if_a_connection_is_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with trio.open_nursery() as nursery, DuplexListener(memory, credentials()) as listener:
        for _ in range(2):
            nursery.start_soon(peer_stream(memory.connect(), Role.CLIENT).do_handshake)
        with trio.testing.assert_checkpoints():
            await listener.accept()
        await trio.testing.wait_all_tasks_blocked()
        with trio.testing.assert_checkpoints():
            await listener.accept()
        with trio.testing.assert_checkpoints():
            await listener.aclose()
        with trio.testing.assert_checkpoints():
            await listener.aclose()
        with trio.testing.assert_checkpoints(), pytest.raises(trio.ClosedResourceError):
            await listener.accept()


async def test_an_accept_that_is_cancelled_loses_no_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with trio.open_nursery() as nursery, DuplexListener(memory, credentials()) as listener:
        with trio.move_on_after(2):
            await listener.accept()
        nursery.start_soon(speak, memory.connect())
        with trio.move_on_after(0):
            await listener.accept()
        nursery.start_soon(echo, await listener.accept())


async def test_two_tasks_may_accept(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with DuplexListener(memory, credentials()) as listener:

        async def serve_one() -> None:
            await echo(await listener.accept())

        async with trio.open_nursery() as both:
            both.start_soon(serve_one)
            both.start_soon(serve_one)
            both.start_soon(speak, memory.connect())
            both.start_soon(stay_silent, memory.connect())


# ------------------------------------------------------------------------------- what fails is logged


async def test_a_failure_is_logged_and_ends_only_its_own_connection(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_duplex")
    memory = MemoryListener()

    class Odd(RecordingStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            raise ZeroDivisionError

    async with trio.open_nursery() as nursery, DuplexListener(memory, credentials()) as listener:
        nursery.start_soon(stay_silent, memory.connect())
        await memory.connect().aclose()
        await memory.connect().send_all(b"GET / HTTP/1.1\r\n\r\n")
        memory.push(Odd(memory_pair()[0]))
        nursery.start_soon(echo, await listener.accept())
    records = [record for record in caplog.records if not record.getMessage().startswith("limits ")]
    levels = {record.levelno: record for record in records}
    assert len(records) == 3
    # A port scan or health check, a fault of the peer, a fault of ours with its traceback.
    assert "PeerClosedError" in levels[logging.DEBUG].getMessage()
    assert "NotTLSError" in levels[logging.INFO].getMessage()
    assert levels[logging.INFO].exc_info is None
    ours = levels[logging.ERROR].exc_info
    assert ours is not None
    assert ours[0] is ZeroDivisionError


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_without_room_it_tries_again(
    code: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryListener()
    memory.failures = [OSError(code, "no room"), OSError(code, "no room")]
    async with trio.open_nursery() as nursery, DuplexListener(memory, credentials()) as listener:
        nursery.start_soon(speak, memory.connect())
        nursery.start_soon(echo, await listener.accept())
        assert memory.tries[:3] == [0.0, CAPACITY_PAUSE, 2 * CAPACITY_PAUSE]
        assert [record.levelname for record in caplog.records] == ["ERROR"]  # said once
    assert caplog.messages[1:] == ["repeated kind=accept count=1"]  # in the end, how often


@pytest.mark.parametrize(
    "failure", [OSError(errno.EBADF, "bad"), OSError("without a number"), RuntimeError("other")]
)
async def test_a_failure_of_the_transport_listener_is_raised_without_a_group(
    failure: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    memory.failures = [failure, failure]
    async with DuplexListener(memory, credentials()) as listener:
        for _ in range(2):  # once for each accept, and not in a busy loop
            with pytest.raises(type(failure)) as caught:
                await listener.accept()
            assert caught.value is failure
            await trio.testing.wait_all_tasks_blocked()
        assert len(memory.tries) <= 3
        # If it recovers, so do we.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak, memory.connect())
            nursery.start_soon(echo, await listener.accept())


# ------------------------------------------------------------------------------------------- closing


async def test_closing_wakes_a_task_that_accepts(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with DuplexListener(memory, credentials()) as listener:
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await listener.accept()

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
    assert memory.closed


async def test_closing_the_transport_listener_ends_accept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with DuplexListener(memory, credentials()) as listener:
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                for _ in range(2):
                    with pytest.raises(trio.ClosedResourceError):
                        await listener.accept()

            nursery.start_soon(accept)
            never = memory.connect()
            await trio.testing.wait_all_tasks_blocked()
            await memory.aclose()
        await receive_all(never)


async def test_closing_the_transport_listener_drops_pending_peers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with DuplexListener(memory, credentials()) as listener:
        tls = peer_stream(memory.connect(), Role.SERVER)
        with trio.move_on_after(1):
            await listener.accept()
        await memory.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await tls.do_handshake()
        assert trio.current_time() == 1


async def test_closing_the_transport_listener_drops_a_ready_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One that nobody has accepted, and that is nobody's fault."""
    memory = MemoryListener()
    async with trio.open_nursery() as nursery:
        async with DuplexListener(memory, credentials(), nursery=nursery) as listener:
            first, ready = (peer_stream(memory.connect(), Role.CLIENT) for _ in range(2))
            nursery.start_soon(first.do_handshake)
            nursery.start_soon(ready.do_handshake)
            await listener.accept()
            await trio.testing.wait_all_tasks_blocked()
            await memory.aclose()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()
        assert not nursery.cancel_scope.cancel_called
    ended = 0
    for tls in (first, ready):
        with trio.move_on_after(1):
            try:
                await tls.receive_some()
            except trio.BrokenResourceError:
                ended += 1
    assert ended == 1


async def test_closing_drops_pending_and_ready_connections(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    mine, made = counting_credentials()
    async with trio.open_nursery() as nursery:
        async with DuplexListener(memory, mine) as listener:
            # The first is fetched, two are ready, one is in its window, one in its handshake.
            peers = [memory.connect() for _ in range(3)]
            tls = [peer_stream(peer, Role.CLIENT) for peer in peers]
            for each in tls:
                nursery.start_soon(each.do_handshake)
            fetched = await listener.accept()
            in_window, in_handshake = memory.connect(), memory.connect()
            await in_handshake.send_all(b"\x16\x03\x01")
            await trio.testing.wait_all_tasks_blocked()
            assert made == [Role.SERVER] * 3
        await receive_all(in_window)
        await receive_all(in_handshake)
        still_open = 0
        for each in tls:
            try:
                with trio.fail_after(1):
                    await each.receive_some()
            except trio.TooSlowError:
                still_open += 1
            except trio.BrokenResourceError:
                pass  # closed by force
        assert still_open == 1
        await fetched.aclose()


@pytest.mark.parametrize("outcome", ["ready", "pending"])
async def test_sockets_do_not_leak(outcome: str) -> None:
    """Real ones: a socket that is forgotten warns, and the warning is an error here."""
    before = open_descriptors()
    with trio.fail_after(10):
        (transport,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = transport.socket.getsockname()[1]
        peers = []
        async with DuplexListener(transport, credentials(), window=math.inf) as listener:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    peers.append(await trio.open_tcp_stream("127.0.0.1", port))
                    if outcome == "ready":
                        tls = peer_stream(peers[-1], Role.CLIENT)
                        nursery.start_soon(tls.do_handshake)
                first = await listener.accept() if outcome == "ready" else None
                if outcome == "pending":
                    with trio.move_on_after(0.05):
                        await listener.accept()
        if first:
            await trio.aclose_forcefully(first)
        for peer in peers:
            await peer.aclose()
    assert open_descriptors() == before


async def test_an_exception_in_its_body_leaves_as_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with DuplexListener(MemoryListener(), credentials()):
            raise ZeroDivisionError


async def test_an_exception_in_flight_is_not_replaced_by_a_cancellation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    with pytest.raises(ZeroDivisionError), trio.CancelScope() as scope:
        async with DuplexListener(memory, credentials()) as listener:
            with trio.move_on_after(1):
                await listener.accept()
            scope.cancel()
            raise ZeroDivisionError
    assert memory.closed


async def test_cancelled_from_outside(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    never = memory.connect()
    with trio.move_on_after(1) as scope:
        async with DuplexListener(memory, credentials()) as listener:
            await listener.accept()
    assert scope.cancelled_caught
    assert memory.closed
    await receive_all(never)


async def test_cancelled_from_outside_as_its_body_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    with trio.CancelScope() as scope:
        async with DuplexListener(memory, credentials()) as listener:
            with trio.move_on_after(1):
                await listener.accept()
            scope.cancel()
    assert scope.cancelled_caught
    assert memory.closed


async def test_cancelling_the_nursery_wakes_all_tasks_that_accept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The nursery that was passed ends, while a task elsewhere accepts."""
    memory = MemoryListener()
    with trio.fail_after(10):
        async with trio.open_nursery() as elsewhere:
            async with trio.open_nursery() as nursery:
                listener = DuplexListener(memory, credentials(), nursery=nursery)

                async def accept() -> None:
                    for _ in range(2):
                        with pytest.raises(trio.ClosedResourceError):
                            await listener.accept()

                elsewhere.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        await listener.aclose()
    assert memory.closed


async def test_a_nursery_that_is_closed_is_an_error_each_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        pass
    listener = DuplexListener(MemoryListener(), credentials(), nursery=nursery)
    with trio.fail_after(10):
        for _ in range(2):
            with pytest.raises(RuntimeError):
                await listener.accept()


async def test_a_reset_before_accept_is_only_a_peer_that_left() -> None:
    with trio.fail_after(10):
        (transport,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = transport.socket.getsockname()[1]
        reset(await trio.open_tcp_stream("127.0.0.1", port))
        async with trio.open_nursery() as nursery:
            async with DuplexListener(transport, credentials(), window=math.inf) as listener:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                nursery.start_soon(peer_stream(stream, Role.CLIENT).do_handshake)
                connection = await listener.accept()
        await connection.aclose()
        await stream.aclose()
