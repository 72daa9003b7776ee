"""No weaker role: comparing what two TLS contexts demand of the peer.

The peer chooses the role. So if the two contexts made different demands, the peer
could choose the weaker check. A setting that can't be compared, because Python can't
read it from a context, counts as different.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import cast

from cryptography import x509

from trio_duplex._role import Role
from trio_duplex._trust.probe import (
    offers_shared_key,
    presented_certificates,
    takes_shared_key,
)
from trio_duplex._trust.settings import rejected_roots

FLOOR = ssl.TLSVersion.TLSv1_2
"""The lowest TLS version in either role (RFC 9325 section 3.1.1)."""


def unfitness(context: ssl.SSLContext, role: Role) -> str | None:
    """Return why a context is unfit for its role, whatever the other context is; None if it is fit."""
    wrong = ssl.PROTOCOL_TLS_CLIENT if role is Role.SERVER else ssl.PROTOCOL_TLS_SERVER
    if context.protocol is wrong or context.protocol not in _EITHER:
        return f"the {role} context is a {context.protocol.name}; make one for its role"
    lowest = lowest_version(context)
    if lowest is None:
        return f"the {role} context allows no TLS version at all"
    if lowest < FLOOR:
        return (
            f"the {role} context allows {lowest.name}; "
            "set its minimum_version to ssl.TLSVersion.TLSv1_2 or later"
        )
    # RFC 9257 section 4.1: with a shared key, the two holders, and so their roles, can't be
    # distinguished.
    if takes_shared_key(context) if role is Role.SERVER else offers_shared_key(context):
        return (
            f"the {role} context authenticates by a pre-shared key, which proves no identity; "
            "remove its PSK callback, and give peers certificates"
        )
    return None


_EITHER = {ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER}

_VERSIONS = {
    ssl.TLSVersion.SSLv3: ssl.OP_NO_SSLv3,
    ssl.TLSVersion.TLSv1: ssl.OP_NO_TLSv1,
    ssl.TLSVersion.TLSv1_1: ssl.OP_NO_TLSv1_1,
    ssl.TLSVersion.TLSv1_2: ssl.OP_NO_TLSv1_2,
    ssl.TLSVersion.TLSv1_3: ssl.OP_NO_TLSv1_3,
}


def lowest_version(context: ssl.SSLContext) -> ssl.TLSVersion | None:
    """Return the lowest version that a context allows, by ``minimum_version`` and by ``OP_NO_*``."""
    lowest, highest = context.minimum_version, context.maximum_version
    for version, forbidden in _VERSIONS.items():
        if version < lowest or context.options & forbidden:
            continue
        # MAXIMUM_SUPPORTED is negative.
        if highest is ssl.TLSVersion.MAXIMUM_SUPPORTED or version <= highest:
            return version
    return None


def differences(
    server: ssl.SSLContext, client: ssl.SSLContext, *, anonymous_clients: bool = False
) -> tuple[str, ...]:
    """Return a clause for each demand on the peer that one role makes and the other does not.

    Args:
        server: The context for the server role.
        client: The context for the client role.
        anonymous_clients: Whether the server role is meant to admit peers without
            a certificate. This difference is then not reported.
    """
    found: list[str] = []
    for role, context in ((Role.SERVER, server), (Role.CLIENT, client)):
        expected = ssl.CERT_REQUIRED
        if anonymous_clients and role is Role.SERVER:
            expected = ssl.CERT_OPTIONAL
        if context.verify_mode is not expected:
            found.append(_wrong_verify_mode(role, context.verify_mode, expected))
        if context.verify_mode is not ssl.CERT_NONE and not trusted_certificates(context):
            found.append(
                f"the trust roots of the {role} role can't be read: there are none, or OpenSSL "
                "looks them up in a directory (capath); load them from a file"
            )
        if pinned := _trusted_non_authorities(context):
            found.append(
                f"the {role} role trusts {pinned} certificates that are not authorities, which "
                "can't be compared; use peer=PinnedPeer(...) instead"
            )
    if server.post_handshake_auth:
        found.append(
            "the server role does not require the peer's certificate in the handshake "
            "(post_handshake_auth)"
        )
    if server.sni_callback is not None:
        found.append(
            "the server role may switch to other contexts (sni_callback), which can't be "
            "compared; Credentials.mutual(certificates_by_name=...) switches only certificates"
        )
    if client.check_hostname:
        found.append(
            "the client role checks host names (check_hostname) and the server role can't; "
            "turn it off, and name the peer by peer=NamedPeer(...)"
        )
    elif server.check_hostname:
        found.append(
            "the server role is to check host names (check_hostname), but Python does that only in "
            "the client role; turn it off, and name the peer by peer=NamedPeer(...)"
        )
    for what, value_of in _DEMANDS.items():
        ours, theirs = value_of(server), value_of(client)
        if ours != theirs:
            found.append(
                f"{what} differ: {_show(ours)} in the server role, "
                f"{_show(theirs)} in the client role"
            )
    return (*found, *_different_settings(server, client))


def _different_settings(server: ssl.SSLContext, client: ssl.SSLContext) -> Iterator[str]:
    """Find trust roots that OpenSSL's settings reject in only one of the roles.

    ``openssl x509 -addtrust`` and ``-addreject`` make such settings.
    """
    if ssl.CERT_NONE in (server.verify_mode, client.verify_mode):
        return  # reported by `differences`
    roots = _trust_roots(server)
    if roots != _trust_roots(client):
        return  # reported by `differences`
    rejected = {
        role: rejected_roots(context, role, roots)
        for role, context in ((Role.SERVER, server), (Role.CLIENT, client))
    }
    for role, by_role in rejected.items():
        by_other = rejected[role.other]
        if by_role is None:
            if presented_certificates(server, client):  # otherwise no handshake can succeed at all
                yield (
                    f"OpenSSL's trust settings can't be found out in the {role} role, because its "
                    "context can't do a TLS 1.2 handshake in memory"
                )
        elif by_other is not None and (only := by_role - by_other):
            yield (
                f"{len(only)} trust roots are rejected in the {role} role only, by the settings of "
                "OpenSSL's TRUSTED CERTIFICATE blocks; load plain ones "
                f"(openssl x509 -in FILE -out PLAIN): {', '.join(sorted(map(_subject, only))[:3])}"
            )


def _wrong_verify_mode(role: Role, mode: ssl.VerifyMode, expected: ssl.VerifyMode) -> str:
    if expected is ssl.CERT_REQUIRED:
        wrong = f"the {role} role does not require the peer's certificate"
    else:
        wrong = (
            f"the {role} role does not ask for a certificate and also admit peers without one, as "
            "anonymous_clients=True demands"
        )
    return f"{wrong} (verify_mode is {mode.name}, not {expected.name})"


def trust_alike(former: ssl.SSLContext, present: ssl.SSLContext) -> bool:
    """Whether a peer that one context has verified would also pass the other.

    Settings that can't be compared count as different: revocation lists (only
    their number can be read), trusted certificates that are not authorities, and
    roots in a directory.
    """
    if former is present:
        return True
    if ssl.CERT_NONE in (former.verify_mode, present.verify_mode):
        return former.verify_mode is present.verify_mode
    stats = former.cert_store_stats(), present.cert_store_stats()
    if any(each["crl"] or not each["x509"] or each["x509"] > each["x509_ca"] for each in stats):
        return False
    return all(value_of(former) == value_of(present) for value_of in _DEMANDS.values())


def trusted_certificates(context: ssl.SSLContext) -> int:
    """Return how many certificates a context holds as trusted, as far as is known.

    OpenSSL may look up trust roots in a directory. Such a root is counted only
    after the first handshake that needed it. The directories of a context can't
    be read in Python, but that one of them was used shows in this number.
    """
    return context.cert_store_stats()["x509"]


def _trusted_non_authorities(context: ssl.SSLContext) -> int:
    return trusted_certificates(context) - context.cert_store_stats()["x509_ca"]


def _subject(root: bytes) -> str:
    return repr(x509.load_der_x509_certificate(root).subject.rfc4514_string())


def _trust_roots(context: ssl.SSLContext) -> frozenset[bytes]:
    return frozenset(context.get_ca_certs(binary_form=True))


_DEMANDS: dict[str, Callable[[ssl.SSLContext], object]] = {
    "trust roots": _trust_roots,
    "numbers of revocation lists": lambda context: context.cert_store_stats()["crl"],
    "minimum TLS versions": lowest_version,
    "verify_flags": lambda context: context.verify_flags,
    "security levels": lambda context: context.security_level,
    "ciphers": lambda context: frozenset(cipher["name"] for cipher in context.get_ciphers()),
}


def _show(value: object) -> str:
    match value:
        case frozenset():
            return f"a set of {len(cast('frozenset[object]', value))}"
        case ssl.TLSVersion() | ssl.VerifyFlags():
            return value.name or repr(value)
        case _:
            return str(value)
