"""The chain that OpenSSL verified, on every supported Python."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Protocol


class _Certificate(Protocol):
    def public_bytes(self, format_: int, /) -> bytes: ...


_DER = 2  # _ssl.ENCODING_DER


def verified_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """The chain, leaf first, DER each.

    ``SSLObject.get_verified_chain`` came in Python 3.13. Before, since 3.10, it is
    a method of the object that an ``SSLObject`` wraps, and nowhere public. Where
    neither is there, the chain is empty, as it is on a resumed session: what
    depends on it must then refuse.
    """
    chain: Callable[[], Sequence[bytes]] | None
    chain = getattr(ssl_object, "get_verified_chain", None)
    if chain is not None:
        return tuple(chain())
    inner: Callable[[], Sequence[_Certificate] | None] | None
    inner = getattr(getattr(ssl_object, "_sslobj", None), "get_verified_chain", None)
    return () if inner is None else tuple(each.public_bytes(_DER) for each in inner() or ())
