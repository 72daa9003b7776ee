"""Testing our own certificate by handshakes in memory, where looking at it is not enough.

Whether OpenSSL accepts a key, a signature or a chain depends on its version, its
security level and the TLS version. So we load the certificate as
`~trio_duplex.Credentials.mutual` does, present it in each role and TLS version, and
verify it like a peer that knows our issuer: once as OpenSSL does by default, and once
strictly, as Python 3.13 does by default.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trio_duplex._role import Role
from trio_duplex._trust.identity import UNREADABLE
from trio_duplex._trust.mutual import Presented
from trio_duplex._trust.own import Check, Grade
from trio_duplex._trust.parameters import Parameters
from trio_duplex._trust.password import PasswordSource
from trio_duplex._trust.pem import CredentialsError

WHAT = "handshake"

FLIGHT_SIZE = 32 * 1024
"""How many bytes of certificates a peer accepts by default if it runs this library, too."""

_VERSIONS = {ssl.TLSVersion.TLSv1_2: "TLS 1.2", ssl.TLSVersion.TLSv1_3: "TLS 1.3"}

_NOT_NOW = {9, 10}
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED. These are ignored here: `check_chain`
reports them, for the time that the caller asks about."""


def rehearse(
    presented: Presented, roots: Sequence[x509.Certificate], password: PasswordSource
) -> list[Check]:
    """Present our certificate in each role and TLS version to a peer that knows its issuer.

    Args:
        presented: Our chain and key.
        roots: Authorities that the peer knows. The last certificate of our chain is
            added to them.
        password: The password of the key.
    """
    chain = [each.certificate for each in presented.chain]
    try:
        ours = {role: _context(role, presented, password) for role in Role}
        verifying = {
            strict: {
                role: _verifying(role, presented, password, (chain[-1], *roots), strict=strict)
                for role in Role
            }
            for strict in (False, True)
        }
    except (CredentialsError, ssl.SSLError) as exc:
        return [Check(WHAT, Grade.DEFECT, f"{exc}; get a new certificate, with another key")]
    checks: list[Check] = []
    size = sum(len(_der(certificate)) for certificate in chain)
    if size > FLIGHT_SIZE:
        detail = f"{size} bytes, and peers that run this library accept {FLIGHT_SIZE}"
        checks.append(Check("size of the chain", Grade.WARNING, detail))
    for role in Role:
        plain = _failures(ours[role], verifying[False][role.other], role)
        if plain:
            grade, detail = Grade.DEFECT, f"a peer that knows our issuer refuses us: {plain[0]}"
        elif strict := _failures(ours[role], verifying[True][role.other], role) or _missing(
            chain[0]
        ):
            grade = Grade.WARNING
            detail = f"peers that verify strictly, as Python 3.13 does, refuse us: {strict[0]}"
        else:
            grade, detail = Grade.OK, "TLS 1.2 and TLS 1.3, strictly verified"
        checks.append(Check(WHAT, grade, detail, role))
    return checks


def _context(role: Role, presented: Presented, password: PasswordSource) -> ssl.SSLContext:
    """Make a context that presents our certificate, and does not verify the peer's."""
    server = role is Role.SERVER
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    Parameters().apply(context)
    presented.load_into(context, password)
    return context


def _verifying(
    role: Role,
    presented: Presented,
    password: PasswordSource,
    anchors: Sequence[x509.Certificate],
    *,
    strict: bool,
) -> ssl.SSLContext:
    """Make the peer's context. As TLS server it needs a certificate, so it presents ours."""
    context = _context(role, presented, password)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=b"".join(map(_der, anchors)))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _failures(ours: ssl.SSLContext, peer: ssl.SSLContext, role: Role) -> list[str]:
    """Return why the handshake fails, for each TLS version in which it does."""
    server, client = (ours, peer) if role is Role.SERVER else (peer, ours)
    failures: list[str] = []
    for version, name in _VERSIONS.items():
        client.minimum_version = client.maximum_version = version
        try:
            _shake_hands(server, client)
        except ssl.SSLCertVerificationError as exc:
            if exc.verify_code not in _NOT_NOW:
                failures.append(f"{exc.verify_message} ({name})")
        except ssl.SSLError as exc:
            reason = (exc.reason or str(exc)).lower().replace("_", " ")
            failures.append(f"{reason} ({name})")
    return failures


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Do a handshake in memory.

    Raises:
        ssl.SSLError: The handshake failed, at either end.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="node.invalid"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    # One round trip in each pass. TLS 1.2 needs two; the last pass reads what is left.
    for _ in range(4):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    if waiting:
        raise ssl.SSLError("the handshake did not come to an end")


def _missing(leaf: x509.Certificate) -> list[str]:
    """Return what a strict peer would miss in our leaf, if OpenSSL does not check that here.

    OpenSSL is lenient with a certificate that is itself in the trust store.
    """
    if leaf.issuer == leaf.subject:
        return []
    try:
        leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (x509.ExtensionNotFound, *UNREADABLE):
        return ["Missing Authority Key Identifier"]
    if not leaf.subject.rdns and not _has_critical_names(leaf):  # RFC 5280 section 4.2.1.6
        return ["Subject empty and Subject Alt Name extension not critical"]
    return []


def _has_critical_names(leaf: x509.Certificate) -> bool:
    try:
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    except x509.ExtensionNotFound:
        return False


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
