"""Two ClientHellos that crossed: `trio_duplex._decision.glare`."""

from __future__ import annotations

import os
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.contexts import new_context
from tests.support.records import HANDSHAKE, make_record
from trio_duplex import Role
from trio_duplex._decision.glare import Crossing, Resolution, resolve

pytestmark = pytest.mark.slow


LOW, HIGH = bytes(32), b"\xff" * 32


def hello() -> bytes:
    """A ClientHello of OpenSSL's, in one record."""
    outgoing = ssl.MemoryBIO()
    context = new_context(Role.CLIENT)
    context.set_alpn_protocols(["h2", "http/1.1"])
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO = hello()
MESSAGE, RANDOM = HELLO[5:], HELLO[11:43]


def cut(message: bytes, sizes: list[int]) -> bytes:
    """A message in records of the given sizes, the last of which takes what is left."""
    records, at = b"", 0
    for size in [*sizes, len(message)]:
        part = message[at : at + size]
        if part:
            records += make_record(HANDSHAKE, part, b"\x03\x01")
        at += size
    return records


def test_larger_random_stays_client_and_drops_exactly_the_others_hello() -> None:
    answer = b"\x16\x03\x03\x00\x01\x02"
    assert resolve(HIGH, HELLO + answer) == Crossing(Resolution.CLIENT, len(HELLO))


def test_smaller_random_starts_over_as_server() -> None:
    assert resolve(LOW, HELLO) == Crossing(Resolution.SERVER)


def test_own_random_is_our_own_hello() -> None:
    assert resolve(RANDOM, HELLO).resolution is Resolution.SAME


def test_both_ends_agree_for_any_two_randoms() -> None:
    for _ in range(500):
        ours, theirs = os.urandom(32), os.urandom(32)
        one = resolve(ours, HELLO[:11] + theirs + HELLO[43:]).resolution
        other = resolve(theirs, HELLO[:11] + ours + HELLO[43:]).resolution
        assert {one, other} == {Resolution.CLIENT, Resolution.SERVER}


@pytest.mark.parametrize("size", [1, 2, 3, 37, 38, 39, 100])
@pytest.mark.parametrize("ours", [LOW, HIGH])
def test_any_cutting_into_records(size: int, ours: bytes) -> None:
    records = cut(MESSAGE, [size] * (len(MESSAGE) // size + 1))
    crossing = resolve(ours, records + b"\x17")
    if ours == HIGH:
        assert crossing == Crossing(Resolution.CLIENT, len(records))
    else:
        assert crossing.resolution is Resolution.SERVER


@pytest.mark.parametrize("ours", [LOW, HIGH])
def test_needs_the_whole_hello(ours: bytes) -> None:
    for end in range(len(HELLO)):
        assert resolve(ours, HELLO[:end]).resolution is Resolution.MORE


@pytest.mark.parametrize("ours", [LOW, HIGH])
@pytest.mark.parametrize(
    "received",
    [
        cut(MESSAGE + b"\x0b\x00\x00\x00", []),  # something in its last record
        cut(MESSAGE + b"\x0b", [10]),
        b"\x16\x03\x01\x00\x00" + HELLO,  # an empty record
        HELLO[:5] + b"\x01\x00\x00\x05" + bytes(300),  # too short to be one
        HELLO[:5] + b"\x01\xff\xff\xff" + bytes(300),  # too long to be one
        cut(MESSAGE, [20])[:25] + b"\x17\x03\x03\x00\x01\x00",  # other records in between
        b"\x16\x03\x01\x40\x01" + bytes(6),  # too long a record
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",  # not a ClientHello
    ],
    ids=[f"case {number}" for number in range(8)],
)
def test_malformed_hello(ours: bytes, received: bytes) -> None:
    assert resolve(ours, received).resolution is Resolution.MALFORMED


@settings(max_examples=300)
@given(st.lists(st.integers(1, 80), max_size=40), st.integers(0, 400), st.binary(max_size=8))
def test_resolution_is_monotone_and_the_same_however_it_is_cut(
    sizes: list[int], end: int, more: bytes
) -> None:
    records = cut(MESSAGE, sizes)
    whole = resolve(HIGH, records)
    assert whole == Crossing(Resolution.CLIENT, len(records))
    part = resolve(HIGH, records[:end])
    assert part.resolution is Resolution.MORE or part == whole
    assert resolve(HIGH, records + more) == whole


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing(received: bytes) -> None:
    crossing = resolve(os.urandom(32), b"\x16\x03\x01" + received)
    assert 0 <= crossing.dropped <= len(received) + 3
