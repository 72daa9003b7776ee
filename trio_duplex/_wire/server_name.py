"""The name that a ClientHello asks for (SNI), told before OpenSSL sees it.

Where a context chooses certificates by name (``sni_callback``), Python decodes the
name as ASCII. If that fails, it prints a traceback to stderr for each such hello,
and answers with internal_error: any stranger could fill a log with that.
"""

from __future__ import annotations

from trio_duplex._wire.alerts import ALERT_UNRECOGNIZED_NAME
from trio_duplex._wire.cost import SERVER_NAME, Objection, extensions

_LIST_HEAD = 5
"""Length of the list, type of its first name, length of that (RFC 6066 section 3)."""


def object_to_name(message: bytes) -> Objection | None:
    """Say why nobody can look up the name that a ClientHello asks for; None if one can.

    Args:
        message: The ClientHello, its header of four bytes included.
    """
    name = (extensions(message) or {}).get(SERVER_NAME, b"")[_LIST_HEAD:]
    if name.isascii():
        return None
    return Objection(
        ALERT_UNRECOGNIZED_NAME,
        f"a ClientHello for the name {name[:64]!r}",
        "have the peer ask for the A-label, such as xn--bcher-kva.example (RFC 6066 section 3), "
        "or for no name",
        "the peer asks for a name that is not ASCII",
    )
