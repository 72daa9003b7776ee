"""Checking that a stream keeps the contract of Trio's streams, beyond Trio's own checks.

Trio's checks try each method, its errors, and cancellation. They do not check the
mistakes that a stream with a protocol of its own is most likely to make: to lose
data when a receive is cancelled, to hang in a forced close, or to hang when both
directions are busy with more data than the buffers hold.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar, cast

import trio
import trio.testing

S = TypeVar("S", bound=trio.abc.Stream)
PairMaker = Callable[[], Awaitable[tuple[S, S]]]
"""An async function that makes two connected streams."""

BULK = 2 * 1024 * 1024
"""Bytes to send in each direction at the same time: more than TLS records, memory streams
and the kernel's buffers hold together."""

CANCELLED_BYTES = 64 * 1024
"""Bytes to receive in `check_cancelled_receive`, where most receives are cancelled."""

BOUND = 10.0
"""Seconds after which an operation counts as hanging. It should take milliseconds."""


async def check_stream(
    make_pair: PairMaker[S],
    make_clogged_pair: PairMaker[S] | None = None,
    *,
    make_raw_pair: PairMaker[trio.abc.Stream] | None = None,
    seed: int = 0,
) -> None:
    """Check that a stream keeps Trio's contract, and ours.

    Runs ``trio.testing.check_half_closeable_stream`` if the streams can be
    half-closed, or else ``check_two_way_stream``; then `check_cancelled_receive`,
    `check_bulk` and `check_forced_close`.

    Example::

        async def make_pair():
            return await open_connection_pair()

        await check_stream(make_pair)

    Args:
        make_pair: Makes two connected streams.
        make_clogged_pair: Makes two connected streams of which the first can't
            send any more until the second receives; None to leave out the
            checks of a clogged stream.
        make_raw_pair: Makes two connected streams whose handshake has not begun,
            for the forced close; None to use ``make_pair``.
        seed: The seed for random sizes and cancellations.

    Raises:
        AssertionError: The stream does not keep the contract. If a method of the
            stream raises, that exception is raised instead.
    """
    left, right = await make_pair()
    half_closeable = isinstance(left, trio.abc.HalfCloseableStream)
    for stream in (left, right):
        await trio.aclose_forcefully(stream)
    if half_closeable:
        half_pair = cast("PairMaker[trio.abc.HalfCloseableStream]", make_pair)
        half_clogged = cast("PairMaker[trio.abc.HalfCloseableStream] | None", make_clogged_pair)
        await trio.testing.check_half_closeable_stream(half_pair, half_clogged)
    else:
        await trio.testing.check_two_way_stream(make_pair, make_clogged_pair)
    await check_cancelled_receive(make_pair, seed=seed)
    await check_bulk(make_pair, seed=seed)
    await check_forced_close(make_raw_pair or make_pair)


