"""How to negotiate: the options that every connection of a server shares, checked once."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import attrs

from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._seconds import check_seconds
from trio_duplex._sockets.address import Address

DEFAULT_HANDSHAKE_TIMEOUT = 30.0
"""Seconds. A handshake takes two round trips and some milliseconds of CPU; this
leaves room for several lost packets and a device that computes RSA slowly."""


SessionFinder = Callable[[Address | None], ssl.SSLSession | None]
"""A function from a peer's address to the TLS session to resume with it, or None."""


@attrs.frozen
class Settings:
    """How to negotiate, checked when it is made: before any socket is opened."""

    window: float = DEFAULT_WINDOW
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT
    https_compatible: bool = False
    session: SessionFinder | None = None

    def __attrs_post_init__(self) -> None:
        check_seconds("window", self.window)
        check_seconds("handshake_timeout", self.handshake_timeout)
        if self.session is not None and not callable(self.session):
            raise TypeError(
                f"session must be a function from an address to a TLS session, not {self.session!r}"
            )
