"""What an alert of the peer's is called, and what is advised: `trio_duplex._tls.reasons`."""

from __future__ import annotations

import ssl

import pytest

from tests.support.peers import peer_context
from tests.support.records import ALERT, make_record
from trio_duplex import Role
from trio_duplex._tls.reasons import is_own_fault, tls_advice, tls_alert, tls_reason


def alerted(code: int) -> ssl.SSLError:
    """What this OpenSSL makes of an alert in answer to a ClientHello."""
    incoming = ssl.MemoryBIO()
    tls = peer_context(Role.CLIENT).wrap_bio(incoming, ssl.MemoryBIO())
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    incoming.write(make_record(ALERT, bytes([2, code])))
    with pytest.raises(ssl.SSLError) as caught:
        tls.do_handshake()
    return caught.value


KINDS = {
    "version": {70: "protocol_version", 86: "inappropriate_fallback"},
    "cipher": {40: "handshake_failure", 71: "insufficient_security"},
    "name": {112: "unrecognized_name"},
    "ALPN": {120: "no_application_protocol"},
    "expired": {45: "certificate_expired"},
    "certificate": {
        42: "bad_certificate",
        43: "unsupported_certificate",
        44: "certificate_revoked",
        46: "certificate_unknown",
        48: "unknown_ca",
        49: "access_denied",
        51: "decrypt_error",
        116: "certificate_required",
    },
    "failed": {80: "internal_error"},
    "gave up": {0: "close_notify", 90: "user_canceled"},
    "protocol": {
        10: "unexpected_message",
        22: "record_overflow",
        47: "illegal_parameter",
        50: "decode_error",
        110: "unsupported_extension",
        111: "certificate_unobtainable",
        113: "bad_certificate_status_response",
        114: "bad_certificate_hash_value",
    },
}
NAMES = {
    "version": "TLS 1.2",
    "cipher": "ECDHE",
    "name": "server_hostname",
    "ALPN": "alpn",
    "expired": "expired",
    "certificate": "our certificate",
    "failed": "log",
    "gave up": "gave up",
    "protocol": "middlebox",
}
"""What a person would look for in each kind of advice."""

each_alert = pytest.mark.parametrize(
    ("code", "name"), [pair for kind in KINDS.values() for pair in kind.items()]
)


@each_alert
def test_alerts_are_known_by_name(code: int, name: str) -> None:
    assert tls_alert(alerted(code)) == name
    assert name in tls_reason(alerted(code))


@pytest.mark.slow
def test_each_kind_has_advice_of_its_own() -> None:
    advice = {kind: {tls_advice(alerted(code)) for code in codes} for kind, codes in KINDS.items()}
    assert all(len(each) == 1 for each in advice.values())
    assert len(set().union(*advice.values())) == len(KINDS)
    for kind, word in NAMES.items():
        assert word in str(advice[kind])


def failed(
    reason: str | None, text: str = "failed", kind: type[ssl.SSLError] = ssl.SSLError
) -> ssl.SSLError:
    """An error as Python makes it of OpenSSL's, which has a name for most reasons."""
    error = kind(1, f"[SSL: {reason}] {text} (_ssl.c:1007)" if reason else text)
    error.reason = reason  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (failed(None, "connection has been closed (EOF)", ssl.SSLZeroReturnError), "close_notify"),
        (failed(None, "[SSL] unknown error (_ssl.c:1007)"), "close_notify"),
        (failed(None, "tlsv1 alert no application protocol (_ssl.c:1007)"), "no_application_protocol"),
        (failed("SSLV3_ALERT_BAD_RECORD_MAC"), "bad_record_mac"),
        (failed("WRONG_VERSION_NUMBER"), None),
        (failed(None, "something else"), None),
    ],
)  # fmt: skip
def test_errors_that_are_an_alert(error: ssl.SSLError, name: str | None) -> None:
    assert tls_alert(error) == name


# ------------------------------------------------------------------------------ what is no alert

FAILURES: dict[str, tuple[ssl.SSLError, str | None]] = {
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": (
        failed("UNSAFE_LEGACY_RENEGOTIATION_DISABLED"),
        "RFC 5746",
    ),
    "INTERNAL_ERROR": (failed("INTERNAL_ERROR"), "64 KB"),
    "internal error without a name": (
        failed(None, "[SSL] internal error (_ssl.c:1007)"),
        "64 KB",
    ),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        failed("PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        "give the peer a certificate",
    ),
    "UNSUPPORTED_PROTOCOL": (failed("UNSUPPORTED_PROTOCOL"), "TLS 1.2"),
    "WRONG_VERSION_NUMBER": (failed("WRONG_VERSION_NUMBER"), "TLS 1.2"),
    "BAD_LENGTH": (failed("BAD_LENGTH"), None),
    "without a name": (failed(None, "something else"), None),
}


@pytest.mark.parametrize("what", FAILURES)
def test_advice_on_a_failure_without_an_alert(what: str) -> None:
    error, word = FAILURES[what]
    advice = tls_advice(error)
    if word is None:
        assert advice is None
    else:
        assert word in str(advice)
    assert tls_alert(error) is None
    assert tls_reason(error) == (what.lower().replace("_", " ") if error.reason else str(error))
    assert not is_own_fault(caused_by(error))


def test_failures_that_this_openssl_makes_have_their_advice() -> None:
    """The names above are OpenSSL's own."""
    for data, word in (
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS 1.2"),
        (
            make_record(22, bytes([2, 0, 0, 38]) + b"\x03\x01" + bytes(32) + b"\0\x00\x2f\0"),
            "TLS 1.2",
        ),
        (
            make_record(22, bytes([2, 0, 0, 38]) + b"\x03\x03" + bytes(32) + b"\0\xc0\x2b\0"),
            "RFC 5746",
        ),
    ):
        incoming = ssl.MemoryBIO()
        tls = peer_context(Role.CLIENT).wrap_bio(incoming, ssl.MemoryBIO())
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        incoming.write(data)
        with pytest.raises(ssl.SSLError) as caught:
            tls.do_handshake()
        assert word in str(tls_advice(caught.value))


# ------------------------------------------------------------------------- certificates not verified


def caused_by(error: ssl.SSLError) -> Exception:
    made = Exception()
    made.__cause__ = error
    return made


def not_verified(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason = "CERTIFICATE_VERIFY_FAILED"
    error.verify_code, error.verify_message = code, f"message {code}"
    return error


OURS = {3: "missing", 8: "signature", 11: "not yet", 12: "expired", 33: "missing"}
"""OpenSSL's codes for a revocation list that is missing or can't be used."""


@pytest.mark.parametrize("code", [*OURS, 2, 10, 18, 20, 23])
def test_a_certificate_that_was_not_verified(code: int) -> None:
    error = not_verified(code)
    advice = str(tls_advice(error))
    assert f"message {code}" in tls_reason(error)
    assert is_own_fault(caused_by(error)) is (code in OURS)
    if code in OURS:
        assert OURS[code] in advice
        assert "our own" in advice
        assert "reload()" in advice
    else:
        assert "the peer's certificate" in advice
        assert "trust roots" in advice


def test_an_error_without_a_cause_is_not_our_own_fault() -> None:
    assert not is_own_fault(Exception())
