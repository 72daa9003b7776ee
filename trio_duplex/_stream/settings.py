"""How to negotiate: the options that every connection of a server shares, checked once."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable

import attrs

from trio_duplex._decision.policy import Fixed, Window, WindowPolicy, as_policy
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._seconds import check_seconds
from trio_duplex._sockets.address import Address
from trio_duplex._sockets.unsent import DEFAULT_UNSENT
from trio_duplex._tls.handshake import MAX_CERTIFICATE_BYTES

DEFAULT_HANDSHAKE_TIMEOUT = 30.0
"""Seconds. A handshake takes two round trips and some milliseconds of CPU; this
leaves room for several lost packets and a device that computes RSA slowly."""

CLOSE_TIMEOUT = 5.0
"""Seconds for a graceful close to send what is left and the close_notify. It
fits one TCP retransmission (3 s); a peer that does not read is not owed more."""

SessionFinder = Callable[[Address | None], ssl.SSLSession | None]
"""A function from a peer's address to the TLS session to resume with it, or None."""


def _policy(window: Window) -> WindowPolicy:
    return as_policy(window)


@attrs.frozen
class Settings:
    """How to negotiate, checked when it is made: before any socket is opened."""

    window: WindowPolicy = attrs.field(default=Fixed(DEFAULT_WINDOW), converter=_policy)
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT
    https_compatible: bool = False
    session: SessionFinder | None = None
    max_certificate_bytes: int = MAX_CERTIFICATE_BYTES
    announcements: bool = True
    close_timeout: float = CLOSE_TIMEOUT
    idle_timeout: float = math.inf
    send_timeout: float = math.inf
    unsent_bytes: float | None = DEFAULT_UNSENT
    """None leaves the socket as it is."""

    def __attrs_post_init__(self) -> None:
        check_seconds("handshake_timeout", self.handshake_timeout)
        if self.session is not None and not callable(self.session):
            raise TypeError(
                f"session must be a function from an address to a TLS session, not {self.session!r}"
            )
        if isinstance(self.max_certificate_bytes, bool) or self.max_certificate_bytes < 1:
            raise ValueError(
                f"max_certificate_bytes must be 1 or more bytes, not {self.max_certificate_bytes!r}"
            )
