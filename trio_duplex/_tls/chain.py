"""Reading the chain that OpenSSL verified, on every supported Python."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Protocol


class _Certificate(Protocol):
    def public_bytes(self, format_: int, /) -> bytes: ...


_DER = 2  # _ssl.ENCODING_DER


def verified_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the chain, leaf first, DER each.

    ``SSLObject.get_verified_chain`` exists since Python 3.13. From 3.10 on, it is
    a method of the private object that an ``SSLObject`` wraps. If there is neither,
    the chain is empty, as on a resumed session. A caller that needs the chain must
    then refuse the peer.
    """
    chain: Callable[[], Sequence[bytes]] | None
    chain = getattr(ssl_object, "get_verified_chain", None)
    if chain is not None:
        return tuple(chain())
    inner: Callable[[], Sequence[_Certificate] | None] | None
    inner = getattr(getattr(ssl_object, "_sslobj", None), "get_verified_chain", None)
    return () if inner is None else tuple(each.public_bytes(_DER) for each in inner() or ())
