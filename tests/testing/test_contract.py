"""The contract's checks pass on good streams, and catch each fault they are for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from trio_duplex.testing import (
    Authority,
    MemoryStream,
    check_bulk,
    check_cancelled_receive,
    check_forced_close,
    check_stream,
    open_memory_stream_pair,
)

pytestmark = pytest.mark.slow


class Faulty(trio.abc.Stream):
    """A stream over another, with a fault that subclasses add."""

    def __init__(self, inner: MemoryStream) -> None:
        self.inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Forgetful(Faulty):
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        await trio.lowlevel.checkpoint()  # cancelled here, the data is gone
        return data


class Corrupting(Faulty):
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        return data[:-1] + b"!" if len(data) > 1000 else data


class Truncating(Faulty):
    total = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self.total += len(data := await super().receive_some(max_bytes))
        return b"" if self.total > 10_000 else data


class Polite(Faulty):
    """Wants to hear from the other end before it closes, as a TLS handshake would."""

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self.inner.receive_some()
        await self.inner.aclose()


class Secretive(Faulty):
    """Closes without telling the other end."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Talkative(Faulty):
    async def aclose(self) -> None:
        await self.inner.aclose()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return b"surprise"


def maker(cls: type[Faulty]) -> Callable[[], object]:
    async def make_pair() -> tuple[Faulty, Faulty]:
        left, right = open_memory_stream_pair(capacity=20_000)
        # Two that wait for each other, shielded, would wait for ever.
        return cls(left), Faulty(right) if cls is Polite else cls(right)

    return make_pair


@pytest.mark.parametrize(
    ("check", "cls"),
    [
        (check_cancelled_receive, Forgetful),
        (check_cancelled_receive, Corrupting),
        (check_cancelled_receive, Truncating),
        (check_bulk, Corrupting),
        (check_bulk, Truncating),
        (check_forced_close, Polite),
        (check_forced_close, Secretive),
        (check_forced_close, Talkative),
    ],
)
async def test_check_catches(
    check: Callable[..., object], cls: type[Faulty], autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(AssertionError):
        with trio.move_on_after(1000):
            await check(maker(cls))  # type: ignore[misc]


@pytest.mark.parametrize("check", [check_cancelled_receive, check_bulk, check_forced_close])
async def test_check_passes_good_streams(
    check: Callable[..., object], autojump_clock: trio.testing.MockClock
) -> None:
    await check(maker(Faulty))  # type: ignore[misc]


async def test_trio_s_own_checks_run_on_streams_without_half_close() -> None:
    calls = 0

    class Counting(Faulty):
        async def wait_send_all_might_not_block(self) -> None:
            nonlocal calls
            calls += 1
            await super().wait_send_all_might_not_block()

    await check_stream(maker(Counting))  # type: ignore[arg-type]
    assert calls  # by Trio's checks alone


async def test_forced_close_before_the_handshake_hangs_only_in_trio_s_own_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # Trio's SSLStream performs the handshake in order to close; only a forced close does not.
    from trio_duplex import Role

    context = Authority().certificate().context(Role.CLIENT)

    async def make_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        left, right = open_memory_stream_pair()
        return trio.SSLStream(left, context), right

    await check_forced_close(make_pair)
