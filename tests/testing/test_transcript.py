from __future__ import annotations

import ssl

import pytest

from trio_duplex import Role
from trio_duplex.testing import End, Entry, PeerReport, Transcript
from trio_duplex.testing._transcript import alert_of

ALERT = bytes.fromhex("15 0303 0002 0230")


def report() -> PeerReport:
    transcript = Transcript("silent peer")
    transcript.entries += [
        Entry(0.0, "note", text="dialled somebody"),
        Entry(0.5, "received", ALERT[:3]),
        Entry(0.75, "received", ALERT[3:]),
        Entry(1.25, "sent", b"GET / HTTP/1.1\r\n"),
    ]
    return PeerReport("silent peer", transcript, alert="unknown_ca", end=End.EOF, seconds=1.25)


def test_transcript_tells_times_directions_records_and_alerts() -> None:
    note, alert, plain = report().transcript.lines()
    assert "dialled somebody" in note
    assert "<-" in alert
    assert "0.750 s" in alert  # when the record was whole
    assert "fatal unknown_ca" in alert
    assert "->" in plain
    assert "an HTTP request" in plain


def test_transcript_keeps_the_raw_bytes() -> None:
    assert report().received == ALERT
    assert report().sent == b"GET / HTTP/1.1\r\n"


def test_repeated_lines_are_told_once() -> None:
    transcript = Transcript("peer", [Entry(i, "sent", b"\x17\x03\x03\0\x01x") for i in range(500)])
    (line,) = transcript.lines()
    assert "500 times, until 499.000 s" in line


def test_what_was_cut_off_is_told_at_the_end() -> None:
    transcript = Transcript("peer", [Entry(1, "sent", ALERT[:6]), Entry(2, "note", text="gone")])
    *_, last = transcript.lines()
    assert "1 of the 2 bytes" in last


def test_empty_transcript_says_so() -> None:
    assert "nothing happened" in str(Transcript("peer"))


def test_failed_role_assertion_shows_the_transcript() -> None:
    one = report()
    with pytest.raises(AssertionError) as info:
        one.assert_role(Role.SERVER)
    text = str(info.value)
    assert str(one.transcript) in text
    assert "unknown_ca" in text
    one.assert_role(None)
    one.role = Role.SERVER
    one.assert_role(Role.SERVER)
    with pytest.raises(AssertionError):
        one.assert_role(None)
    with pytest.raises(AssertionError):
        one.assert_role(Role.CLIENT)


def test_repr_is_one_line_of_facts_and_str_has_all() -> None:
    one = report()
    one.hear(b"data")
    one.error = EOFError("early")
    assert "\n" not in repr(one)
    for fact in ("silent peer", "unknown_ca", "eof", "4 bytes", "early"):
        assert fact in repr(one)
    assert str(one.transcript) in str(one)
    assert one.heard == b"data"


@pytest.mark.parametrize(
    ("reason", "alert"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", "unknown_ca"),
        ("SSLV3_ALERT_BAD_RECORD_MAC", "bad_record_mac"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "certificate_required"),
        ("UNEXPECTED_MESSAGE", None),
    ],
)
def test_alert_of_openssl_s_reasons(reason: str, alert: str | None) -> None:
    error = ssl.SSLError(1, "x")
    error.reason = reason
    assert alert_of(error) == alert
    assert alert_of(ValueError(reason)) is None
