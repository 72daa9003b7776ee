"""How a connection ends: the exit codes of ``trio-duplex connect``, and which error has which."""

from __future__ import annotations

import enum
import ssl

from trio_duplex import DuplexError, PeerRejectedError
from trio_duplex.cli._service.exits import Exit


class ConnectExit(enum.IntEnum):
    """The exit codes that only a connection has, beside those of a service."""

    ENDED = 0
    CUT = 1
    NO_TLS = 5
    REFUSED = 6


EXIT_CODES: dict[str, str] = {
    str(int(ConnectExit.ENDED)): "the peer finished, and all that it sent came",
    str(
        int(ConnectExit.CUT)
    ): "the connection broke, data may be missing; or output can't be written",
    str(int(Exit.USAGE)): "the command line is wrong",
    str(int(Exit.CREDENTIALS)): "our certificate, key, trust file or CRL can't be used",
    str(int(Exit.ADDRESS)): "no TCP connection: nobody listens there, or nobody came",
    str(
        int(ConnectExit.NO_TLS)
    ): "no TLS: the peer speaks something else, left, or its TLS does not fit",
    str(
        int(ConnectExit.REFUSED)
    ): "a certificate was refused: the peer's by us, or ours by the peer",
    "130, 143": "ended by SIGINT or SIGTERM",
}


def exit_code(error: DuplexError) -> ConnectExit:
    """The exit code of a negotiation that failed, or of a certificate that was refused late."""
    return ConnectExit.REFUSED if is_refusal(error) else ConnectExit.NO_TLS


def is_refusal(error: DuplexError) -> bool:
    """Whether an end was refused because of its certificate, rather than because TLS failed."""
    if isinstance(error, PeerRejectedError):
        return True
    cause = error.__cause__
    if not isinstance(cause, ssl.SSLError):
        return False
    # OpenSSL's names: TLSV1_ALERT_UNKNOWN_CA, CERTIFICATE_VERIFY_FAILED, ...
    reason = str(getattr(cause, "reason", None) or "")
    return any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED"))
