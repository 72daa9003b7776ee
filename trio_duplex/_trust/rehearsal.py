"""Shake hands with ourselves in memory: what no look at a certificate can tell, TLS tells.

Whether OpenSSL takes a key, a signature or a chain depends on its version, its
security level and the TLS version. So the certificate is loaded as
`~trio_duplex.Credentials.mutual` would load it, presented in each role and TLS
version, and verified as a peer would that knows our issuer: as OpenSSL does by
default, and strictly, as Python 3.13 does by default.
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
"""Bytes of certificates that a peer takes by default, if it runs this library too."""

_VERSIONS = {ssl.TLSVersion.TLSv1_2: "TLS 1.2", ssl.TLSVersion.TLSv1_3: "TLS 1.3"}

_NOT_NOW = {9, 10}
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED: `check_chain` says so, and
knows for which time it is asked."""


def rehearse(
    presented: Presented, roots: Sequence[x509.Certificate], password: PasswordSource
) -> list[Check]:
    """Present our certificate in each role and TLS version to a peer that knows its issuer.

    Args:
        presented: Chain and key.
        roots: Authorities; where our own is not among them, the chain's last is taken for known.
        password: Of the key.
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
        return [Check(WHAT, Grade.DEFECT, f"{exc}; have it issued anew, with another key")]
    checks: list[Check] = []
    size = sum(len(_der(certificate)) for certificate in chain)
    if size > FLIGHT_SIZE:
        detail = f"{size} bytes, and peers that run this library take {FLIGHT_SIZE}"
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
    """A context of ours, which looks at no certificate of the peer's."""
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
    """A peer's context; as TLS server it needs a certificate, and has ours."""
    context = _context(role, presented, password)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=b"".join(map(_der, anchors)))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _failures(ours: ssl.SSLContext, peer: ssl.SSLContext, role: Role) -> list[str]:
    """Why the handshake fails, for each TLS version where it does."""
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
        ssl.SSLError: It failed, at either end.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="node.invalid"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    # A round trip each; TLS 1.2 has two, and the last reads what is left.
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
    """What a strict peer misses that OpenSSL does not ask of a certificate that it was told to trust."""
    try:
        if leaf.issuer == leaf.subject:
            return []
        leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (x509.ExtensionNotFound, *UNREADABLE):
        return ["Missing Authority Key Identifier"]
    return []


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
