"""Remembering certificates whose chain was checked, because a resumed session has no chain."""

from __future__ import annotations

import hashlib

import attrs

_REMEMBERED = 4096
"""How many certificates are remembered at most; each takes 100 bytes."""


@attrs.frozen(eq=False)
class SeenCertificates:
    """Remembers the digests of the certificates that were added last."""

    _digests: dict[bytes, None] = attrs.field(factory=dict[bytes, None], repr=False, init=False)

    def __contains__(self, certificate: object) -> bool:
        return isinstance(certificate, bytes) and _digest(certificate) in self._digests

    def add(self, certificate: bytes) -> None:
        """Remember a certificate, DER."""
        digest = _digest(certificate)
        self._digests.pop(digest, None)
        self._digests[digest] = None
        if len(self._digests) > _REMEMBERED:
            del self._digests[next(iter(self._digests))]


def _digest(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()
