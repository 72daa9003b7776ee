"""The announcement of a dialler that will be the TLS server: `trio_duplex._wire.announcement`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_duplex._wire.announcement import ANNOUNCEMENT, LONGEST, announcement_length

FORMS = [
    bytes.fromhex(text)
    for text in (
        "15030100020 15a".replace(" ", ""),
        "15030200020 15a".replace(" ", ""),
        "15030300020 15a".replace(" ", ""),
        "160301000400000000",
        "160302000400000000",
        "160303000400000000",
    )
]


def test_what_we_send_is_the_alert_user_canceled_at_level_warning() -> None:
    assert bytes.fromhex("1503030002015a") == ANNOUNCEMENT
    assert announcement_length(ANNOUNCEMENT) == 7


@pytest.mark.parametrize("form", FORMS, ids=bytes.hex)
@pytest.mark.parametrize("rest", [b"", b"\x15", b"\x16\x03\x01\x02\x00\x01", ANNOUNCEMENT])
def test_each_form_is_understood_whatever_follows(form: bytes, rest: bytes) -> None:
    assert announcement_length(form + rest) == len(form)


@pytest.mark.parametrize("form", FORMS, ids=bytes.hex)
def test_each_form_may_come_byte_by_byte(form: bytes) -> None:
    for cut in range(len(form)):
        assert announcement_length(form[:cut]) is None


@pytest.mark.parametrize(
    "other",
    [
        "1503030002025a",  # fatal
        "15030300020100",  # close_notify
        "1503000002015a",  # SSL 3.0
        "1503040002015a",
        "1503030003015a",
        "16030300050000000000",
        "160303000401000000",
        "16030300040000000100",
        "1403030001",
        "47",
    ],
)
def test_other_bytes_are_not_an_announcement(other: str) -> None:
    assert announcement_length(bytes.fromhex(other)) == 0


@pytest.mark.slow
@given(st.binary(max_size=LONGEST + 3), st.binary(max_size=4))
def test_verdict_is_monotone(prefix: bytes, more: bytes) -> None:
    before = announcement_length(prefix)
    assert before is None or announcement_length(prefix + more) == before


def test_vectors_of_the_specification() -> None:
    page = (Path(__file__).parents[2] / "docs" / "announcement.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([0-9a-f ]+)` \| (\w+) [^|]*\| (\d*) *\|$", page, re.MULTILINE)
    assert len(rows) == 13
    for first_bytes, verdict, stripped in rows:
        expected = None if verdict == "more" else int(stripped)
        assert announcement_length(bytes.fromhex(first_bytes)) == expected, first_bytes
        assert (verdict == "announced") == bool(expected)
