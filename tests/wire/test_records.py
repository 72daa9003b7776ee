"""Headers of records: `trio_duplex._wire.records`, held against the kit's own reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.records import make_record, split_records
from trio_duplex._wire.records import HEADER_SIZE, Header, read_header, read_records, write_record

pytestmark = pytest.mark.slow


records = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=5)


@given(records)
def test_written_as_the_kit_writes_them_and_read_back(contents: list[tuple[int, bytes]]) -> None:
    written = b"".join(write_record(kind, part) for kind, part in contents)
    assert written == b"".join(make_record(kind, part) for kind, part in contents)
    assert list(read_records(written)) == contents


@given(st.binary(max_size=100))
def test_reads_any_bytes_as_the_kit_does(data: bytes) -> None:
    assert list(read_records(data)) == list(split_records(data))


@given(st.binary(max_size=10), st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**16 - 1))
def test_header_at_a_position(before: bytes, kind: int, major: int, length: int) -> None:
    data = before + bytes([kind, major, 3]) + length.to_bytes(2, "big")
    assert read_header(data, len(before)) == Header(kind, major, length)
    for cut in range(HEADER_SIZE):
        assert read_header(data[: len(before) + cut], len(before)) is None
