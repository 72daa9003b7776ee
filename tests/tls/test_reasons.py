"""What an alert of the peer's is called, and what is advised: `trio_duplex._tls.reasons`."""

from __future__ import annotations

import ssl

import pytest

from tests.support.peers import ALERT, peer_context, record
from trio_duplex import Role
from trio_duplex._tls.reasons import tls_advice, tls_alert


def alerted(code: int) -> ssl.SSLError:
    """What this OpenSSL makes of an alert in answer to a ClientHello."""
    incoming = ssl.MemoryBIO()
    tls = peer_context(Role.CLIENT).wrap_bio(incoming, ssl.MemoryBIO())
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    incoming.write(record(ALERT, bytes([2, code])))
    with pytest.raises(ssl.SSLError) as caught:
        tls.do_handshake()
    return caught.value


KINDS = {
    "version": {70: "protocol_version", 86: "inappropriate_fallback"},
    "cipher": {40: "handshake_failure", 71: "insufficient_security"},
    "name": {112: "unrecognized_name"},
    "ALPN": {120: "no_application_protocol"},
    "expired": {45: "certificate_expired"},
    "certificate": {42: "bad_certificate", 48: "unknown_ca", 49: "access_denied"},
    "gave up": {0: "close_notify", 90: "user_canceled"},
    "protocol": {10: "unexpected_message", 47: "illegal_parameter", 50: "decode_error"},
}


@pytest.mark.parametrize(
    ("code", "name"), [pair for kind in KINDS.values() for pair in kind.items()]
)
def test_alerts_are_known_by_name(code: int, name: str) -> None:
    assert tls_alert(alerted(code)) == name


def test_each_kind_has_advice_of_its_own() -> None:
    advice = {kind: {tls_advice(alerted(code)) for code in codes} for kind, codes in KINDS.items()}
    assert all(len(each) == 1 for each in advice.values())
    assert len(set().union(*advice.values())) == len(KINDS)
