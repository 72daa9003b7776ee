"""Trusted certificates that vouch only for themselves, and not for what they have issued.

OpenSSL treats every certificate in a context's store as an anchor. With partial chains
allowed, a peer passes if it presents such a certificate itself. But many devices have a
self-signed certificate that is also an authority (``openssl req -x509`` makes such
certificates), and then OpenSSL would also accept every certificate that this one has
issued. So we check the peer again after OpenSSL: either its certificate is one of the
trusted certificates, or the verified chain contains an authority of ``trust``.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from trio_duplex._trust.seen import SeenCertificates


@attrs.frozen(eq=False)
class SelfVouching:
    """Decides which verified peers are admitted if there are ``trusted_certificates``.

    Attributes:
        certificates: The certificates (DER) that vouch only for themselves.
        authorities: The certificates (DER) that vouch for what they have issued.
    """

    certificates: frozenset[bytes] = attrs.field(repr=False)
    authorities: frozenset[bytes] = attrs.field(repr=False)
    _seen: SeenCertificates = attrs.field(factory=SeenCertificates, repr=False, init=False)

    def vouched_for(self, certificate: bytes, chain: Sequence[bytes]) -> bool:
        """Whether a peer that OpenSSL has verified is really trusted.

        Args:
            certificate: The peer's leaf certificate, DER.
            chain: The chain as OpenSSL verified it, leaf first, DER each. It is
                empty on a resumed session; the certificate must then have been
                vouched for with its chain before.
        """
        if certificate in self.certificates:
            return True
        if not chain:
            return certificate in self._seen
        if self.authorities.isdisjoint(chain):
            return False
        self._seen.add(certificate)
        return True
