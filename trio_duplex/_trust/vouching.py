"""Certificates that vouch for themselves and for nobody else, beside authorities.

OpenSSL takes whatever is in a context's store for an anchor: with partial chains
allowed, a certificate in it that is shown as it is is verified. But many devices
sign their own certificate as an authority (``openssl req -x509`` does so), and
OpenSSL would believe what such a one has issued, too. So the chain that it
verified is looked at once more: it must be a trusted certificate itself, or
contain an authority.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from trio_duplex._trust.seen import SeenCertificates


@attrs.frozen(eq=False)
class SelfVouching:
    """What `Credentials.mutual` was given as ``trusted_certificates``.

    Attributes:
        certificates: DER each; they vouch for themselves.
        authorities: DER each; they vouch for what they have issued.
    """

    certificates: frozenset[bytes] = attrs.field(repr=False)
    authorities: frozenset[bytes] = attrs.field(repr=False)
    _seen: SeenCertificates = attrs.field(factory=SeenCertificates, repr=False, init=False)

    def vouched_for(self, certificate: bytes, chain: Sequence[bytes]) -> bool:
        """Tell whether the verified certificate of a peer may be believed.

        Args:
            certificate: The leaf, DER.
            chain: The chain as OpenSSL verified it, leaf first, DER each. Empty
                on a resumed session: its certificate must have been seen before.
        """
        if certificate in self.certificates:
            return True
        if not chain:
            return certificate in self._seen
        if self.authorities.isdisjoint(chain):
            return False
        self._seen.add(certificate)
        return True
