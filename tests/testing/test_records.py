from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_duplex.testing._records import RecordReader, cut_records


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body


def message(kind: int, size: int) -> bytes:
    return bytes([kind]) + size.to_bytes(3, "big") + bytes(size)


ALERT = record(21, b"\x02\x30")


def names(data: bytes, cut: int = 10**6) -> list[str]:
    reader = RecordReader()
    return [
        found.what
        for start in range(0, len(data), cut)
        for found in reader.feed(data[start : start + cut])
    ]


def test_alert_is_named_with_its_level() -> None:
    (found,) = RecordReader().feed(ALERT)
    assert found.alert == "unknown_ca"
    assert found.fatal
    (found,) = RecordReader().feed(record(21, b"\x01\x00"))
    assert found.alert == "close_notify"
    assert not found.fatal


def test_alert_is_seen_when_it_comes_byte_by_byte() -> None:
    reader = RecordReader()
    found = [one for byte in ALERT for one in reader.feed(bytes([byte]))]
    assert [one.alert for one in found] == ["unknown_ca"]


def test_encrypted_alert_is_not_named() -> None:
    (found,) = RecordReader().feed(record(21, bytes(26)))
    assert found.alert is None
    assert "encrypted" in found.what


def test_handshake_messages_are_named_across_records() -> None:
    flight = message(2, 70) + message(11, 900) + message(14, 0)
    whole = names(record(22, flight))
    assert len(whole) == 1
    assert whole[0].endswith(": ServerHello, Certificate, ServerHelloDone")
    cut = names(cut_records(record(22, flight), 3), cut=7)
    for name in ("ServerHello", "Certificate", "ServerHelloDone"):
        assert sum(line.endswith(f" {name}") for line in cut) == 1, name


def test_after_change_cipher_spec_handshake_is_encrypted() -> None:
    *_, finished = names(record(20, b"\x01") + record(22, message(1, 40)))
    assert "ClientHello" not in finished
    assert "encrypted" in finished


def test_not_tls_says_what_it_looks_like_and_comes_at_once() -> None:
    (line,) = names(b"SSH-2.0-OpenSSH\r\n")
    assert "an SSH banner" in line
    # After records, too; only then nobody knows what it looks like.
    *_, line = names(ALERT + b"\x99\x99")
    assert "not TLS, 2 bytes" in line


def test_incomplete_record_is_told_as_the_rest() -> None:
    reader = RecordReader()
    assert reader.rest() is None
    assert reader.feed(ALERT[:6]) == []
    rest = reader.rest()
    assert rest is not None
    assert rest.what == "1 of the 2 bytes of an alert record"
    assert reader.feed(ALERT[6:])[0].alert == "unknown_ca"
    assert reader.rest() is None


@pytest.mark.slow
@given(st.binary(max_size=400), st.integers(1, 50))
def test_never_raises_and_decodes_the_same_in_any_cutting(data: bytes, cut: int) -> None:
    reader = RecordReader()
    for start in range(0, len(data), cut):
        for found in reader.feed(data[start : start + cut]):
            assert found.what
            assert found.what.isprintable()
    reader.rest()


@pytest.mark.slow
@given(st.binary(min_size=1, max_size=600), st.integers(1, 100))
def test_cut_records_keep_the_contents(body: bytes, size: int) -> None:
    cut = cut_records(record(22, body), size)
    contents, position = b"", 0
    while position < len(cut):
        assert cut[position : position + 3] == b"\x16\x03\x03"
        length = int.from_bytes(cut[position + 3 : position + 5], "big")
        assert 1 <= length <= size
        contents += cut[position + 5 : position + 5 + length]
        position += 5 + length
    assert contents == body


@pytest.mark.parametrize("size", [0, -1])
def test_cut_records_refuses_a_size_without_content(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut_records(ALERT, size)


def test_cut_records_refuses_half_records() -> None:
    with pytest.raises(ValueError, match="whole"):
        cut_records(ALERT[:-1], 1)
