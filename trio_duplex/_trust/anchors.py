"""Contexts whose trust grows while they are in use: only the compared trust roots count.

OpenSSL can look up trust roots in a directory (capath), and Python can't read from a
context that it does so. We notice only afterwards, because the number of certificates
that the context holds has grown. Any stranger can cause this, with a certificate that
names an issuer in that directory. So a grown context must not lock out peers that the
compared roots vouch for. Once it has grown, each peer's verified chain must contain one
of the compared roots.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence

import attrs
from cryptography import x509

from trio_duplex._role import Role
from trio_duplex._trust.own import without_deprecations
from trio_duplex._trust.seen import SeenCertificates
from trio_duplex._trust.symmetry import trusted_certificates

LOGGER = logging.getLogger("trio_duplex")


@attrs.frozen(eq=False)
class ComparedRoots:
    """The trust roots that two contexts had in common when they were compared.

    Attributes:
        number: How many certificates each context held.
        anchors: The certificates that a chain may end in, DER each.
    """

    number: int
    anchors: frozenset[bytes] = attrs.field(repr=False)
    _seen: SeenCertificates = attrs.field(factory=SeenCertificates, repr=False, init=False)
    _logged: set[Role] = attrs.field(factory=set[Role], repr=False, init=False)

    @classmethod
    def of(cls, context: ssl.SSLContext) -> ComparedRoots:
        """Take the trust roots of one of two contexts that have the same."""
        roots = context.get_ca_certs(binary_form=True)
        if not context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN:
            # Without partial chains, a chain can't end in an intermediate.
            roots = [root for root in roots if _is_self_issued(root)]
        return cls(trusted_certificates(context), frozenset(roots))

    def vouch_for(
        self,
        certificate: bytes,
        chain: Callable[[], Sequence[bytes]],
        context: ssl.SSLContext,
        role: Role,
    ) -> bool:
        """Whether the compared roots vouch for a peer that ``context`` has verified.

        Args:
            certificate: The peer's leaf certificate, DER.
            chain: Returns the chain as OpenSSL verified it, leaf first, DER each.
                It is empty on a resumed session; the compared roots must then
                have vouched for the certificate before.
            context: The context of ``role``.
            role: The TLS role that we play.
        """
        if trusted_certificates(context) != self.number:
            self._log_once(role)
            verified = chain()
            if self.anchors.isdisjoint(verified) if verified else certificate not in self._seen:
                return False
        self._seen.add(certificate)
        return True

    def _log_once(self, role: Role) -> None:
        if role not in self._logged:
            self._logged.add(role)
            LOGGER.error(
                "the %s context trusts more certificates than when it was compared with the other: "
                "OpenSSL has found a trust root in a directory (capath), or one was added. Peers that "
                "it vouches for are refused, because the other role may not trust it: load the trust "
                "roots of both contexts from files",
                role,
            )


def _is_self_issued(root: bytes) -> bool:
    with without_deprecations():
        certificate = x509.load_der_x509_certificate(root)
        return certificate.subject == certificate.issuer