async def check_cancelled_receive(make_pair: PairMaker[S], *, seed: int = 0) -> None:
    """Check that nothing is lost or doubled when receives are cancelled.

    Args:
        make_pair: Makes two connected streams.
        seed: The seed for random sizes and cancellations.

    Raises:
        AssertionError: The received data is not the data that was sent.
    """
    chance = random.Random(seed)  # noqa: S311 - it must be repeatable
    data = chance.randbytes(CANCELLED_BYTES)
    received = bytearray()
    left, right = await make_pair()
    cancelled = 0

    async def send() -> None:
        position = 0
        while position < len(data):
            size = chance.randrange(1, 1500)
            await left.send_all(data[position : position + size])
            position += size
            for _ in range(chance.randrange(6)):
                await trio.lowlevel.checkpoint()
            if not chance.randrange(4):
                await _let_it_wait(received, position)

    async def cancel_soon(scope: trio.CancelScope, steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def receive() -> None:
        nonlocal cancelled
        while len(received) < len(data):
            arrived: list[bytes | bytearray | Exception] = []
            async with trio.open_nursery() as race:
                race.start_soon(cancel_soon, race.cancel_scope, chance.randrange(8))
                try:
                    arrived.append(await right.receive_some(chance.randrange(1, 2000)))
                except Exception as exc:  # noqa: BLE001 - raised below, without a group
                    arrived.append(exc)
                race.cancel_scope.cancel()
            if not arrived:
                cancelled += 1
                continue
            chunk = arrived[0]
            if isinstance(chunk, Exception):
                raise chunk
            assert chunk, f"the stream ended after {len(received)} of {len(data)} bytes"
            received.extend(chunk)
            so_far = data.startswith(received)
            assert so_far, (
                f"bytes were lost or doubled around position {len(received)}, "
                f"after {cancelled} cancelled receives"
            )

    async with left, right:
        await _together(send, receive)
    assert cancelled, "no receive was ever cancelled: the check has checked nothing"


async def _let_it_wait(received: bytearray, sent: int) -> None:
    """Let the receiver catch up, and wait: only a receive that waits is cancelled.

    There is a bound, because a receiver never catches up if its stream loses data.
    """
    for _ in range(200):
        if len(received) == sent:
            break
        await trio.lowlevel.checkpoint()
    for _ in range(8):
        await trio.lowlevel.checkpoint()


async def check_bulk(make_pair: PairMaker[S], *, size: int = BULK, seed: int = 0) -> None:
    """Check that much data can be sent in both directions at the same time.

    Args:
        make_pair: Makes two connected streams.
        size: Bytes to send in each direction.
        seed: The seed for random data.

    Raises:
        AssertionError: The received data is not the data that was sent.
    """
    chance = random.Random(seed)  # noqa: S311 - it must be repeatable
    left, right = await make_pair()

    async def receive(stream: S, expected: bytes, way: str) -> None:
        received = bytearray()
        while len(received) < len(expected):
            chunk = await stream.receive_some()
            assert chunk, f"{way}: the stream ended after {len(received)} of {size} bytes"
            received += chunk
        # Assert a variable and not the comparison, or pytest would try to show how megabytes differ.
        same = bytes(received) == expected
        assert same, f"{way}: {size} bytes arrived, but not those that were sent"

    there, back = chance.randbytes(size), chance.randbytes(size)
    async with left, right:
        await _together(
            partial(left.send_all, there),
            partial(receive, right, there, "from the first to the second"),
            partial(right.send_all, back),
            partial(receive, left, back, "from the second to the first"),
        )


async def check_forced_close(make_raw_pair: PairMaker[trio.abc.Stream]) -> None:
    """Check that a forced close does not wait, and that the other end notices it.

    A TLS stream that performs its handshake when it is closed hangs here.

    Args:
        make_raw_pair: Makes two connected streams that have not been used yet.

    Raises:
        AssertionError: The close took too long, or the other end did not notice.
    """
    left, right = await make_raw_pair()
    closed = trio.Event()

    async def close() -> None:
        await trio.aclose_forcefully(left)
        closed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with trio.move_on_after(BOUND):
            await closed.wait()
        hung = not closed.is_set()
        if hung:  # close the other end, because a shielded close can't be cancelled
            await trio.aclose_forcefully(right)
            nursery.cancel_scope.cancel()
    assert not hung, f"a forced close hung for {BOUND:g} s"
    rest: bytes | bytearray | None = None
    with trio.move_on_after(BOUND):
        try:
            rest = await right.receive_some()
        except trio.BrokenResourceError:
            rest = b""
    await trio.aclose_forcefully(right)
    assert rest is not None, f"the other end waited for {BOUND:g} s after a forced close"
    assert not rest, f"{len(rest)} bytes came out of a stream that sent none"


async def _together(*functions: Callable[[], Awaitable[object]]) -> None:
    """Run functions concurrently. The first exception cancels the rest, and is raised without a group."""
    failures: list[Exception] = []

    async def run(function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except Exception as exc:  # noqa: BLE001 - raised below
            failures.append(exc)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(run, function)
    if failures:
        raise failures[0]
