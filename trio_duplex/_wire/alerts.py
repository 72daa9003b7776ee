"""The TLS alerts: their numbers and their names."""

from __future__ import annotations

ALERT_UNEXPECTED_MESSAGE = 10
ALERT_RECORD_OVERFLOW = 22
ALERT_HANDSHAKE_FAILURE = 40
ALERT_CERTIFICATE_UNKNOWN = 46
ALERT_ILLEGAL_PARAMETER = 47
ALERT_ACCESS_DENIED = 49
ALERT_DECODE_ERROR = 50
ALERT_UNRECOGNIZED_NAME = 112
ALERT_NO_APPLICATION_PROTOCOL = 120


# RFC 8446, section 6, and what its predecessors and extensions add.
_ALERTS = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    21: "decryption_failed",  # RFC 5246, reserved
    22: "record_overflow",
    30: "decompression_failure",  # RFC 5246
    40: "handshake_failure",
    41: "no_certificate",  # SSL 3.0
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    52: "too_many_cids_requested",  # RFC 9146
    60: "export_restriction",  # RFC 5246, reserved
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",  # RFC 7507
    90: "user_canceled",
    100: "no_renegotiation",  # RFC 5246
    109: "missing_extension",
    110: "unsupported_extension",
    111: "certificate_unobtainable",  # RFC 6066
    112: "unrecognized_name",  # RFC 6066
    113: "bad_certificate_status_response",  # RFC 6066
    114: "bad_certificate_hash_value",  # RFC 6066
    115: "unknown_psk_identity",  # RFC 4279
    116: "certificate_required",
    117: "general_error",
    120: "no_application_protocol",  # RFC 7301
    121: "ech_required",  # RFC 9849
}


def alert_name(code: int) -> str:
    """Name a TLS AlertDescription, as the RFCs and OpenSSL's logs do.

    Args:
        code: The description byte of the alert.

    Returns:
        For instance ``"unknown_ca"``, or ``"unknown alert 200"``.
    """
    return _ALERTS.get(code, f"unknown alert {code}")
