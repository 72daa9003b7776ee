"""A pending peer as bytes: `trio_duplex._serve.pending`."""

from __future__ import annotations

import gc

import pytest

from trio_duplex._serve.pending import Pending, pack, unpack
from trio_duplex._sockets.address import Address


@pytest.mark.parametrize(
    "remote",
    [
        None,
        ("192.0.2.7", 4711),
        ("255.255.255.255", 65_535),
        ("2001:db8::1", 4711, 0, 0),
        ("fe80::1%eth0", 65_535, 0xFFFFF, 0xFFFFFFFF),
        "/run/peer.sock",
        "@abstract\\xff",
        "/run/\udcff",
        "/run/\N{LATIN SMALL LETTER E WITH ACUTE}",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("number", [1, 2**40])
def test_a_session_file_is_read_again(number: int, remote: Address | None) -> None:
    entered = 123_456.789_012_345
    packed = pack(number, entered, remote)
    assert unpack(packed) == Pending(number, entered, remote)
    assert not gc.is_tracked(packed)
