from __future__ import annotations

import pytest
import trio
import trio.testing

import trio_duplex
from trio_duplex import Reason, Role
from trio_duplex.testing import (
    Authority,
    MemoryStream,
    SilentPeer,
    SpeakingPeer,
    check_stream,
    echo,
    open_connection_pair,
    open_memory_connection,
    open_memory_listener,
    open_memory_stream_pair,
    open_server,
)

pytestmark = pytest.mark.slow


async def clogged_pair() -> tuple[MemoryStream, MemoryStream]:
    left, right = open_memory_stream_pair(capacity=1000)
    await left.send_all(bytes(1000))
    await right.send_all(bytes(1000))
    return left, right


async def test_memory_streams_keep_the_contract(autojump_clock: trio.testing.MockClock) -> None:
    async def make_pair() -> tuple[MemoryStream, MemoryStream]:
        return open_memory_stream_pair()

    await check_stream(make_pair, clogged_pair)


async def test_send_waits_while_the_buffer_is_full(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left, right = open_memory_stream_pair(capacity=10)
    with trio.move_on_after(1) as scope:
        await left.send_all(bytes(11))
    assert scope.cancelled_caught
    assert await right.receive_some() == bytes(10)
    with trio.fail_after(1):
        await left.wait_send_all_might_not_block()


async def test_reset_is_seen_after_what_came_before() -> None:
    left, right = open_memory_stream_pair()
    await left.send_all(b"last words")
    left.reset()
    assert await right.receive_some() == b"last words"
    with pytest.raises(trio.BrokenResourceError):
        await right.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await right.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await left.send_all(b"x")


async def test_reset_wakes_a_sender_and_a_receiver() -> None:
    left, right = open_memory_stream_pair(capacity=1)
    broken = []

    async def expect_broken(function: object, *args: object) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await function(*args)  # type: ignore[operator]
        broken.append(function)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_broken, right.send_all, b"too long")
        nursery.start_soon(expect_broken, right.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        left.reset()
    assert len(broken) == 2


async def test_closing_with_data_unread_resets_as_tcp_does() -> None:
    left, right = open_memory_stream_pair()
    await right.send_all(b"never read")
    await left.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await right.receive_some()


async def test_close_twice_and_reset_after_close_do_nothing() -> None:
    left, right = open_memory_stream_pair()
    await left.aclose()
    await left.aclose()
    left.reset()
    assert await right.receive_some() == b""


async def test_operations_checkpoint() -> None:
    left, right = open_memory_stream_pair()
    with trio.testing.assert_checkpoints():
        await left.send_all(b"x")
    with trio.testing.assert_checkpoints():
        await right.receive_some()
    with trio.testing.assert_checkpoints():
        await left.send_eof()
    with trio.testing.assert_checkpoints():
        await left.aclose()
    listener = open_memory_listener()
    with trio.testing.assert_checkpoints():
        await listener.dial()
    with trio.testing.assert_checkpoints():
        await listener.accept()
    with trio.testing.assert_checkpoints():
        await listener.aclose()


@pytest.mark.parametrize("capacity", [0, -5])
def test_capacity_must_hold_something(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        open_memory_stream_pair(capacity)
    with pytest.raises(ValueError, match="capacity"):
        open_memory_listener(capacity)


async def test_listener_gives_the_other_ends_in_order() -> None:
    listener = open_memory_listener()
    for number in b"abc":
        await (await listener.dial()).send_all(bytes([number]))
    for number in b"abc":
        assert await (await listener.accept()).receive_some() == bytes([number])


async def test_closed_listener_refuses_dials_and_resets_unaccepted_connections() -> None:
    listener = open_memory_listener()
    waiting = await listener.dial()
    await listener.aclose()
    await listener.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await waiting.receive_some()
    with pytest.raises(ConnectionRefusedError):
        await listener.dial()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_closing_wakes_a_task_in_accept() -> None:
    listener = open_memory_listener()

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()


@pytest.mark.parametrize("role", Role)
async def test_dialling_in_either_role(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    authority = Authority()
    listener = open_memory_listener()
    async with open_server(listener=listener, credentials=authority.credentials(), window=5):
        started = trio.current_time()
        connection = await open_memory_connection(
            listener, authority.credentials("dialler.example"), role=role
        )
        assert connection.role is role
        assert connection.decision.reason is Reason.RULE
        # A dialler that is TLS server is a silent peer, and costs the whole window.
        assert trio.current_time() - started == (0 if role is Role.CLIENT else 5)
        async with connection:
            await connection.send_all(b"there")
            assert await connection.receive_some() == b"there"


async def test_connection_pair_is_named_by_role(autojump_clock: trio.testing.MockClock) -> None:
    pair = await open_connection_pair()
    assert pair.server.role is Role.SERVER
    assert pair.client.role is Role.CLIENT
    async with pair.server, pair.client:
        await pair.client.send_all(b"hello")
        assert await pair.server.receive_some() == b"hello"


async def test_connection_pair_raises_its_error_without_a_group() -> None:
    with pytest.raises(trio_duplex.HandshakeError):
        await open_connection_pair(client_credentials=Authority().credentials())


async def test_connection_pair_keeps_the_stream_contract(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def make_pair() -> tuple[trio_duplex.Connection, trio_duplex.Connection]:
        pair = await open_connection_pair()
        return pair.client, pair.server

    await check_stream(make_pair)


async def test_hundreds_of_connections_in_virtual_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each waits a window of 5 s. What a thousand take of real time, `docs/testing` says."""
    authority = Authority()
    shared = authority.certificate("fleet.example")
    listener = open_memory_listener()
    decisions: list[trio_duplex.Decision] = []

    async def handler(connection: trio_duplex.Connection) -> None:
        decisions.append(connection.decision)
        await echo(connection)

    async with open_server(handler, authority.credentials(), listener=listener, window=5) as server:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            silent = [SilentPeer(credentials=shared) for _ in range(180)]
            speaking = [SpeakingPeer(credentials=shared) for _ in range(20)]
            for peer in (*silent, *speaking):
                nursery.start_soon(peer.run, server)
        assert trio.current_time() - started == 5
    assert len(decisions) == 200
    assert sorted({(d.role, d.waited) for d in decisions}, key=str) == [
        (Role.CLIENT, 5.0),
        (Role.SERVER, 0.0),
    ]
    for one in silent:
        one.report.assert_role(Role.SERVER)
        assert one.report.heard == b"hello"
    for other in speaking:
        other.report.assert_role(Role.CLIENT)
        assert other.report.heard == b"hello"
