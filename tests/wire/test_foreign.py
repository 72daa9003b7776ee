"""Naming protocols that are not TLS: `trio_duplex._wire.foreign`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_duplex._wire.foreign import SIGNATURES, name_foreign


def first_fit(data: bytes) -> str:
    """Return the name in the first row of the whole table that fits."""
    return next(
        name
        for name, *conditions in SIGNATURES
        if all(data.startswith(values, offset) for offset, values in conditions)
    )


@st.composite
def signed(draw: st.DrawFn) -> bytes:
    """Bytes that fit a row of the table, and may fit others, too."""
    _, *conditions = draw(st.sampled_from(SIGNATURES))
    data = bytearray(draw(st.binary(min_size=32, max_size=32)))
    for offset, values in conditions:
        value = draw(st.sampled_from(values))
        data[offset : offset + len(value)] = value
    return bytes(data)


@given(signed())
def test_the_first_row_that_fits_names_the_protocol(data: bytes) -> None:
    assert name_foreign(data) == first_fit(data)


@pytest.mark.parametrize("first", range(256))
def test_a_row_that_does_not_name_a_first_byte_fits_after_any(first: int) -> None:
    data = bytes([first]) + bytes.fromhex("00 0000 0a") + b"8.0.36\0"  # a MySQL greeting
    assert name_foreign(data) == first_fit(data)
