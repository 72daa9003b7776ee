"""Refusing a ClientHello whose server name (SNI) is not ASCII, before OpenSSL sees it.

If a context chooses certificates by name (``sni_callback``), Python decodes the name
as ASCII. When that fails, Python prints a traceback to stderr and answers with
internal_error, so any stranger could fill our log with tracebacks.
"""

from __future__ import annotations

from trio_duplex._wire.alerts import ALERT_UNRECOGNIZED_NAME
from trio_duplex._wire.cost import SERVER_NAME, Objection, extensions

_LIST_HEAD = 5
"""Bytes in front of the first name: length of the list (2), type of the name (1), length of the
name (2) (RFC 6066 section 3)."""


def object_to_name(message: bytes) -> Objection | None:
    """Return why the name that a ClientHello asks for can't be looked up; None if it can.

    Args:
        message: The ClientHello, including its header of four bytes.
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
