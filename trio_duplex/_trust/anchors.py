"""Contexts whose trust grows while they serve: only what the two were seen to share vouches.

OpenSSL can look trust roots up in a directory (capath), and no context tells that it
does. That it has found one shows in the number of certificates that it holds. Any
stranger can bring that about, because it is enough that a certificate names an issuer
in that directory. So it must not lock out those whom the compared roots vouch for:
from then on, the chain that OpenSSL verified is looked at for one of these.
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
        anchors: Those that a chain may end in, DER each.
    """

    number: int
    anchors: frozenset[bytes] = attrs.field(repr=False)
    _seen: SeenCertificates = attrs.field(factory=SeenCertificates, repr=False, init=False)
    _told: set[Role] = attrs.field(factory=set[Role], repr=False, init=False)

    @classmethod
    def of(cls, context: ssl.SSLContext) -> ComparedRoots:
        """Those of one of the two contexts, which are known to be those of the other."""
        roots = context.get_ca_certs(binary_form=True)
        if not context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN:
            # An intermediate vouches for nobody then, unless its own issuer is there, too.
            roots = [root for root in roots if _is_self_issued(root)]
        return cls(trusted_certificates(context), frozenset(roots))

    def vouch_for(
        self,
        certificate: bytes,
        chain: Callable[[], Sequence[bytes]],
        context: ssl.SSLContext,
        role: Role,
    ) -> bool:
        """Tell whether a peer that ``context`` verified would have passed by the compared roots.

        Args:
            certificate: The leaf, DER.
            chain: Gives the chain as OpenSSL verified it, leaf first, DER each;
                empty on a resumed session, whose certificate must have been
                seen with its chain then.
            context: The context of ``role``.
            role: The TLS role that we play.
        """
        if trusted_certificates(context) != self.number:
            self._tell_once(role)
            verified = chain()
            if self.anchors.isdisjoint(verified) if verified else certificate not in self._seen:
                return False
        self._seen.add(certificate)
        return True

    def _tell_once(self, role: Role) -> None:
        if role not in self._told:
            self._told.add(role)
            LOGGER.error(
                "the %s context has come to trust more than when it was compared with the other: "
                "OpenSSL has found a trust root in a directory (capath), or one was added. Peers that "
                "it vouches for are refused, because the other role may not trust it: load the trust "
                "roots of both contexts from files",
                role,
            )


def _is_self_issued(root: bytes) -> bool:
    with without_deprecations():
        certificate = x509.load_der_x509_certificate(root)
        return certificate.subject == certificate.issuer
