"""The round trip as the kernel tells it: `trio_duplex._sockets.round_trip`."""

from __future__ import annotations

import struct
import sys

import pytest
import trio
import trio.testing

from tests.support.peers import tcp_pair, unix_pair
from trio_duplex._sockets.round_trip import round_trip

linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is read on Linux only")


@linux
async def test_round_trip_on_loopback_is_short() -> None:
    one, other = await tcp_pair()
    async with one, other:
        for stream in (one, other):
            measured = round_trip(stream)
            assert measured is not None
            assert 0 < measured < 0.1


async def test_other_streams_have_none() -> None:
    assert round_trip(trio.testing.memory_stream_pair()[0]) is None
    one, other = unix_pair()
    async with one, other:
        assert round_trip(one) is None


async def test_closed_socket_has_none() -> None:
    one, other = await tcp_pair()
    async with one, other:
        await one.aclose()
        assert round_trip(one) is None


@linux
@pytest.mark.parametrize(
    ("microseconds", "resent", "expected"),
    [(20_000, 0, 0.02), (20_000, 1, None), (0, 0, None)],
)
async def test_what_was_sent_again_tells_nothing(
    microseconds: int, resent: int, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = bytes(8) + struct.pack("=24I", *[*[0] * 15, microseconds, *[0] * 7, resent])
    one, other = await tcp_pair()
    async with one, other:
        monkeypatch.setattr(type(one.socket), "getsockopt", lambda *_: info)
        assert round_trip(one) == expected
        monkeypatch.setattr(type(one.socket), "getsockopt", lambda *_: info[:80])
        assert round_trip(one) is None
