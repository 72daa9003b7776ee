"""Certificates whose chain was looked at before: a resumed session shows none."""

from __future__ import annotations

import hashlib

import attrs

_REMEMBERED = 4096
"""How many, at most: 100 bytes each."""


@attrs.frozen(eq=False)
class SeenCertificates:
    """Remembers certificates by their digests, the latest of them."""

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
