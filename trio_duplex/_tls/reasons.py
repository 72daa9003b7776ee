"""Translating an ``ssl.SSLError`` into a reason in TLS's terms, and advice on what to do."""

from __future__ import annotations

import ssl


def tls_alert(exc: ssl.SSLError) -> str | None:
    """Return the name of the peer's alert if an ``SSLError`` is due to one, else None."""
    # Python has no name for some reasons, such as no_application_protocol, but OpenSSL's text does.
    reason = exc.reason or str(exc).upper().partition(" (_SSL")[0].replace(" ", "_")
    if reason in _OTHER_NAMES:
        return _OTHER_NAMES[reason]
    if isinstance(exc, ssl.SSLZeroReturnError) or reason == "[SSL]_UNKNOWN_ERROR":
        return "close_notify"  # the first is for level warning, the second for level fatal
    _, is_alert, alert = reason.partition("_ALERT_")
    return alert.lower() if is_alert else None


# OpenSSL's names for the alerts of RFC 6066 lack the word ALERT, and it spells one alert differently.
_OTHER_NAMES = {
    "TLSV1_ALERT_USER_CANCELLED": "user_canceled",
    "TLSV1_UNRECOGNIZED_NAME": "unrecognized_name",
    "TLSV1_UNSUPPORTED_EXTENSION": "unsupported_extension",
    "TLSV1_CERTIFICATE_UNOBTAINABLE": "certificate_unobtainable",
    "TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE": "bad_certificate_status_response",
    "TLSV1_BAD_CERTIFICATE_HASH_VALUE": "bad_certificate_hash_value",
}

_CERTIFICATE = "the peer refused us: compare our certificate with what it trusts"
_PROTOCOL = (
    "the peer found a fault in what we sent, or something between us changes the bytes: read the "
    "peer's own log, and look for a middlebox"
)
_ADVICE = {
    **dict.fromkeys(
        ("protocol_version", "inappropriate_fallback"),
        "the two ends have no TLS version in common: the peer must allow TLS 1.2 or later",
    ),
    **dict.fromkeys(
        ("handshake_failure", "insufficient_security"),
        "the two ends have no cipher suite, group or signature algorithm in common, or the peer wants "
        "a certificate of another kind: allow ECDHE with AES-GCM or ChaCha20 at the peer, and compare "
        "the key types",
    ),
    "unrecognized_name": "the peer does not know this name: set server_hostname to one that it knows",
    "no_application_protocol": "the two ends have no ALPN protocol in common: compare alpn with what "
    "the peer offers",
    "certificate_expired": "our certificate has expired by the peer's clock: renew it, or set the clock",
    **dict.fromkeys(
        (
            "access_denied",
            "bad_certificate",
            "certificate_required",
            "certificate_revoked",
            "certificate_unknown",
            "decrypt_error",
            "unknown_ca",
            "unsupported_certificate",
        ),
        _CERTIFICATE,
    ),
    "internal_error": "the peer failed for a reason of its own: read its log",
    **dict.fromkeys(
        ("close_notify", "user_canceled"),
        "the peer gave up the handshake for a reason of its own: read its log",
    ),
}


def tls_reason(exc: ssl.SSLError) -> str:
    """Return the reason for an ``SSLError`` in TLS's own terms."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {exc.verify_message}"
    if (alert := tls_alert(exc)) is not None:
        return f"the peer's alert {alert}"
    return (exc.reason or "").lower().replace("_", " ") or str(exc)


def tls_advice(exc: ssl.SSLError) -> str | None:
    """Return what to do about an ``SSLError``, or None."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        if (trouble := _OUR_REVOCATION_LISTS.get(exc.verify_code)) is not None:
            return f"the fault is our own, not the peer's: {trouble}; fetch it, and reload()"
        return "check that the peer's certificate is valid and issued by one of our trust roots"
    reason = exc.reason or ""
    if (alert := tls_alert(exc)) is not None:
        return _ADVICE.get(alert, _PROTOCOL)
    if "UNSAFE_LEGACY_RENEGOTIATION" in reason:
        return "the peer's TLS is too old to renegotiate safely (RFC 5746): update it"
    if "INTERNAL_ERROR" in reason or "internal error" in str(exc):
        return (
            "OpenSSL failed. As TLS server it does so if the peer's certificate is too long for a "
            "session ticket (64 KB): give the peer a certificate with fewer names"
        )
    if "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return "give the peer a certificate: both roles must present one"
    if "UNSUPPORTED_PROTOCOL" in reason or "VERSION" in reason:
        return "the peer must speak TLS 1.2 or later"
    return None


def is_own_fault(error: BaseException) -> bool:
    """Whether a handshake failed because of our own revocation lists, which keep every peer out."""
    cause = error.__cause__
    return (
        isinstance(cause, ssl.SSLCertVerificationError)
        and cause.verify_code in _OUR_REVOCATION_LISTS
    )


# OpenSSL's X509_V_ERR_*, which have no names in Python. The alert that the peer gets for them, such
# as certificate_expired, looks as if its own certificate were at fault.
_OUR_REVOCATION_LISTS = {
    3: "a revocation list is missing for an authority of the peer's",
    8: "a revocation list has a bad signature",
    11: "a revocation list is not yet valid",
    12: "our revocation list has expired",
    33: "a revocation list is missing for an authority of the peer's",
}
